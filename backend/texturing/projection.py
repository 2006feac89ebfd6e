"""A reference picture projected onto a mesh from the front, and what it doesn't show guessed.

The picture's object is fitted to the front view by the boxes around both. What the front doesn't show takes the
colours of the surface around it; where the surface hangs together, a small model completes that (`completion`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from ...shared.protocol.errors import InputError
from . import cameras, completion, reference, texture
from .bake import Baked
from .cameras import Mesh
from .fill import components

#: Number of the front view.
_FRONT = 0
#: Alpha from which a pixel shows the object alone; the outline is mixed with what is behind it.
_SOLID = 0.9
#: Alpha of the outline, of 255.
_OUTLINE = 128
#: Share of a pixel's texels that the picture shows, above which it is known.
_KNOWN = 0.75
#: Percentiles of the colours shown that limit what is guessed; share of the surface that is most of it.
_RANGE, _MOST = (2, 98), 0.8
#: Intersection over union of the outlines below which the user is told.
_ALIKE = 0.75
PROJECTED = "The picture was projected from the front; what it doesn't show has the colours around it."
GUESSED = "The picture was projected from the front; what it doesn't show is a guess of the built-in preview model."
UNLIKE = (
    "The outlines of the picture's object and of the mesh's front differ (only {:.0f} % in common): use a picture from "
    "straight ahead, or set which way the front faces."
)


@dataclass(frozen=True)
class Projected:
    """A texture, and what the six cameras see of it."""

    #: (S, S, 3) float32 sRGB in [0, 1].
    texture: np.ndarray
    #: (6, H, H, 3) float32 sRGB in [0, 1].
    views: np.ndarray
    #: Share of the texture's area that the picture shows.
    seen: float
    #: Whether the model guessed what the picture doesn't show.
    guessed: bool
    notices: tuple[str, ...]


def project(
    mesh: Mesh,
    others: Mesh | None,
    picture: np.ndarray,
    view_size: int,
    size: int,
    check_cancelled: Callable[[], None],
    model: Callable[[], completion.Model],
) -> Projected:
    """Project a picture (h, w, 4) uint8 onto the mesh, and let the model guess the rest; `others` hide it.

    `model` is called where the mesh is of one connected surface, or most of it.

    Raise InputError for a picture without an object, or a mesh whose front shows nothing of it.
    """
    cut_out, keyed = reference.cut(picture)
    whole = mesh if others is None else cameras.joined(mesh, others)
    mask = cameras.render(whole, _FRONT, view_size).mask
    if not mask.any():
        raise InputError("The front view shows nothing of the mesh.", "Set which way its front faces.")
    front, alike = fitted(cut_out, mask)
    fine = texture.divided(mesh)
    baked = texture.bake_views(fine, others, front[None], size, check_cancelled, [_FRONT])
    made = texture.finish(fine, baked, check_cancelled)
    main = _main_part(baked, fine)
    if main is not None:
        guessed = _guess(mesh, others, baked, made, model())
        check_cancelled()
        beside = texture.bake_views(fine, others, guessed, size, check_cancelled)
        made = texture.finish(fine, baked.over(_limited(beside, baked, main)), check_cancelled)
    views = texture.views(mesh, others, made, view_size)
    views[_FRONT][mask] = front[mask]
    notices = [keyed] if keyed else []
    notices += [PROJECTED if main is None else GUESSED, *([UNLIKE.format(100 * alike)] if alike < _ALIKE else [])]
    return Projected(made, views, texture.share(baked), main is not None, tuple(notices))


def _guess(mesh: Mesh, others: Mesh | None, baked: Baked, spread: np.ndarray, model: completion.Model) -> np.ndarray:
    """Return the six views, completed, of the front's texture, `baked`, and of its colours spread over the surface."""
    known = np.repeat(baked.valid[..., None], 3, axis=-1).astype(np.float32)
    whole = mesh if others is None else cameras.joined(mesh, others)
    seen = [cameras.render(whole, number, completion.SIDE) for number in range(completion.VIEWS)]
    mask = np.stack([view.mask for view in seen])
    return completion.completed(
        model,
        texture.views(mesh, others, spread, completion.SIDE),
        mask & (texture.views(mesh, others, known, completion.SIDE)[..., 0] > _KNOWN),
        np.stack([cameras.control_image(view) for view in seen]),
    )


def _main_part(baked: Baked, fine: Mesh) -> np.ndarray | None:
    """Return the texels of the connected part that is most of the mesh, (S, S) bool; None: it consists of several.

    The model was trained on surfaces that hang together. Of separate parts, each keeps what the picture shows of it,
    which was nearer to the truth.
    """
    part = components(fine)[baked.triangle]
    numbers, counts = np.unique(part[baked.covered], return_counts=True)
    if counts.max() < _MOST * counts.sum():
        return None
    return baked.covered & (part == numbers[counts.argmax()])


def _limited(guessed: Baked, baked: Baked, main: np.ndarray) -> Baked:
    """Return what is guessed of the texels `main`, within the colours that the picture shows of them.

    So what has one colour keeps it.
    """
    shown = baked.texture[baked.valid & main]
    colours = guessed.texture
    if len(shown):
        low, high = np.percentile(shown, _RANGE, axis=0)
        colours = colours.clip(low, high)
    return replace(guessed, texture=colours, valid=guessed.valid & main)


def fitted(cut_out: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the front view (H, H, 3) float32 that a picture's object makes, and how alike the outlines are.

    `cut_out`: (h, w, 4) uint8. `mask`: where the front view shows the mesh, (H, H) bool; the object is stretched to
    its box. Beyond the object's outline, the colours go on. The likeness is the intersection over the union.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    height, width = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    resized = reference.resize(_tight(cut_out), int(height), int(width), "bilinear")
    image = np.zeros((*mask.shape, 4), np.float32)
    image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = resized
    alpha = image[..., 3]
    alike = float(((alpha > 0.5) & mask).sum() / ((alpha > 0.5) | mask).sum())
    solid = alpha >= min(_SOLID, float(alpha.max()))
    colour = image[..., :3] / np.maximum(alpha, 1e-6)[..., None]
    nearest: Any = ndimage.distance_transform_edt(~solid, return_distances=False, return_indices=True)
    return colour[nearest[0], nearest[1]].clip(0, 1), alike


def _tight(cut_out: np.ndarray) -> np.ndarray:
    """Return the part of an image (h, w, 4) uint8 within its outline, where alpha is a half; all, if it is fainter."""
    inside = cut_out[..., 3] >= min(_OUTLINE, int(cut_out[..., 3].max()))
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    return cut_out[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
