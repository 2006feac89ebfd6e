"""Views of unseen random objects beside the truth, by the pipeline itself: figures and a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models import weights
from ...models.sd21.checkpoints import PROMPT_EMBEDS
from ...pipelines.multiview import MultiViewPipeline
from ..fit import contact_sheet
from . import fit
from .architecture import TASK
from .render import Renderer

#: Seed of the objects, below those of training.
_SEED = 0


def evaluate(
    folder: Path, sheet: Path, objects: int, size: int, steps: int, guidance: float, *, exact: bool = False
) -> str:
    """Draw views of `objects` unseen objects; write a contact sheet and return a line with figures.

    The sheet has a row for each object: its reference picture, six views, and their truth. The figures are the PSNR
    of the object's pixels, of the front view and of all views, and that of the mean colour of the reference picture's
    object as a baseline. `exact`: as of `Renderer`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipeline = MultiViewPipeline.from_pretrained(folder, text_encoder=None, tokenizer=None, use_safetensors=True).to(
        device
    )
    pipeline.load_adapter(folder, TASK)
    pipeline.set_progress_bar_config(disable=True)
    prompts = weights.load(folder / PROMPT_EMBEDS)
    drawn = Renderer(device, compiled=device.type == "cuda", exact=exact).render(objects, _SEED, size)
    rows, scores = [], []
    for index in range(objects):
        control, reference, truth = drawn.control[index], drawn.reference[index], drawn.views[index]
        images: Any = pipeline(
            TASK, control, reference[None] * 2 - 1, num_inference_steps=steps, guidance_scale=guidance,
            scheduler="ddim", generator=torch.Generator().manual_seed(index),
            prompt_embeds=prompts["prompt_embeds"].float(),
            negative_prompt_embeds=prompts["negative_prompt_embeds"].float(),
        ).images  # fmt: skip
        mask = fit.object_mask(control)
        inside = (reference - 0.5).abs().amax(0) > 0.02
        mean = reference[:, inside].mean(1)[None, :, None, None].expand_as(truth)
        scores.append(
            torch.stack([_psnr(images[:1], truth[:1], mask[:1]), _psnr(images, truth, mask), _psnr(mean, truth, mask)])
        )
        rows.append(torch.cat([reference[None], images, truth]))
    contact_sheet(sheet, torch.stack(rows).cpu())
    front, every, baseline = torch.stack(scores).mean(0).tolist()
    return f"{objects} objects: front {front:.1f} dB, all views {every:.1f} dB, mean colour {baseline:.1f} dB"


def _psnr(shown: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Return the PSNR in dB of pictures (N, 3, H, W) where mask (N, 1, H, W) is 1."""
    error = ((shown - wanted).square() * mask).sum() / mask.sum().clamp_min(1) / 3
    return -10 * torch.log10(error)
