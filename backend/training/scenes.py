"""The training scenes, drawn from a seed.

The camera stands at the origin's vertical, `camera_height_m` over the ground; panorama axes are world axes (sphere.py).
"""

from __future__ import annotations

import numpy as np

from .build import Builder
from .hall import hall
from .outdoors import courtyard, landscape, street
from .room import room


def build(rng: np.random.Generator) -> float:
    """A random scene in the empty open file. Returns the camera's height over the ground in metres."""
    makers = (hall, room, courtyard, street, landscape)
    return makers[rng.choice(5, p=(0.2, 0.38, 0.14, 0.14, 0.14))](Builder(rng))
