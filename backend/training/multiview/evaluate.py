"""Completed views of unseen random objects beside the truth: figures and a contact sheet."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..fit import contact_sheet
from . import fit, model, spread
from .render import Renderer

#: Seed of the objects, below those of training.
_SEED = 0
_TOGETHER = 8


@torch.no_grad()
def evaluate(checkpoints: Path, sheet: Path, objects: int, size: int, *, exact: bool = False) -> str:
    """Complete the views of `objects` unseen objects; write a contact sheet and return lines with figures.

    The sheet has three rows for each of the first objects: what the projection makes, what the model makes of it, and
    the truth. The figures are the PSNR of the pixels that the front doesn't show, for objects by their number of
    parts, and the share of objects that became worse by over 0.1 dB. `exact`: as of `Renderer`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    views = fit.load_average(checkpoints).to(device).eval()
    renderer = Renderer(device, exact=exact)
    rows, before, after = [], [], []
    for first in range(0, objects, _TOGETHER):
        drawn = renderer.render(min(_TOGETHER, objects - first), _SEED + first, size)
        shown, seen = spread.project(drawn)
        made = _limited(views(shown, seen, drawn.control).float(), shown, seen)
        made = torch.where((model.object_mask(drawn.control) > 0) & (seen == 0), made, shown)
        before.append(model.errors(shown, drawn.views, seen, drawn.control))
        after.append(model.errors(made, drawn.views, seen, drawn.control))
        if first < 4 * _TOGETHER:
            rows += [row for one in zip(shown, made, drawn.views, strict=True) for row in one]
    contact_sheet(sheet, torch.stack(rows).cpu())
    old, new = (-10 * torch.log10(torch.cat(x).clamp_min(1e-6)) for x in (before, after))
    worse = (new < old - 0.1).float().mean()
    plain = old > 22
    lines = [f"{objects} objects: {old.mean():.2f} dB -> {new.mean():.2f} dB, {100 * worse:.0f} % worse by over 0.1 dB"]
    for name, chosen in (("above 22 dB before", plain), ("others", ~plain)):
        if chosen.any():
            lines.append(f"{name} ({int(chosen.sum())}): {old[chosen].mean():.2f} dB -> {new[chosen].mean():.2f} dB")
    return "\n".join(lines)


def _limited(made: Tensor, shown: Tensor, seen: Tensor) -> Tensor:
    """Clip views (B, 6, 3, H, H) to the colours that are seen, as `completion.completed`."""
    far = torch.where(seen > 0, shown, torch.inf), torch.where(seen > 0, shown, -torch.inf)
    low, high = (
        reduce(x, dim=(1, 3, 4), keepdim=True) for x, reduce in zip(far, (torch.amin, torch.amax), strict=True)
    )
    none = ~(seen > 0).flatten(1).any(1)[:, None, None, None, None]
    return made.clamp(torch.where(none, 0.0, low), torch.where(none, 1.0, high))
