"""Read panoramas from files, check them, and resize them to the model's input.

The encoding follows from the file type: floating-point files (EXR, HDR, float TIFF) are linear Rec.709 light,
integer files (PNG, JPEG, TIFF, WebP) are sRGB. EXIF orientation, colour profiles and EXR chromaticities are not
used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import OpenImageIO as oiio
from scipy import sparse

from ...shared.panorama_size import check_size
from ...shared.protocol.errors import PanoramaError

Encoding = Literal["linear", "srgb"]

#: Below this alpha a pixel counts as transparent (half floats store 1 exactly; renderers leave 0.9998).
OPAQUE = 0.999
#: How negative a channel of a colour outside Rec.709 may be, as a share of the pixel's largest channel. Of the eight
#: HDRIs that come with Blender, seven have such pixels; the largest share is 0.195.
OUT_OF_GAMUT = 0.25


def read(path: Path, *, repair: bool = False) -> tuple[np.ndarray, Encoding]:
    """Read a panorama file as ((H, W, 3) float32 with W = 2·H, "linear" or "srgb"), checked as `check` does.

    Raise PanoramaError (`load`, `check`).
    """
    pixels, encoding = load(path)
    return check(pixels, encoding, repair=repair), encoding


def load(path: Path) -> tuple[np.ndarray, Encoding]:
    """Read a panorama file unchanged: ((H, W, 3 or, with alpha, 4) float32, "linear" or "srgb").

    Of a file with several parts or layers, the first part with colour is read, and in it the first of these:
    channels R, G, B; a layer called Combined; any layer with R, G, B.
    Raise PanoramaError if it can't be read, is too large, or not 2:1 to within 1 %.
    """
    if not path.is_file():
        raise PanoramaError(f"There is no file {path}.", "Check the path.")
    if path.stat().st_size == 0:
        raise PanoramaError(f"{path.name} is empty (0 bytes).", "Save or download it again.")
    source = oiio.ImageInput.open(str(path))
    if source is None:
        raise PanoramaError(f"{path.name} can't be read: {_reason(oiio.geterror())}.", _READABLE)
    try:
        subimage, channels = _colour_channels(source, path.name)
        source.seek_subimage(subimage, 0)
        spec = source.spec()
        check_size(spec.height, spec.width)
        first, last = min(channels), max(channels)
        pixels = source.read_image(subimage, 0, first, last + 1, "float")
        if pixels is None or source.has_error:
            raise PanoramaError(f"{path.name} is damaged: {_reason(source.geterror())}.", "Save or download it again.")
        encoding: Encoding = "linear" if spec.format.basetype in _FLOATS else "srgb"
    finally:
        source.close()
    if list(channels) != list(range(first, last + 1)):
        pixels = pixels[..., [channel - first for channel in channels]]
    return pixels, encoding


_FLOATS = (oiio.HALF, oiio.FLOAT, oiio.DOUBLE)
_READABLE = "Panoramas are read from EXR, HDR, PNG, JPEG, TIFF and WebP."
_COLOUR = "A panorama needs red, green and blue: save it as an RGB image."


def _reason(error: str) -> str:
    """Return OpenImageIO's message on one line, without a full stop."""
    return " ".join(error.split()).rstrip(".") or "its content is not an image"


def _colour_channels(source: oiio.ImageInput, name: str) -> tuple[int, list[int]]:
    """Return (part, [channel index of red, green, blue, and of alpha if it exists])."""
    subimage = 0
    found: list[str] = []
    while source.seek_subimage(subimage, 0):
        names = list(source.spec().channelnames)
        layers = [channel[:-1] for channel in names if channel.endswith("R")]
        complete = [layer for layer in layers if layer + "G" in names and layer + "B" in names]
        if complete:
            layer = min(complete, key=lambda layer: (layer != "", not layer.endswith("Combined.")))
            return subimage, [names.index(layer + c) for c in "RGBA" if layer + c in names]
        found += names
        subimage += 1
    if len(found) == 1:
        raise PanoramaError(f"{name} has one channel ({found[0]}) and no colour.", _COLOUR)
    raise PanoramaError(f"{name} has no colour: its channels are {', '.join(found)}.", _COLOUR)


