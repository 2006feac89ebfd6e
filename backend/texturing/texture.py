"""Views of a mesh → its whole texture: baked, filled, with margins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...shared.imaging.colour import linear_from_srgb, srgb_from_linear
from ...shared.imaging.rasterise import rasterise
from ...shared.jobs.texture import VIEWS
from ...shared.protocol.errors import InputError
from . import cameras
from .bake import Baked, bake, sample, texel_points
from .cameras import Mesh
from .fill import fill, pad
from .reference import GREY
from .subdivide import subdivide

#: Longest edge of a triangle, in units of the object's longest side: unseen colours are computed at the corners.
_MAX_EDGE = 1 / 64
#: Margin around the islands as a share of the texture's size, and at least in pixels.
_MARGIN, _MIN_MARGIN = 1 / 64, 4


def make(
    mesh: Mesh,
    others: Mesh | None,
    views: np.ndarray,
    size: int,
    check_cancelled: Callable[[], None],
    numbers: Sequence[int] = range(len(VIEWS)),
) -> tuple[np.ndarray, float]:
    """Return the texture (size, size, 3) float32 sRGB in [0, 1], and the share of its area that a view shows.

    `views`: (N, H, H, 3) sRGB in [0, 1], by default all six; they are averaged as linear light. `numbers`: those of
    their cameras. `others` only hide the mesh. Beyond the margins, the texture has its mean colour. Raise InputError
    where the UV map covers no texel, or no view shows the mesh.
    """
    fine = divided(mesh)
    baked = bake_views(fine, others, views, size, check_cancelled, numbers)
    return finish(fine, baked, check_cancelled), share(baked)


def divided(mesh: Mesh) -> Mesh:
    """Return the mesh with edges that are short enough to bake on."""
    return subdivide(mesh, _MAX_EDGE)


def bake_views(
    fine: Mesh,
    others: Mesh | None,
    views: np.ndarray,
    size: int,
    check_cancelled: Callable[[], None],
    numbers: Sequence[int] = range(len(VIEWS)),
) -> Baked:
    """Return what the views show of a mesh that is `divided`, in linear light. Arguments, errors: `make`."""
    baked = bake(fine, linear_from_srgb(views), size, numbers=numbers, others=others, check_cancelled=check_cancelled)
    if not baked.covered.any():
        raise InputError("The UV map covers no pixel of the texture.", "Make its islands larger.")
    if not baked.valid.any():
        raise InputError("No view shows the faces that get the texture.", "Move what hides them, or turn the front.")
    check_cancelled()
    return baked


def finish(fine: Mesh, baked: Baked, check_cancelled: Callable[[], None]) -> np.ndarray:
    """Return the whole texture (S, S, 3) sRGB of what was baked on `fine`: filled, with margins."""
    filled = fill(baked, fine)
    check_cancelled()
    filled[~baked.covered] = filled[baked.covered].mean(axis=0)
    padded = pad(filled, baked.covered, max(_MIN_MARGIN, round(len(filled) * _MARGIN)))
    return srgb_from_linear(padded).clip(0, 1).astype(np.float32)


def share(baked: Baked) -> float:
    """Return the share of the texture's area that a view shows."""
    return float(baked.valid.sum() / baked.covered.sum())


def views(mesh: Mesh, others: Mesh | None, texture: np.ndarray, size: int) -> np.ndarray:
    """Return what the six cameras see of the textured mesh, (6, size, size, 3) sRGB; grey without it.

    `texture`: (S, S, 3) sRGB. `others` hide the mesh.
    """
    whole = mesh if others is None else cameras.joined(mesh, others)
    bordered = np.pad(texture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    result = np.full((len(VIEWS), size, size, 3), GREY, np.float32)
    for number in range(len(VIEWS)):
        points, depth = cameras.project(whole.corners, number, size)
        fragments = rasterise(points, size, size, depth)
        shown = fragments.mask & (fragments.triangle < len(mesh.corners))
        uv = fragments.interpolate(whole.uv)[shown]
        result[number][shown] = sample(bordered, texel_points(uv, len(texture)))
    return result
