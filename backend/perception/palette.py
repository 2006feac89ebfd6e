"""The colours of semantic maps: NYU40 classes in ScanNet's palette, as in OmniX."""

from __future__ import annotations

import numpy as np

from ..io import parallel

#: Class → sRGB colour, 0 to 255. Black is unlabelled: sky and anything without a class.
PALETTE: dict[str, tuple[int, int, int]] = {
    "unlabelled": (0, 0, 0),
    "wall": (174, 199, 232),
    "floor": (152, 223, 138),
    "cabinet": (31, 119, 180),
    "bed": (255, 187, 120),
    "chair": (188, 189, 34),
    "sofa": (140, 86, 75),
    "table": (255, 152, 150),
    "door": (214, 39, 40),
    "window": (197, 176, 213),
    "bookshelf": (148, 103, 189),
    "picture": (196, 156, 148),
    "counter": (23, 190, 207),
    "curtain": (219, 219, 141),
    "pillow": (202, 185, 52),
    "mirror": (51, 176, 203),
    "floor mat": (200, 54, 131),
    "ceiling": (78, 71, 183),
    "books": (172, 114, 82),
    "television": (91, 163, 138),
    "box": (100, 125, 154),
    "lamp": (96, 207, 209),
    "otherstructure": (94, 106, 211),
    "otherfurniture": (82, 84, 163),
    "otherprop": (100, 85, 144),
}


def classes(semantic: np.ndarray) -> np.ndarray:
    """Return the index in PALETTE of the nearest colour to each pixel of a semantic map (H, W, 3), (H, W) int."""
    colours = np.array(list(PALETTE.values()), np.float32) / 255
    found = np.empty(semantic.shape[:2], np.int32)

    def find(rows: slice) -> None:
        # |s − c|² without |s|², which doesn't matter.
        found[rows] = np.argmin((colours**2).sum(-1) - 2 * semantic[rows] @ colours.T, axis=-1)

    parallel.by_rows(find, len(found))
    return found
