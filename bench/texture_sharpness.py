"""Measure albedo maps enlarged to their panorama's size against scenes rendered by Cycles.

    python bench/texture_sharpness.py [--inputs exact,blurred,starter] [--scenes 6] [--each] [--json] [--sheet FILE.png]

The scenes are those of scene_geometry.py, rendered once into --cache: panorama and true albedo of 1024 × 512. Maps of
half that size: "exact", the true albedo shrunk; "blurred", by a Gaussian of 1.5 px; "starter", the starter's own,
perceived once into --perceived, about a minute a scene. Methods: "bilinear"; "ratio", map · panorama / panorama at the
map's size; "guided", a guided filter (radius 2, ε 1e-3) fitted at the map's size; "ours", backend/scene/textures.py.

Columns, means over the scenes, of sRGB values where there is no sky: *detail*: correlation with the truth of what a
Gaussian of 2 px removes; *dB*: PSNR; *near* and *away*: PSNR within 3 px of depth edges, and elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
import scene_truth
from quiet import quiet
from scene_truth import Truth
from scipy import ndimage

from panoform.backend.cli.terminal import Terminal
from panoform.backend.io.panoramas import resize
from panoform.backend.lighting import exposure
from panoform.backend.models.cache import ModelCache
from panoform.backend.perception import job
from panoform.backend.scene import textures
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings

INPUTS = ("exact", "blurred", "starter")
#: Ratio of the distances of neighbours from which there is a depth edge, and how near to it is near, in pixels.
EDGE, NEAR_PX = 1.1, 3
#: Standard deviations: what is fine detail, and the blur of "blurred".
DETAIL_PX, BLUR_PX = 2.0, 1.5

#: Enlarges a map (h, 2·h, 3) to the size of an sRGB panorama (H, 2·H, 3).
Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode=("nearest", "wrap", "nearest"))


def bilinear(pixels: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return textures.enlarge(pixels, len(picture), slice(0, len(picture)))


def ratio(pixels: np.ndarray, picture: np.ndarray) -> np.ndarray:
    smooth = bilinear(resize(picture, len(pixels)), picture)
    return bilinear(pixels, picture) * picture / np.maximum(smooth, 1e-3)


def guided(pixels: np.ndarray, picture: np.ndarray, radius: int = 2, epsilon: float = 1e-3) -> np.ndarray:
    def mean(values: np.ndarray) -> np.ndarray:
        for axis, mode in ((0, "nearest"), (1, "wrap")):
            values = ndimage.uniform_filter1d(values, 2 * radius + 1, axis=axis, mode=mode)
        return values

    guide, pixels = resize(picture, len(pixels)).astype(np.float64), pixels.astype(np.float64)
    guide_mean, pixels_mean = mean(guide), mean(pixels)
    variance = mean(guide[..., :, None] * guide[..., None, :]) - guide_mean[..., :, None] * guide_mean[..., None, :]
    covariance = mean(guide[..., :, None] * pixels[..., None, :]) - guide_mean[..., :, None] * pixels_mean[..., None, :]
    slope = np.linalg.solve(variance + epsilon * np.eye(3), covariance)
    constant = mean(pixels_mean - np.einsum("hwk,hwkc->hwc", guide_mean, slope))
    slope = bilinear(mean(slope).reshape(*pixels.shape[:2], 9), picture).reshape(*picture.shape, 3)
    return np.einsum("hwk,hwkc->hwc", picture, slope) + bilinear(constant, picture)


METHODS: dict[str, Method] = {"bilinear": bilinear, "ratio": ratio, "guided": guided, "ours": textures.sharpen}


def starter(truth: Truth, folder: Path) -> np.ndarray:
    """Return the starter's albedo map, from `folder` or perceived and kept there."""
    path = folder / f"{truth.name}.npz"
    if not path.exists():
        request = PerceiveRequest(
            panorama=truth.maps.panorama,
            encoding="linear",
            engine=EngineSettings(),
            settings=PerceiveSettings(maps=("albedo",)),
        )
        with Terminal() as terminal:
            maps = job.perceive(request, ModelCache(), terminal).maps
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, **maps)  # type: ignore[arg-type]
    with np.load(path) as file:
        return file["albedo"]


