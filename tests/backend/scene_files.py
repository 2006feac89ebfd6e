"""Write training data in the format of render.py, without Cycles."""

from pathlib import Path

import numpy as np

from panoform.backend.evaluation import ground_truth
from panoform.backend.training.scenes.render_io import write_image
from panoform.shared.imaging import sphere


def write_scene(folder: Path, seed: int, height: int) -> None:
    """Write a smooth synthetic panorama and its maps, which are not physically consistent."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rays = sphere.directions(height, 2 * height)
    smooth = 0.5 + 0.4 * np.sin(rays @ rng.normal(0, 2, (3, 3)))
    maps = {name: smooth[..., :channels] for name, channels in ground_truth.FILES.items()}
    maps["distance.exr"] = maps["distance.exr"] * 10
    maps["normal.exr"] = -rays
    for name, pixels in maps.items():
        write_image(folder / name, pixels, "half" if name.endswith("exr") else "uint8")
