"""The generator of training scenes.

The camera is above the origin, at the returned height over z = 0. Panorama axes are world axes
(shared/imaging/sphere.py).
"""

from __future__ import annotations

import numpy as np

from .build import Builder
from .cell import cell
from .hall import hall
from .open_places import cloister, park, roof, shore, square, terrace
from .outdoors import courtyard, landscape, street
from .room import room

#: Kinds of scenes, and how often each is built: three fifths are under the open sky.
MAKERS = (hall, cell, room, courtyard, street, landscape, terrace, roof, cloister, square, park, shore)
CHANCES = (0.09, 0.08, 0.22, 0.06, 0.07, 0.07, 0.12, 0.06, 0.06, 0.06, 0.06, 0.05)


def build(rng: np.random.Generator) -> float:
    """Build a random scene in the open, empty file. Return the camera's height above z = 0 in metres."""
    return MAKERS[rng.choice(len(MAKERS), p=CHANCES)](Builder(rng))
