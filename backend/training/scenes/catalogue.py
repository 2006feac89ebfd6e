"""The generator of training scenes.

The camera is above the origin, at the returned height over z = 0. Panorama axes are world axes
(shared/imaging/sphere.py).
"""

from __future__ import annotations

import numpy as np

from .build import Builder
from .cell import cell
from .hall import hall
from .outdoors import courtyard, landscape, street
from .room import room


def build(rng: np.random.Generator) -> float:
    """Build a random scene in the open, empty file. Return the camera's height above z = 0 in metres."""
    makers = (hall, cell, room, courtyard, street, landscape)
    return makers[rng.choice(6, p=(0.15, 0.12, 0.34, 0.13, 0.13, 0.13))](Builder(rng))
