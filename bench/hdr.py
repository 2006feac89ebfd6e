"""Measure `backend.lighting`'s inverse tone mapping on the eight CC0 HDRIs that ship with bpy.

    python bench/hdr.py [--each] [--scenes [--exact]] [--cache DIR] [FILE.exr …]

Each panorama is exposed so that 1, 3, 10 or 30 % of its pixels clip, or so that its median luminance is 0.35, then
clipped and rounded to 8-bit sRGB. Four methods of recovering linear light are compared: plain sRGB → linear; Landis'
expansion operator (2002), with white at 10; `inverse_tonemapping.reconstruct`, from the picture
alone; and `solve.reconstruct`, by the starter's maps of the clipped picture (256 × 128, kept in --cache). With --scenes
the panoramas are twelve scenes rendered by Cycles (light_data.py), with --exact by their exact maps.

Columns: the relative error of the irradiance, averaged over 256 directions; the angle between the direction of the
strongest light (the 5° cap with the most energy) and the true one; and the factor between their energies. Medians over
the cases. *worse*: the share of cases whose irradiance is worse than plain.

Measured, median error of irradiance (worse than plain; factor of the strongest light's energy):
                                          plain   picture            solved
    HDRIs, the starter's maps             41 %    29 % (10 %; 3.3)   25 % (0 %; 4.0)
    scenes, the starter's maps            45 %    31 % (42 %; 2.3)   18 % (17 %; 1.8)
By stratum, HDRIs, and scenes in brackets:
    high sun                              20 (32) %   9 (39) %        8 (151) %, 1.6 (2.0)
    low sun                               38 (72) %  29 (37) %       29 (45) %, 17 (5.0)
    overcast                              18 (16) %  13 (20) %        5 (10) %, 2.0 (2.7)
    interior                              55 (52) %  33 (30) %       25 (18) %, 9.1 (1.5)
    night, studio                         55, 91 %   39, 60 %        51, 70 %, 16 and 4.1
Landis' operator gives 83 %, and 66 % for the scenes, worse than plain in 72 % and 63 % of the cases: it brightens all
that is bright, walls as well as lamps.

What these are worth: no HDRI here was used to fit the estimate from the picture (bench/hdr_fit.py), but the solver was
developed, and its constants were chosen, while looking at these HDRIs and these scenes: its figures are not held out.
Two checks of that, of the solver before the blend below, which had 25 % (3 %; 3.0) for the HDRIs and 20 % (27 %; 1.8)
for the scenes. With SCALE, COMMON and EVIDENCE chosen by the median error of the scenes (of 27 combinations: 0.1, 1 and
30), the HDRIs have 24 % (3 %; 3.0). The rule that discs aren't dimmed (HIDDEN, SHOWN) was made after a factor of 10
was seen: choosing its limit (a ratio of light of 0.5 to 0.9, or none) by the energy of all HDRIs but one, for each in
turn, gives 25 % (3 %; 3.0); the scenes have 20 to 21 % with any limit from 0.65 on, 24 % with 0.5.

The blend by confidence (LEAST, TRUSTED) was chosen with the HDRIs and scenes together, among 33 laws in confidence or
in the excess of measured over the picture's own light; all but suns in the sky is blended. Chosen without the HDRI or
scene that is measured, for each in turn, it gives 25 % (0 %) and 18 % (13 %); without any blend 25 % (3 %) and 20 %
(27 %). On HDRIs it costs energy of the strongest light (4.0 instead of 3.0). What is still worse than plain, 10 of 60
cases: four exposures of the terrace, whose sun is one pixel that the starter's distance map takes for a surface in
three of them, so that walls are made lamps; a cell by 1 %; and five where plain errs by 0 to 2 or, once, 16 %.

Where the error is, by variants of the solver on three exposures of the scenes:
    one factor of all lost light, the best for each case (it needs the truth)   17 %
    all light from infinity, without visibility, the starter's maps             30 to 34 %
    near light, without visibility                                              23 %
    near light, with visibility                                                 23 %
The starter's albedos and normals cost 3 %, near light matters most, visibility hardly. On the HDRIs the best single
factor reaches 14 %: in dark and glossy places (studio, night) and in the city, albedos are too high or shadows are
missed, so that less light is measured than there is, nearly all of it the picture's own. Without the rule on discs,
lamps are solved too dim there: a factor of 10 on the median. Glows are still dimmed: where much is clipped
(30 %, median 0.35), the energy of the strongest light errs by factors of 4.7 and 14, from the picture by 13 and 12.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import bpy
import light_data
import numpy as np
import OpenImageIO as oiio

from panoform.backend.lighting import inverse_tonemapping, solve
from panoform.shared.imaging.colour import LUMINANCE, linear_from_srgb, srgb_from_linear
from panoform.shared.imaging.sphere import directions, solid_angles

EXPOSURES = ("1 %", "3 %", "10 %", "30 %", "median 0.35")
CAP_RAD = np.radians(5)
METHODS = ("plain", "Landis", "picture", "solved")
#: Panoramas of rooms, by the last word of their name; night and studio are strata of their own.
ROOMS = ("interior", "room", "hall", "cell", "attic", "rotunda")
#: Share of all light from which on the strongest is a sun, and the height (sine) from which on it is high.
SUN_SHARE, HIGH = 0.15, 0.5


def bundled() -> list[Path]:
    """Return the HDRIs that ship with bpy."""
    return sorted((Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world").glob("*.exr"))


def load(path: Path) -> np.ndarray:
    """Read a panorama as (H, W, 3) linear light; H must be a multiple of 128."""
    pixels = oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT)[..., :3]
    return np.maximum(pixels, 0)


def expose(light: np.ndarray, exposure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the light in units of the picture's white, and the clipped 8-bit picture."""
    if exposure.startswith("median"):
        scale = float(exposure.split()[1]) / np.median(light @ LUMINANCE)
    else:
        scale = 1 / np.quantile(light.max(-1), 1 - float(exposure.split()[0]) / 100)
    light = light * scale
    picture = np.round(srgb_from_linear(np.clip(light, 0, 1)) * 255) / 255
    return light, picture.astype(np.float32)


