"""Expose linear light to the [0, 1] sRGB input of the models, by an invertible rule.

0. Negative channels (colours outside Rec.709) are 0 already (backend/io/panoramas.py); only that is not invertible.
1. e = 0.18 / (geometric mean luminance), so that the mean of the panorama becomes middle grey. The mean is weighted by
   solid angle and excludes black pixels; luminances are clamped to the 1st and 99th percentile, to limit the influence
   of a sun or a few dead pixels. (The log-average of Reinhard et al.,
   "Photographic Tone Reproduction for Digital Images", 2002.)
2. x = e · linear, per channel.
3. y = x up to the knee k = 0.8; above it y = k + (1 − k) · t / (1 + t) with t = (x − k) / (1 − k): slope 1 at the knee,
   1 at infinity.
4. The sRGB transfer function (IEC 61966-2-1).
"""

from __future__ import annotations

import numpy as np

from ...shared.imaging.colour import LUMINANCE, linear_from_srgb, srgb_from_linear
from ...shared.imaging.sphere import solid_angles
from ...shared.protocol.errors import PanoramaError
from ..io import parallel
from ..io.panoramas import Encoding

MIDDLE_GREY = 0.18
KNEE = 0.8
RULE = (
    "x = exposure * linear; y = x where x <= knee, else knee + (1 - knee) * t / (1 + t), "
    "t = (x - knee) / (1 - knee); sRGB = IEC 61966-2-1 of y"
)
#: Maximum before sRGB encoding, so that `unexpose` stays finite: light of about a million times the knee.
_BRIGHTEST = 1 - 2**-22
#: Bins of the histogram that finds a quantile.
_BINS = 4096


def expose(panorama: np.ndarray, encoding: Encoding) -> tuple[np.ndarray, dict[str, float | str] | None]:
    """Return (the sRGB picture, (H, W, 3) float32 in [0, 1]; the parameters, for `maps.json`).

    An sRGB panorama is returned unchanged, with None. Raise PanoramaError where all of it is black.
    """
    if encoding == "srgb":
        return panorama, None
    exposure = _exposure(panorama)
    picture = np.empty(panorama.shape, np.float32)

    def compress(rows: slice) -> None:
        exposed = panorama[rows].astype(np.float64) * exposure
        over = np.maximum(exposed - KNEE, 0) / (1 - KNEE)
        compressed = np.where(exposed <= KNEE, exposed, KNEE + (1 - KNEE) * over / (1 + over))
        picture[rows] = srgb_from_linear(np.minimum(compressed, _BRIGHTEST))

    parallel.by_rows(compress, len(panorama))
    return picture, {"rule": RULE, "exposure": exposure, "knee": KNEE}


def unexpose(picture: np.ndarray, record: dict[str, float | str]) -> np.ndarray:
    """Invert `expose`: return linear light, (H, W, 3) float32, within the precision of `picture`."""
    exposure, knee = float(record["exposure"]), float(record["knee"])
    compressed = np.minimum(linear_from_srgb(picture.astype(np.float64)), _BRIGHTEST)
    over = np.maximum(compressed - knee, 0) / (1 - knee)
    exposed = np.where(compressed <= knee, compressed, knee + (1 - knee) * over / (1 - over))
    return (exposed / exposure).astype(np.float32)


def _exposure(panorama: np.ndarray) -> float:
    height, width, _ = panorama.shape
    value = np.full((height, width), -np.inf)

    def logarithm(rows: slice) -> None:
        luminance = panorama[rows].astype(np.float64) @ LUMINANCE
        np.log(luminance, out=value[rows], where=luminance > 0)

    parallel.by_rows(logarithm, height)
    lit = np.isfinite(value)
    if not lit.any():
        raise PanoramaError("The panorama is black everywhere.", "Check the file, or the render's lights.")
    weight = np.broadcast_to(solid_angles(height, width), value.shape)[lit].astype(np.float64)
    value = value[lit]
    low, high = (_quantile(value, weight, share) for share in (0.01, 0.99))
    return float(MIDDLE_GREY / np.exp(np.average(value.clip(low, high), weights=weight)))


def _quantile(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Return the smallest of the values (N,) such that it and those below have that share of all weights (N,).

    Only the values in one bin of a histogram are sorted.
    """
    low, high = values.min(), values.max()
    if low == high:
        return float(low)
    bins = ((values - low) * (_BINS / (high - low))).astype(np.int32)
    below = np.cumsum(np.bincount(bins, weights))
    goal = share * below[-1]
    found = int(np.searchsorted(below, goal))
    inside = bins == found
    order = np.argsort(values[inside])
    within = np.cumsum(weights[inside][order]) + (below[found - 1] if found else 0)
    return float(values[inside][order][min(int(np.searchsorted(within, goal)), len(order) - 1)])
