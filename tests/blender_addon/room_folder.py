"""A folder of maps of the analytic room, with the panorama that they were taken from."""

from __future__ import annotations

from pathlib import Path

import analytic_room as room
import numpy as np

from panoform.backend.io.encoding import encode_image
from panoform.backend.perception.palette import PALETTE
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import srgb_from_linear
from panoform.shared.maps import MAPS

#: Light of the sky behind the window, and of a round lamp in the ceiling; walls have about 0.5.
SKY = np.array([2.0, 3.0, 6.0], np.float32)
LAMP, LAMP_COSINE, LAMP_LIGHT = np.array([0.0, 0.0, 1.0]), 0.98, 50.0
#: Height of the camera over the floor.
CAMERA_M = -float(room.LOW[2])


def albedo(rays: np.ndarray) -> np.ndarray:
    """Return the linear albedo in the direction of unit rays (…, 3)."""
    return 0.4 + 0.3 * rays


def maps(height: int = 128) -> dict[str, np.ndarray]:
    """Return the maps by name; albedo sRGB."""
    exact = room.maps(height)
    rays = sphere.directions(height, 2 * height)
    return {
        "distance": exact.distance[..., None].astype(np.float32),
        "normal": exact.normal.astype(np.float32),
        "albedo": srgb_from_linear(albedo(rays)).astype(np.float32),
        "roughness": np.full((height, 2 * height, 1), 0.7, np.float32),
        "metallic": np.zeros((height, 2 * height, 1), np.float32),
    }


def semantic(height: int = 128) -> np.ndarray:
    """Return the semantic map of the room: what stands at −Y is a cabinet, what does at +Y a chair."""
    rays = sphere.directions(height, 2 * height)
    exact, empty = room.maps(height), room.maps(height, furnished=False)
    thing = exact.distance < empty.distance
    colour = np.full((*thing.shape, 3), PALETTE["wall"])
    colour[np.isinf(exact.distance)] = PALETTE["unlabelled"]
    colour[thing & (rays[..., 1] > 0)] = PALETTE["chair"]
    colour[thing & (rays[..., 1] < 0)] = PALETTE["cabinet"]
    return (colour / 255).astype(np.float32)


def panorama(height: int = 128) -> np.ndarray:
    """Return the linear panorama."""
    rays = sphere.directions(height, 2 * height)
    light = albedo(rays)
    light = np.where(np.isinf(room.maps(height).distance)[..., None], SKY, light)
    return np.where((rays @ LAMP > LAMP_COSINE)[..., None], LAMP_LIGHT, light).astype(np.float32)


def write(folder: Path, given: dict[str, np.ndarray] | None = None, light: np.ndarray | None = None) -> Path:
    """Write maps and panorama.exr as a user's folder, and return it."""
    folder.mkdir()
    for name, values in (maps() if given is None else given).items():
        kind = MAPS[name]
        (folder / kind.filename).write_bytes(encode_image(kind.filename, values, kind.colorspace))
    light = panorama() if light is None else light
    (folder / "panorama.exr").write_bytes(encode_image("panorama.exr", light, "Linear Rec.709"))
    return folder