def expand(picture: np.ndarray) -> np.ndarray:
    """Apply the operator of Landis, "Production-Ready Global Illumination" (SIGGRAPH 2002 course 16).

    Luminance above one half is blended towards the brightest, 10 times white, by the square of its height above that.
    """
    linear = linear_from_srgb(picture)
    luminance = linear @ LUMINANCE
    weight = np.maximum((luminance - 0.5) / 0.5, 0) ** 2
    expanded = (1 - weight) * luminance + weight * 10
    return linear * (expanded / np.maximum(luminance, 1e-6))[..., None]


class Meter:
    """Light measurements on a grid of 128 × 256 cells, each with the total light of its pixels."""

    HEIGHT = 128

    def __init__(self) -> None:
        self.rays = directions(self.HEIGHT, 2 * self.HEIGHT).reshape(-1, 3).astype(np.float64)
        index = np.arange(256) + 0.5  # Fibonacci sphere
        z, lon = 1 - 2 * index / 256, np.pi * (1 + 5**0.5) * index
        normals = np.stack([np.sqrt(1 - z**2) * np.cos(lon), np.sqrt(1 - z**2) * np.sin(lon), z], -1)
        self.cosine = np.maximum(normals @ self.rays.T, 0)  # (256, cells)

    def cells(self, panorama: np.ndarray) -> np.ndarray:
        """Return luminance × solid angle of each cell, (cells,)."""
        height, width = panorama.shape[:2]
        energy = (panorama @ LUMINANCE) * solid_angles(height, width)
        return energy.reshape(self.HEIGHT, height // self.HEIGHT, 2 * self.HEIGHT, -1).sum((1, 3)).ravel()

    def strongest(self, cells: np.ndarray) -> tuple[np.ndarray, float]:
        """Return direction and energy of the brightest 5° cap, found by mean shift from the brightest cells."""
        best, direction, remaining = 0.0, self.rays[0], cells.copy()
        for _ in range(5):
            centre = self.rays[remaining.argmax()]
            for _ in range(4):
                inside = self.rays @ centre > np.cos(CAP_RAD)
                centre = cells[inside] @ self.rays[inside]
                centre /= np.linalg.norm(centre)
            inside = self.rays @ centre > np.cos(CAP_RAD)
            if cells[inside].sum() > best:
                best, direction = float(cells[inside].sum()), centre
            remaining[inside] = 0
        return direction, best


def stratum(meter: Meter, name: str, light: np.ndarray) -> str:
    """Return the kind of a panorama: by its name, or outdoors by its strongest light."""
    kind = name.split("-")[-1]
    if kind in ("night", "studio"):
        return kind
    if kind in ROOMS:
        return "interior"
    cells = meter.cells(light)
    ray, energy = meter.strongest(cells)
    if energy < SUN_SHARE * cells.sum():
        return "overcast"
    return "high sun" if ray[2] > HIGH else "low sun"


def measure(meter: Meter, truth: np.ndarray, rebuilt: np.ndarray) -> tuple[float, float, float]:
    """Return relative irradiance error, angle of the strongest light in degrees, and the factor ≥ 1 of its energy."""
    true_cells, cells = meter.cells(truth), meter.cells(rebuilt)
    true, got = meter.cosine @ true_cells, meter.cosine @ cells
    (true_ray, true_energy), (ray, energy) = meter.strongest(true_cells), meter.strongest(cells)
    angle = np.degrees(np.arccos(np.clip(true_ray @ ray, -1, 1)))
    return float(np.mean(np.abs(got - true) / true)), float(angle), float(np.exp(abs(np.log(energy / true_energy))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="EXR panoramas to use instead of the bundled HDRIs")
    parser.add_argument("--each", action="store_true", help="print every case, not only the medians")
    parser.add_argument("--scenes", action="store_true", help="rendered scenes instead of HDRIs")
    parser.add_argument("--exact", action="store_true", help="their exact maps instead of the starter's")
    parser.add_argument("--cache", type=Path, default=Path(".cache/light"), help="folder of maps and scenes")
    options = parser.parse_args()
    meter = Meter()
    print(f"{'':24}" + "".join(f"{name:>26}" for name in METHODS))
    print(f"{'':24}" + "".join(f"{'irradiance':>12}{'angle':>7}{'energy':>7}" for _ in METHODS))
    rows: dict[str, list[np.ndarray]] = {}
    strata: dict[str, list[np.ndarray]] = {}
    for name, light, exact in _panoramas(options):
        kind = stratum(meter, name, light)
        for exposure in EXPOSURES:
            truth, picture = expose(light, exposure)
            if not (picture >= np.float32(inverse_tonemapping.THRESHOLD)).all(-1).any():
                continue
            maps = exact or light_data.perceived(picture, options.cache, f"{name} {exposure}")
            rebuilt = (
                linear_from_srgb(picture), expand(picture), inverse_tonemapping.reconstruct(picture),
                solve.reconstruct(picture, light_data.with_sky(maps)).light,
            )  # fmt: skip
            row = np.array([measure(meter, truth, np.asarray(one)) for one in rebuilt])  # (methods, 3)
            rows.setdefault(exposure, []).append(row)
            strata.setdefault(kind, []).append(row)
            if options.each:
                print(f"{name + ' ' + exposure:24}" + _columns(row))
    for group, some in (rows | strata).items():
        print(f"{f'median, {group} ({len(some)})':24}" + _columns(np.median(some, axis=0)))
        print(f"{'  worse than plain':24}" + _worse(np.array(some)))
    everything = np.concatenate(list(rows.values()))
    print(f"{'median, all':24}" + _columns(np.median(everything, axis=0)))
    print(f"{'  worse than plain':24}" + _worse(everything))


def _panoramas(options: argparse.Namespace):
    """Yield name, light (H, W, 3) and, where they are to be used, exact maps."""
    if not options.scenes:
        yield from ((path.stem, load(path), None) for path in options.files or bundled())
        return
    for index in range(len(light_data.scene_truth.SCENES)):
        name, light, maps = light_data.scene(options.cache, index)
        yield name, light, maps if options.exact else None


def _worse(rows: np.ndarray) -> str:
    """Format how many of the cases (N, methods, 3) have a larger irradiance error than plain light."""
    return "".join(f"{count:12d}{'':14}" for count in (rows[:, :, 0] > 1.001 * rows[:, :1, 0]).sum(0))


def _columns(rows) -> str:
    """Format one measurement per method, as returned by `measure`."""
    return "".join(f"{100 * error:10.0f} %{angle:6.0f}°{factor:6.1f}×" for error, angle, factor in rows)


if __name__ == "__main__":
    main()
