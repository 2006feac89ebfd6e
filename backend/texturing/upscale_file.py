"""Enlarge views with an image upscaler (ESRGAN, SwinIR, DAT …) from a file of the user's, which spandrel recognises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...shared.file_errors import is_file
from ...shared.protocol.errors import BackendMissingError, WeightsError
from ..models import weights

_CHOOSE = "Choose an upscaler of pictures that spandrel reads, as .safetensors."


def load(file: Path, device: torch.device) -> Any:
    """Return an upscaler in float32, spandrel's ImageModelDescriptor. Raise WeightsError, BackendMissingError.

    The file is opened here, safetensors only: spandrel itself also reads pickles.
    """
    if not is_file(file):
        raise WeightsError(f"There is no file {file}.", _CHOOSE)
    state = weights.load(file, WeightsError, _CHOOSE)
    try:
        import spandrel  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision, which it needs, is of another torch
        missing = isinstance(error, ModuleNotFoundError) and error.name == "spandrel"
        problem = "isn't installed" if missing else f"can't be imported: {error}"
        raise BackendMissingError(
            f"spandrel, which reads upscalers, {problem}.",
            f'Install it: "{sys.executable}" -m pip install "spandrel>=0.4"; or choose another way to upscale.',
        ) from error
    try:
        model = spandrel.MAIN_REGISTRY.load(spandrel.canonicalize_state_dict(state))
    except Exception as error:  # it derives architectures from shapes of any kind: a file can make it raise anything
        raise WeightsError(f"{file} can't be used to upscale: {error or type(error).__name__}", _CHOOSE) from error
    colours = (getattr(model, "input_channels", 0), getattr(model, "output_channels", 0))
    if not isinstance(model, spandrel.ImageModelDescriptor) or model.scale < 2 or colours != (3, 3):
        raise WeightsError(f"{file} is {model.architecture.name}, but it doesn't enlarge pictures.", _CHOOSE)
    return model.to(device).float().eval()


@torch.no_grad()
def enlarge(model: Any, images: Tensor, file: Path, check_cancelled: Callable[[], None]) -> Tensor:
    """Enlarge images (N, 3, H, W) in [0, 1] to (N, 3, 2·H, 2·W), one after the other.

    What enlarges by more is averaged. Raise WeightsError for NaN or infinite values.
    """
    size = [2 * side for side in images.shape[-2:]]
    results = []
    for image in images:
        check_cancelled()
        result = model(image[None].float())
        if not torch.isfinite(result).all():
            raise WeightsError(f"{file} makes NaN or infinite values.", _CHOOSE)
        results.append(F.interpolate(result, size, mode="bicubic", antialias=True) if model.scale != 2 else result)
    return torch.cat(results).clamp(0, 1)
