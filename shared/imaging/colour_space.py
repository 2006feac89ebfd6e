"""Colour spaces of pictures, and their conversion to linear Rec.709 with a white of D65.

A conversion decodes with a transfer function, then multiplies by one matrix, which adapts the white point by Bradford's
method (ICC.1:2022, annex E; SMPTE RP 177 for the matrix from primaries). White stays white.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from .colour import linear_from_srgb

#: CIE xy of red, green, blue and white.
Chromaticities = Sequence[float]

D65, D60, D50 = (0.3127, 0.3290), (0.32168, 0.33767), (0.3457, 0.3585)
REC709: Chromaticities = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *D65)
P3_D65: Chromaticities = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65)
REC2020: Chromaticities = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65)
ADOBE_RGB: Chromaticities = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *D65)
AP0: Chromaticities = (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.0770, *D60)
AP1: Chromaticities = (0.713, 0.293, 0.165, 0.830, 0.128, 0.044, *D60)

#: The names by which notes tell known chromaticities.
_NAMES = {
    "Rec.709": REC709,
    "Display P3": P3_D65,
    "Rec.2020": REC2020,
    "Adobe RGB": ADOBE_RGB,
    "ACES AP0": AP0,
    "ACES AP1": AP1,
    "CIE XYZ": (1, 0, 0, 1, 0, 0, 1 / 3, 1 / 3),
}
#: How far chromaticities that are written in a file may be from those that they mean.
_ROUNDING = 2e-3

_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
#: The PCS's illuminant, as ICC profiles give it.
D50_XYZ = np.array([0.9642, 1.0, 0.8249])


class ColourSpace(NamedTuple):
    """How stored values become linear Rec.709."""

    #: For notes and records: "Display P3".
    name: str
    #: Linear values (r, g, b) → linear Rec.709, (3, 3).
    rec709_from_linear: np.ndarray
    #: Stored values (…, 3) → linear values (…, 3).
    decode: Callable[[np.ndarray], np.ndarray]

    def linear_rec709(self, stored: np.ndarray) -> np.ndarray:
        """Convert (…, 3) stored values to linear Rec.709, float32."""
        linear = self.decode(stored)
        return (linear @ self.rec709_from_linear.T.astype(linear.dtype)).astype(np.float32, copy=False)


def linear(values: np.ndarray) -> np.ndarray:
    return values


def gamma(exponent: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the decoding by a power; odd-symmetric for negative values."""
    return linear if exponent == 1 else partial(_power, exponent=exponent)


def _power(values: np.ndarray, exponent: float) -> np.ndarray:
    return np.copysign(np.abs(values) ** exponent, values)


def from_chromaticities(
    chromaticities: Chromaticities,
    decode: Callable[[np.ndarray], np.ndarray] = linear,
    name: str = "",
) -> ColourSpace:
    """Return the colour space of these primaries and white. Raise ValueError where they span no colours."""
    xyz = xyz_from_rgb(chromaticities)
    matrix = rec709_from_xyz(_white_xyz(chromaticities[6:8])) @ xyz
    if not np.isfinite(matrix).all():
        raise ValueError("the white point is no colour")
    return ColourSpace(name or known_name(chromaticities), matrix, decode)


def known_name(chromaticities: Chromaticities) -> str:
    """Return the name of known chromaticities, else "primaries 0.64 0.33 …"."""
    for name, known in _NAMES.items():
        if np.abs(np.subtract(chromaticities, known)).max() <= _ROUNDING:
            return name
    return f"primaries {' '.join(f'{value:.4g}' for value in chromaticities)}"


def means_rec709(chromaticities: Chromaticities) -> bool:
    """Return whether these are Rec.709's chromaticities, to their rounding in files, or all 0, which says nothing."""
    return not any(chromaticities) or bool(np.abs(np.subtract(chromaticities, REC709)).max() <= _ROUNDING)


def xyz_from_rgb(chromaticities: Chromaticities) -> np.ndarray:
    """Return the matrix of RGB primaries to CIE XYZ, (3, 3). Raise ValueError where they span no colours."""
    xy = np.asarray(chromaticities, np.float64).reshape(4, 2)
    if not np.isfinite(xy).all() or xy[3, 1] <= 0:
        raise ValueError("the white point is no colour")
    columns = np.stack([xy[:3, 0], xy[:3, 1], 1 - xy[:3].sum(axis=1)])
    if abs(np.linalg.det(columns)) < 1e-6:
        raise ValueError("the primaries lie on one line")
    return columns * np.linalg.solve(columns, _white_xyz(xy[3]))


