"""Views of a mesh → its whole texture: baked, filled, with margins."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...shared.imaging.colour import linear_from_srgb, srgb_from_linear
from ...shared.protocol.errors import InputError
from .bake import bake
from .cameras import Mesh
from .fill import fill, pad
from .subdivide import subdivide

#: Longest edge of a triangle, in units of the object's longest side: unseen colours are computed at the corners.
_MAX_EDGE = 1 / 64
#: Margin around the islands as a share of the texture's size, and at least in pixels.
_MARGIN, _MIN_MARGIN = 1 / 64, 4


def make(
    mesh: Mesh, others: Mesh | None, views: np.ndarray, size: int, check_cancelled: Callable[[], None]
) -> tuple[np.ndarray, float]:
    """Return the texture (size, size, 3) float32 sRGB in [0, 1], and the share of its area that a view shows.

    `views`: (6, H, H, 3) sRGB in [0, 1]; they are averaged as linear light. `others` only hide the mesh. Beyond the
    margins, the texture has its mean colour. Raise InputError where the UV map covers no texel.
    """
    fine = subdivide(mesh, _MAX_EDGE)
    baked = bake(fine, linear_from_srgb(views), size, others=others, check_cancelled=check_cancelled)
    if not baked.covered.any():
        raise InputError("The UV map covers no pixel of the texture.", "Make its islands larger.")
    check_cancelled()
    filled = fill(baked, fine)
    check_cancelled()
    filled[~baked.covered] = filled[baked.covered].mean(axis=0)
    padded = pad(filled, baked.covered, max(_MIN_MARGIN, round(size * _MARGIN)))
    return srgb_from_linear(padded).clip(0, 1).astype(np.float32), float(baked.valid.sum() / baked.covered.sum())
