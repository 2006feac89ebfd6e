"""The reference picture as the model sees it: the object alone, on grey."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from ...shared.protocol.errors import InputError

#: Longer side of the object, as a share of the picture's (MV-Adapter's inference scripts).
FILL = 0.9
GREY = 0.5
#: A picture with no alpha below this, of 255, is opaque.
_OPAQUE = 250
#: Pixels of a plain border differ from its colour by at most this in any channel, of 255: all but a few of them.
_PLAIN, _PLAIN_SHARE = 12, 0.98
KEYED = "The reference picture is opaque: its plain background was removed."
_ASK = "Give a picture with a transparent background (PNG with alpha), or with a background of one colour."


def cut(picture: np.ndarray) -> tuple[np.ndarray, str]:
    """Return the object of a picture (H, W, 4) uint8, cut out with its alpha, (h, w, 4) uint8, and a notice or "".

    Alpha tells the object; of an opaque picture, it is what differs from a border of one colour. Raise InputError for
    a picture without an object.
    """
    notice = ""
    if picture[..., 3].min() >= _OPAQUE:
        picture, notice = _without_border(picture), KEYED
    rows, columns = (np.flatnonzero(picture[..., 3].any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise InputError("The reference picture is transparent everywhere.", _ASK)
    height, width = picture.shape[:2]
    top, bottom = max(rows[0] - 1, 0), min(rows[-1] + 2, height)
    left, right = max(columns[0] - 1, 0), min(columns[-1] + 2, width)
    return picture[top:bottom, left:right], notice


def resize(cut_out: np.ndarray, height: int, width: int, mode: str = "bicubic") -> np.ndarray:
    """Return an image (h, w, 4) uint8 in another size, (height, width, 4) float32, its colours premultiplied by alpha.

    So the colour of transparent pixels does not show at the outline. `mode`: "bicubic", or "bilinear", which leaves
    colour and alpha in their proportion, as nothing overshoots.
    """
    image = torch.from_numpy(cut_out.astype(np.float32) / 255).permute(2, 0, 1)[None]
    premultiplied = torch.cat([image[:, :3] * image[:, 3:], image[:, 3:]], dim=1)
    resized = F.interpolate(premultiplied, (height, width), mode=mode, antialias=True)
    return resized.clamp(0, 1)[0].permute(1, 2, 0).numpy()


def prepare(picture: np.ndarray, size: int) -> tuple[np.ndarray, str]:
    """Return the object of a picture (H, W, 4) uint8 on grey, (size, size, 3) float32 in [0, 1], and a notice or "".

    The object is cropped, and fits into 0.9 of the square, at its centre. Raise InputError as `cut`.
    """
    cropped, notice = cut(picture)
    scale = FILL * size / max(cropped.shape[:2])
    height, width = (max(1, round(side * scale)) for side in cropped.shape[:2])
    resized = resize(cropped, height, width)
    result = np.full((size, size, 3), GREY, np.float32)
    y, x = (size - height) // 2, (size - width) // 2
    result[y : y + height, x : x + width] = (resized[..., :3] + (1 - resized[..., 3:]) * GREY).clip(0, 1)
    return result, notice


def _without_border(picture: np.ndarray) -> np.ndarray:
    """Return an opaque picture with alpha 0 where pixels like its border are connected to it. Raise InputError."""
    colour = picture[..., :3].astype(np.int16)
    edges = np.concatenate([colour[0], colour[-1], colour[:, 0], colour[:, -1]])
    plain = np.median(edges, axis=0)
    if (np.abs(edges - plain).max(axis=-1) <= _PLAIN).mean() < _PLAIN_SHARE:
        raise InputError("The reference picture is opaque, and its background is not of one colour.", _ASK)
    alike = np.abs(colour - plain).max(axis=-1) <= _PLAIN
    # A frame of such pixels around it joins the parts at all four sides.
    found: tuple[np.ndarray, int] = ndimage.label(np.pad(alike, 1, constant_values=True))  # pyright: ignore
    labels = found[0]
    background = (labels == labels[0, 0])[1:-1, 1:-1]
    if background.all():
        raise InputError("The reference picture has one colour only.", _ASK)
    # The outline's pixels are mixed with the background.
    outline = ndimage.binary_dilation(background)
    return np.concatenate([picture[..., :3], np.where(outline, 0, 255).astype(np.uint8)[..., None]], axis=-1)