def rec709_from_xyz(white_xyz: np.ndarray) -> np.ndarray:
    """Return the matrix from XYZ, whose white is `white_xyz`, to linear Rec.709, (3, 3)."""
    return np.linalg.inv(xyz_from_rgb(REC709)) @ adaptation(white_xyz, _white_xyz(D65))


def adaptation(source_white: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Return Bradford's chromatic adaptation between two whites in XYZ, (3, 3)."""
    gains = (_BRADFORD @ white) / (_BRADFORD @ source_white)
    return np.linalg.inv(_BRADFORD) @ (gains[:, None] * _BRADFORD)


def _white_xyz(xy: Sequence[float]) -> np.ndarray:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


#: Names of colour spaces in files: interop IDs of the Color Interop Forum, and names of OpenImageIO and OpenColorIO.
#: None: linear Rec.709, which floats are anyway.
_BY_ID: dict[str, ColourSpace | None] = {
    **dict.fromkeys(("lin_rec709_scene", "lin_rec709", "lin_srgb", "linear", "scene_linear", "linear rec.709"), None),
    **dict.fromkeys(("linear rec.709 (srgb)", "lin_rec709_srgb", "linear_rec709"), None),
    **dict.fromkeys(("lin_ap0_scene", "lin_ap0", "aces2065-1", "aces2065_1"), from_chromaticities(AP0)),
    **dict.fromkeys(("lin_ap1_scene", "lin_ap1", "acescg"), from_chromaticities(AP1)),
    **dict.fromkeys(("lin_rec2020_scene", "lin_rec2020", "linear rec.2020"), from_chromaticities(REC2020)),
    **dict.fromkeys(("lin_p3d65_scene", "lin_p3d65", "lin_displayp3", "linear p3-d65"), from_chromaticities(P3_D65)),
    **dict.fromkeys(("lin_adobergb_scene", "lin_adobergb", "linear adobergb"), from_chromaticities(ADOBE_RGB)),
    **dict.fromkeys(
        ("lin_ciexyzd65_scene", "lin_ciexyzd65_display", "cie-xyz-d65", "linear cie-xyz d65"),
        ColourSpace("CIE XYZ (D65)", np.linalg.inv(xyz_from_rgb(REC709)), linear),
    ),
    **dict.fromkeys(
        ("srgb_rec709_scene", "srgb_rec709_display", "srgb_tx", "srgb", "srgb_texture", "srgb - texture"),
        from_chromaticities(REC709, linear_from_srgb, "sRGB"),
    ),
    **dict.fromkeys(
        ("srgb_p3d65_scene", "srgb_p3d65_display", "srgb_displayp3"),
        from_chromaticities(P3_D65, linear_from_srgb),
    ),
    **dict.fromkeys(
        ("g22_rec709_scene", "g22_rec709_display", "g22_rec709"),
        from_chromaticities(REC709, gamma(2.2), "gamma 2.2"),
    ),
    **dict.fromkeys(("srgb_ap1_scene", "srgb_ap1"), from_chromaticities(AP1, linear_from_srgb, "ACES AP1, sRGB")),
    **dict.fromkeys(("g22_ap1_scene", "g22_ap1"), from_chromaticities(AP1, gamma(2.2), "ACES AP1, gamma 2.2")),
    **dict.fromkeys(("g24_rec709_display", "g24_rec709"), from_chromaticities(REC709, gamma(2.4), "gamma 2.4")),
    **dict.fromkeys(("g18_rec709_scene", "g18_rec709"), from_chromaticities(REC709, gamma(1.8), "gamma 1.8")),
    **dict.fromkeys(("g22_adobergb_scene", "g22_adobergb_display"), from_chromaticities(ADOBE_RGB, gamma(563 / 256))),
}  # fmt: skip


def is_known_id(name: str) -> bool:
    """Return whether `by_id` knows the name."""
    return name.lower() in _BY_ID


def by_id(name: str) -> ColourSpace | None:
    """Return the colour space of a known name; None for linear Rec.709. Raise KeyError for another."""
    return _BY_ID[name.lower()]
