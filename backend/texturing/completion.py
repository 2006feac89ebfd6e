"""What a reference picture doesn't show of a mesh, guessed by a small multi-view model in one step.

The engine projection spreads the front's colours over the surface; the model changes the six views of that where the
picture doesn't show them. Its weights are in `backend/starter/views/` (see the README there).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from ..models import parts, weights
from ..models.sd21 import adapter
from ..models.sd21.checkpoints import PROMPT_EMBEDS
from ..pipelines import multiview
from ..pipelines.layers import multiview_attention
from ..pipelines.layers.multiview_attention import MultiViewState

TASK = "ig2mv"
VIEWS = 6
#: Side of the blocks of pixels that the U-Net has in place of latents.
BLOCK = 4
#: Side of the views in pixels, at which the model was trained.
SIDE = 128
#: Folder of the weights that come with Panoform, and their name in records.
BUNDLED = Path(__file__).parents[1] / "starter" / "views"
NAME = "built in"
#: Timesteps of the two passes: over the front, as MV-Adapter's, and over the views.
_FRONT, _VIEWS = 0, 1


@dataclass(frozen=True)
class Model:
    """The model in memory."""

    unet: Any
    encoder: nn.Module
    #: (1, tokens, dim)
    prompt: Tensor


def read(folder: Path, device: torch.device) -> Model:
    """Read the model, in float32. Raise WeightsError, AdapterError for files that are damaged or missing."""
    unet = parts.load(parts.part_of_folder(folder / "unet", UNet2DConditionModel), torch.float32).to(device)
    encoder = multiview.fill_adapter(unet, adapter.find(folder, TASK), TASK, BLOCK)
    prompt = weights.load(folder / PROMPT_EMBEDS)["prompt_embeds"].to(device, torch.float32)
    return Model(unet, encoder, prompt)


@functools.cache
def bundled() -> Model:
    """Return the model that comes with Panoform, on the CPU. Raise as `read`."""
    return read(BUNDLED, torch.device("cpu"))


@torch.no_grad()
def completed(model: Model, views: np.ndarray, seen: np.ndarray, control: np.ndarray) -> np.ndarray:
    """Return an object's views as the model guesses them where they aren't known, (6, SIDE, SIDE, 3) sRGB in [0, 1].

    `views`: (6, SIDE, SIDE, 3) sRGB in [0, 1], grey without the object. `seen`: (6, SIDE, SIDE) bool, where they are
    known and stay. `control`: (6, SIDE, SIDE, 6), as `cameras.control_image`.
    """

    def stacked(images: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1), np.float32))

    made = complete(
        model.unet, model.encoder, model.prompt,
        stacked(views), stacked(seen[..., None]), stacked(control), MultiViewState(),
    )  # fmt: skip
    guessed = np.moveaxis(made.clamp(0, 1).numpy(), 1, -1)
    if seen.any():  # no colours that nothing shows: what has one colour keeps it
        guessed = guessed.clip(views[seen].min(axis=0), views[seen].max(axis=0))
    return np.where(seen[..., None], views, guessed)


def complete(
    unet: Any, encoder: nn.Module, prompt: Tensor, views: Tensor, seen: Tensor, control: Tensor, state: MultiViewState
) -> Tensor:
    """Return the views of B objects as the model guesses them, (B · 6, 3, H, H), not clipped.

    Args:
        unet: with the adapter's processors (`multiview_attention.install`).
        encoder: of control images, a T2IAdapter.
        prompt: (1, tokens, dim).
        views: (B · 6, 3, H, H) sRGB in [0, 1]; the first of each object is its front.
        seen: (B · 6, 1, H, H) in {0, 1}: where the views are known.
        control: (B · 6, 6, H, H) in [0, 1], as `cameras.control_image`.
        state: a new one; for several objects, one that the processors know to divide.
    """
    blocks = F.pixel_unshuffle(torch.cat([views, seen], dim=1) * 2 - 1, BLOCK)
    features = list(encoder(control))
    count = len(blocks) // VIEWS
    with multiview_attention.active(unet, state):
        unet(blocks[::VIEWS], _FRONT, prompt.expand(count, -1, -1))
        state.views = VIEWS
        change = unet(
            blocks,
            _VIEWS,
            prompt.expand(len(blocks), -1, -1),
            down_intrablock_additional_residuals=features,
            return_dict=False,
        )[0]
    return views + F.pixel_shuffle(change, BLOCK)
