"""A reference picture projected onto a mesh from the front, without a model.

The picture's object is fitted to the front view by the boxes around both. What the front doesn't show takes the
colours of the surface around it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from ...shared.protocol.errors import InputError
from . import cameras, reference, texture
from .cameras import Mesh

#: Number of the front view.
_FRONT = 0
#: Alpha from which a pixel shows the object alone; the outline is mixed with what is behind it.
_SOLID = 0.9
#: Alpha of the outline, of 255.
_OUTLINE = 128
#: Intersection over union of the outlines below which the user is told.
_ALIKE = 0.75
PROJECTED = "The picture was projected from the front; what it doesn't show has the colours around it."
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
    notices: tuple[str, ...]


def project(
    mesh: Mesh, others: Mesh | None, picture: np.ndarray, view_size: int, size: int, check_cancelled: Callable[[], None]
) -> Projected:
    """Project a picture (h, w, 4) uint8 onto the mesh; `others` hide it.

    Raise InputError for a picture without an object, or a mesh whose front shows nothing of it.
    """
    cut_out, keyed = reference.cut(picture)
    whole = mesh if others is None else cameras.joined(mesh, others)
    mask = cameras.render(whole, _FRONT, view_size).mask
    if not mask.any():
        raise InputError("The front view shows nothing of the mesh.", "Set which way its front faces.")
    front, alike = fitted(cut_out, mask)
    baked, seen = texture.make(mesh, others, front[None], size, check_cancelled, [_FRONT])
    check_cancelled()
    views = texture.views(mesh, others, baked, view_size)
    views[_FRONT][mask] = front[mask]
    notices = [keyed] if keyed else []
    notices += [PROJECTED, *([UNLIKE.format(100 * alike)] if alike < _ALIKE else [])]
    return Projected(baked, views, seen, tuple(notices))


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