def near_edges(distance: np.ndarray) -> np.ndarray:
    """Return where a panorama of distances, infinite for sky, is near a depth edge, (H, W) bool."""
    finite = np.where(np.isfinite(distance), distance, 1e9)
    far, close = (
        find(finite, 3, mode=("nearest", "wrap")) for find in (ndimage.maximum_filter, ndimage.minimum_filter)
    )
    padded = np.pad(far <= EDGE * close, ((0, 0), (NEAR_PX + 1, NEAR_PX + 1)), mode="wrap")
    return np.asarray(ndimage.distance_transform_edt(padded))[:, NEAR_PX + 1 : -NEAR_PX - 1] <= NEAR_PX


def score(truth: Truth, enlarged: np.ndarray) -> dict[str, float]:
    """Return the measures of an enlarged albedo map."""
    true, enlarged = truth.maps.albedo_srgb, enlarged.clip(0, 1)
    solid, near = np.isfinite(truth.maps.distance), near_edges(truth.maps.distance)
    details = [(pixels - blur(pixels, DETAIL_PX))[solid].ravel() for pixels in (true, enlarged)]

    def psnr(where: np.ndarray) -> float:
        return float(-10 * np.log10(((enlarged - true)[where] ** 2).mean()))

    detail = float(np.corrcoef(*details)[0, 1])
    return {"detail": detail, "dB": psnr(solid), "near": psnr(solid & near), "away": psnr(solid & ~near)}


def _table(rows: dict[str, dict[str, float]]) -> None:
    print(f"{'':18}" + "".join(f"{name:>9}" for name in next(iter(rows.values()))))
    for name, row in rows.items():
        print(
            f"{name:18}"
            + "".join(f"{value:9.3f}" if key == "detail" else f"{value:9.2f}" for key, value in row.items())
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".cache/scene_geometry"))
    parser.add_argument("--perceived", type=Path, default=Path(".cache/texture_sharpness"))
    parser.add_argument("--inputs", default=",".join(INPUTS))
    parser.add_argument("--scenes", type=int, default=6, help=f"the first N of {len(scene_truth.SCENES)}")
    parser.add_argument("--only", help="indices of scenes, as 0,5, instead of the first N")
    parser.add_argument("--each", action="store_true", help="print each scene's table")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sheet", type=Path, help="write a row an input: panorama, truth, then each method, cropped")
    options = parser.parse_args()
    scenes: dict[str, dict[str, dict[str, float]]] = {}
    pictures = []
    for index in [int(text) for text in options.only.split(",")] if options.only else range(options.scenes):
        with quiet():
            truth = scene_truth.load(options.cache, index)
        print(truth.name, file=sys.stderr, flush=True)
        true = truth.maps.albedo_srgb.astype(np.float32)
        picture, _ = exposure.expose(truth.maps.panorama, "linear")
        for given in options.inputs.split(","):
            if given == "starter":
                small = starter(truth, options.perceived)
            else:
                small = resize(true, len(true) // 2)
                small = blur(small, BLUR_PX) if given == "blurred" else small
            shown = [picture, true]
            for name, method in METHODS.items():
                start = time.perf_counter()
                enlarged = method(small, picture)
                seconds = time.perf_counter() - start
                shown.append(enlarged)
                row = score(truth, enlarged) | {"seconds": seconds}
                scenes.setdefault(truth.name, {})[f"{given} {name}"] = row
            middle = slice(len(true) // 3, 2 * len(true) // 3), slice(0, len(true) // 2)
            pictures.append(np.concatenate([pixels[middle] for pixels in shown], axis=1))
        if options.each:
            _table(scenes[truth.name])
    first, *_ = scenes.values()
    means = {
        method: {name: float(np.mean([rows[method][name] for rows in scenes.values()])) for name in row}
        for method, row in first.items()
    }
    if options.json:
        print(json.dumps({"mean": means, "scenes": scenes}, indent=1))
    else:
        _table(means)
    if options.sheet:
        sheet = oiio.ImageBuf(np.ascontiguousarray(np.concatenate(pictures).clip(0, 1), np.float32))
        sheet.set_write_format("uint8")
        if not sheet.write(str(options.sheet)):
            raise SystemExit(sheet.geterror())


if __name__ == "__main__":
    main()
