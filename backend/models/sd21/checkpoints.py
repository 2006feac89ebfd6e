"""Find, check and load a Stable Diffusion 2.1 checkpoint: a diffusers folder, a single file, or a hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.utils import logging as diffusers_logging
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from ....shared.protocol.errors import WeightsError
from ....shared.weights import WEIGHTS
from ...jobs.progress import ProgressReporter
from ...pipelines.multiview import MultiViewPipeline
from .. import config_bounds, folders, hub, parts, weights
from ..parts import Part
from . import single_file

_WEIGHTS = WEIGHTS["sd21"]
BASE_ID = _WEIGHTS.repository
#: Embeddings of the prompts that a model without text encoder knows: prompt_embeds, negative_prompt_embeds.
PROMPT_EMBEDS = "prompt_embeds.safetensors"
_TOKENIZER = "tokenizer/*"

_AGAIN = "Use Stable Diffusion 2.1-base, or download it again."
_FORMS = "Give a diffusers folder of Stable Diffusion 2.1, a single .safetensors file, or a hub id."


@dataclass(frozen=True)
class Base:
    """A base checkpoint, checked."""

    path: Path
    unet: Part
    vae: Part
    scheduler: PNDMScheduler
    #: Files of the text encoder; none in a model without one.
    text_encoder: tuple[Path, ...]

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Return the memory of U-Net and VAE in that precision, in bytes."""
        return (self.unet.parameters + self.vae.parameters) * dtype.itemsize


def locate(model: str | None, reporter: ProgressReporter | None) -> tuple[Path, str, str | None]:
    """Find the base model `model`; download it if needed (without a `reporter`: don't download).

    Return its folder or file, its name, and `model` with a hub id pinned to the revision. Raise WeightsError.
    """
    local = folders.models_folder() / _WEIGHTS.folder
    name = model or (str(local) if local.exists() else BASE_ID)
    path = folders.expanded(name)
    if path.exists():
        return path, name, model
    if not hub.is_id(name):
        raise WeightsError(f"There is no folder or file {name}.", _FORMS)
    path = hub.fetch(name, _WEIGHTS.files, local, reporter)
    if not any((path / "unet").glob("*.safetensors")):
        path = hub.fetch(name, _WEIGHTS.instead, local, reporter)
    return path, name, hub.pinned(name, path)


def inspect(path: Path) -> Base:
    """Check the headers of the base checkpoint at `path`. Raise WeightsError unless a complete Stable Diffusion 2."""
    base = _inspect_folder(path) if path.is_dir() else _inspect_file(path)
    config = base.unet.config
    if not config["use_linear_projection"]:
        raise WeightsError(
            f"{path} is Stable Diffusion 1, not 2.1: the transformers of its U-Net have convolutions (proj_in) of "
            f"{config['cross_attention_dim']} text channels.", _AGAIN,
        )  # fmt: skip
    channels = base.vae.config["latent_channels"]
    if config["in_channels"] != channels:
        raise WeightsError(
            f"{path} takes {config['in_channels']} channels (conv_in), not {channels}: it is made for inpainting or "
            "depth.", _AGAIN,
        )  # fmt: skip
    for part in (base.unet, base.vae):
        parts.check_tensors(part, _AGAIN)
    return base


def _inspect_folder(folder: Path) -> Base:
    index = parts.read_json(folder / "model_index.json", expected=_FORMS)
    if index.get("_class_name") not in ("StableDiffusionPipeline", "MultiViewPipeline"):
        raise WeightsError(f"{folder} is a {index.get('_class_name')}, not a StableDiffusionPipeline.", _AGAIN)
    file = folder / "scheduler" / "scheduler_config.json"
    config = parts.read_json(file)
    # Only its betas and its type of prediction are used.
    scheduler = parts.built(PNDMScheduler, config, file, _AGAIN)
    encoder = next((found for found in _text_files(folder) if found.is_file()), None)
    return Base(
        folder,
        parts.part_of_folder(folder / "unet", UNet2DConditionModel, _AGAIN),
        parts.part_of_folder(folder / "vae", AutoencoderKL, _AGAIN),
        scheduler,
        () if encoder is None else (encoder,),
    )


def _text_files(folder: Path) -> tuple[Path, Path]:
    return folder / "text_encoder" / "model.safetensors", folder / "text_encoder" / "model.fp16.safetensors"


def _inspect_file(file: Path) -> Base:
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{file.name} is not a .safetensors file.", "Only safetensors files are loaded; others can run code."
        )
    header = parts.read_header(file)
    unet = single_file.unet(file, header)
    scheduler = PNDMScheduler(**single_file.scheduler_config(file))
    has_encoder = any(key.startswith(single_file.TEXT_PREFIX) for key in header)
    return Base(file, unet, single_file.vae(file, header), scheduler, (file,) if has_encoder else ())


def load(base: Base, dtype: torch.dtype, reporter: ProgressReporter) -> MultiViewPipeline:
    """Load the pipeline on the CPU, without adapter. Raise WeightsError, and Cancelled from `reporter`."""
    encoder, tokenizer = _text(base, dtype, reporter)
    return MultiViewPipeline(
        vae=parts.load(base.vae, dtype),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=parts.load(base.unet, dtype),
        scheduler=base.scheduler,
    )


def _text(base: Base, dtype: torch.dtype, reporter: ProgressReporter) -> tuple[Any, Any]:
    """Load text encoder and tokenizer; (None, None) for a model without."""
    if not base.text_encoder:
        return None, None
    # Their progress bars would overwrite ours.
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
    (file,) = base.text_encoder
    folder = base.path if base.path.is_dir() else base.path.parent
    if base.path.is_dir():
        config_bounds.check_folder(folder, _AGAIN)
        weights.refuse_pickle(file)
    try:
        if base.path.is_dir():
            variant = "fp16" if ".fp16" in file.name else None
            loaded: Any = CLIPTextModel.from_pretrained(
                file.parent, variant=variant, dtype=dtype, use_safetensors=True, local_files_only=True,
                output_loading_info=True,
            )  # fmt: skip
            model, info = loaded
            if missing := sorted(info["missing_keys"]):
                raise WeightsError(f"{file} lacks {len(missing)} tensors ({missing[0]}).", _AGAIN)
        else:
            with weights.opened(file) as tensors:
                names = [key for key in tensors.keys() if key.startswith(single_file.TEXT_PREFIX)]  # noqa: SIM118
                state = {key.removeprefix(single_file.TEXT_PREFIX): tensors.get_tensor(key).to(dtype) for key in names}
            model = single_file.text_encoder(state, file)
            if not (folder / "tokenizer").is_dir():
                folder = hub.fetch(BASE_ID, [_TOKENIZER], folder, reporter)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except WeightsError:
        raise
    except Exception as error:  # transformers checks no configs: one can make it raise anything
        raise WeightsError(f"The text encoder of {base.path} can't be loaded: {error}", _AGAIN) from error
    return model.eval().requires_grad_(False), tokenizer