def check(panorama: np.ndarray, encoding: Encoding, *, repair: bool = False) -> np.ndarray:
    """Return the panorama as (H, W, 3) float32 with W = 2·H exactly, finite and ≥ 0.

    `panorama` is (H, W, 3) or, with alpha, (H, W, 4); opaque alpha is dropped. Within 1 % of 2:1 it is resized.
    A negative channel beside one at least four times as large is a colour outside Rec.709 (most HDRIs have some): it
    becomes 0. With `repair`, NaN becomes 0, ±infinity the largest finite value or 0, and all negative values 0.
    Raise PanoramaError if it is otherwise invalid.
    """
    if panorama.ndim != 3:
        raise PanoramaError(f"The panorama has shape {panorama.shape}, not (height, width, 3).", _COLOUR)
    height, width, channels = panorama.shape
    check_size(height, width)
    if channels not in (3, 4):
        raise PanoramaError(f"The panorama has {channels} channel{'s' * (channels != 1)} per pixel, not 3.", _COLOUR)
    if channels == 4:
        transparent = int(np.count_nonzero(~(panorama[..., 3] >= OPAQUE)))
        if transparent:
            raise PanoramaError(
                f"{transparent} of {height * width} pixels are transparent.",
                "Fill the background, or render with film transparency off.",
            )
    panorama = np.ascontiguousarray(panorama[..., :3], dtype=np.float32)
    if repair:
        panorama = _repaired(panorama)
    else:
        _reject_invalid(panorama)
        panorama = np.maximum(panorama, 0)
    if encoding == "srgb" and (largest := float(panorama.max())) > 1:
        raise PanoramaError(f"The picture is sRGB, but its largest value is {largest:g}, not 1.", "Give it as linear.")
    if width != 2 * height:
        panorama = _resample(panorama, width // 2, width // 2 * 2)
    return panorama


def _reject_invalid(panorama: np.ndarray) -> None:
    if np.isfinite(panorama).all() and panorama.min() >= 0:
        return
    invalid = {
        "not a number": np.isnan(panorama).any(-1),
        "infinite": np.isinf(panorama).any(-1),
        "negative": panorama.min(-1) < -OUT_OF_GAMUT * np.maximum(panorama.max(-1), 0),
    }
    counts = {name: int(np.count_nonzero(mask)) for name, mask in invalid.items()}
    if any(counts.values()):
        row, column = np.argwhere(np.logical_or.reduce(list(invalid.values())))[0]
        found = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        raise PanoramaError(
            f"The panorama has bad pixels: {found}; the first is at column {column}, row {row} (from the top left).",
            "Repair it (--repair, or Repair Pixels in the panel), or render it again.",
        )


def _repaired(panorama: np.ndarray) -> np.ndarray:
    finite = panorama[np.isfinite(panorama)]
    largest = max(float(finite.max()), 0.0) if finite.size else 0.0
    return np.maximum(np.nan_to_num(panorama, nan=0.0, posinf=largest, neginf=0.0), 0.0)


def resize(panorama: np.ndarray, height: int) -> np.ndarray:
    """Resample a panorama, (H, W, C) float32, to (height, 2·height, C).

    Each new pixel is a mean of the old ones under a tent as wide as two new pixels (two old ones when enlarging), so
    that a sun of one pixel keeps its light, without ringing or aliasing. Columns wrap around.
    """
    return panorama if panorama.shape[:2] == (height, 2 * height) else _resample(panorama, height, 2 * height)


def _resample(panorama: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns, channels = panorama.shape
    tall = _tent(rows, height, wrap=False) @ panorama.reshape(rows, -1)  # (height, columns · C)
    tall = tall.reshape(height, columns, channels).swapaxes(0, 1)
    wide = _tent(columns, width, wrap=True) @ tall.reshape(columns, -1)  # (width, height · C)
    return np.ascontiguousarray(wide.reshape(width, height, channels).swapaxes(0, 1), dtype=np.float32)


def _tent(old: int, new: int, *, wrap: bool) -> sparse.csr_array:
    """Return the (new, old) float32 matrix of tent weights; each row sums to 1."""
    reach = max(old / new, 1.0)
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(centres - reach)[:, None] + np.arange(int(np.ceil(2 * reach)) + 2)  # (new, taps)
    weights = np.maximum(1 - np.abs(taps - centres[:, None]) / reach, 0)
    if not wrap:
        weights *= (taps >= 0) & (taps < old)
    weights /= weights.sum(axis=1, keepdims=True)
    row = np.broadcast_to(np.arange(new)[:, None], taps.shape)
    matrix = sparse.coo_array((weights.ravel(), (row.ravel(), (taps.astype(int) % old).ravel())), shape=(new, old))
    return sparse.csr_array(matrix, dtype=np.float32)
