"""The training scenes, drawn from a seed.

The camera stands at the origin's vertical, `camera_height_m` over the ground; panorama axes are world axes (sphere.py).
"""

from __future__ import annotations

import numpy as np

from .build import Builder
from .cell import cell
from .hall import hall
from .outdoors import courtyard, landscape, street
from .room import room


def build(rng: np.random.Generator) -> float:
    """A random scene in the empty open file. Returns the camera's height over the ground in metres."""
    makers = (hall, cell, room, courtyard, street, landscape)
    return makers[rng.choice(6, p=(0.15, 0.12, 0.34, 0.13, 0.13, 0.13))](Builder(rng))
