"""Read ground truth for `panoform evaluate` and training: panoramas with their true maps.

Each scene is a sub-folder with these files, all of one size, 2:1 (frame: shared/imaging/sphere.py):

    panorama.exr     linear Rec.709 light, three channels
    distance.exr     along the ray, any unit, one channel; infinite where there is sky
    normal.exr       world axes, towards the camera, three channels; 0 where there is sky
    albedo.png       base colour, sRGB, three channels
    roughness.png    linear, one channel
    metallic.png     linear, one channel
    semantic.png     colours of semantics.PALETTE, three channels
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...shared.protocol.errors import InputError
from ..io import image_input

_AGAIN = "Render that scene again."
#: File → channels.
FILES = {
    "panorama.exr": 3, "distance.exr": 1, "normal.exr": 3, "albedo.png": 3,
    "roughness.png": 1, "metallic.png": 1, "semantic.png": 3,
}  # fmt: skip


def scenes(folder: Path, height: int | None = None) -> list[Path]:
    """Return the scenes of a folder, sorted, without hidden folders.

    All files must have one size (2·height × height if `height` is given). Raise InputError if there is no scene, or if
    a file is missing or has another size or number of channels; it names the first such file.
    """
    found = sorted(path for path in folder.glob("*") if path.is_dir() and not path.name.startswith("."))
    if not any((scene / name).is_file() for scene in found for name in FILES):
        raise InputError(
            f"There are no scenes in {folder}.", f"Choose a folder with sub-folders that have {', '.join(FILES)}."
        )
    for scene in found:
        expected = height
        for name, channels in FILES.items():
            path = scene / name
            if not path.is_file():
                raise InputError(f"{path} is missing.", "Add it, or choose a folder of complete scenes.")
            with image_input.opened(path, str(path), failure=InputError, hint=_AGAIN) as image:
                spec = image.spec()
            expected = expected or spec.height
            if (spec.height, spec.width, spec.nchannels) != (expected, 2 * expected, channels):
                raise InputError(
                    f"{path} is {spec.width} × {spec.height} with {spec.nchannels} channels, "
                    f"not {2 * expected} × {expected} with {channels}.",
                    "All maps of a scene have the size of its panorama.",
                )
    return found


def read(path: Path) -> np.ndarray:
    """Read an image as (H, W, C) float32. Raise InputError if the file can't be read."""
    with image_input.opened(path, str(path), failure=InputError, hint=_AGAIN) as image:
        return image_input.read_all(image, str(path), InputError, _AGAIN)


def read_scene(scene: Path) -> dict[str, np.ndarray]:
    """Read a scene: file name without extension → (H, W, C) float32."""
    maps = {name.partition(".")[0]: read(scene / name) for name in FILES}
    # Lossy EXR compression can give slightly negative values.
    maps["panorama"] = np.maximum(maps["panorama"], 0)
    return maps
