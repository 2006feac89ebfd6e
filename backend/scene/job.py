"""The job `scene`: a mesh with textures from maps of a panorama."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from ...shared.jobs import scene as contract
from ...shared.jobs.scene import Part, SceneInfo, SceneReply, SceneRequest, SceneSettings, Texture
from ...shared.maps import MAPS
from ...shared.protocol.errors import InputError, PanoramaError
from ..io import maps as map_files
from ..io import panoramas
from ..io.encoding import encode_image
from ..io.maps import Maps
from ..io.panoramas import Encoding
from ..jobs.progress import ProgressReporter, Stage, StagedProgress
from ..lighting import exposure
from ..models.cache import ModelCache
from . import build, textures
from .build import Built

NO_FLOOR = "No floor was found in the maps: the scale of the scene is a guess."
#: Light in units of the exposed panorama (backend/lighting/exposure.py) from which on a pixel shows a source of light.
_LAMP = 4.0


def run(request: SceneRequest, models: ModelCache, reporter: ProgressReporter) -> SceneReply:
    """Run the request."""
    contract.check(request)
    with tempfile.TemporaryDirectory(prefix="panoform-") as folder:
        for filename in map_files.find(request.files).values():
            (Path(folder) / Path(filename).name).write_bytes(request.files[filename].tobytes())
        maps = map_files.read(Path(folder))
    if request.panorama is not None:
        maps = Maps(maps.maps, (panoramas.check(request.panorama, request.encoding), request.encoding))
    return build_scene(request.id, maps, request.settings, reporter)


def build_scene(request_id: str, maps: Maps, settings: SceneSettings, reporter: ProgressReporter) -> SceneReply:
    """Build mesh and textures. Raise InputError, PanoramaError, and Cancelled from `reporter` within a stage."""
    began = time.monotonic()
    progress = StagedProgress(
        reporter,
        [Stage("Building the mesh", 1, 3, counted=False), Stage("Textures", 1, 2, counted=False)],
    )
    found = _check(maps)
    distance = found["distance"][..., 0]
    normal = found.get("normal")
    built = build.build(
        distance,
        normal,
        sky_candidates=_sky_candidates(found.get("semantic")),
        camera_height_m=settings.camera_height_m,
        scale=settings.scale,
        max_triangles=settings.max_triangles,
    )
    progress.step_done()
    parts = _parts(built, found, maps.panorama, settings.texture_width)
    progress.step_done()
    notices = () if built.has_floor or settings.scale is not None else (NO_FLOOR,)
    surface = built.surface
    return SceneReply(
        id=request_id,
        positions=surface.positions.astype(np.float32),
        triangles=surface.triangles.astype(np.uint32),
        uv=surface.uv.astype(np.float32),
        parts=parts,
        info=SceneInfo(
            scale=built.scale, has_floor=built.has_floor, sky=float(built.sky.mean()), noise=built.planes.noise,
            notices=notices, seconds=round(time.monotonic() - began, 3),
        ),
    )  # fmt: skip


def _check(maps: Maps) -> dict[str, np.ndarray]:
    """Return the maps at the size of the distance map. Raise InputError without a distance map."""
    if "distance" not in maps.maps:
        raise InputError("There is no distance map.", "A mesh needs one: perceive Distance too.")
    distance = maps.maps["distance"]
    height, width = distance.shape[:2]
    if height < 16:
        raise PanoramaError(f"The distance map is {width} × {height} px.", "Give one of at least 32 × 16.")
    if width != 2 * height:
        raise PanoramaError(f"The distance map is {width} × {height} px, not exactly 2:1.", "Scale it.")
    return {name: panoramas.resize(pixels, height) for name, pixels in maps.maps.items() if name != "distance"} | {
        "distance": distance
    }


def _sky_candidates(semantic: np.ndarray | None) -> np.ndarray | None:
    """Return where a semantic map shows no class, or a window, (H, W) bool."""
    if semantic is None:
        return None
    from ..perception.palette import PALETTE

    colours = np.array(list(PALETTE.values())) / 255
    nearest = np.argmin(((semantic[..., None, :] - colours) ** 2).sum(-1), axis=-1)
    names = list(PALETTE)
    return (nearest == names.index("unlabelled")) | (nearest == names.index("window"))


def _parts(
    built: Built, maps: dict[str, np.ndarray], panorama: tuple[np.ndarray, Encoding] | None, texture_width: int
) -> tuple[Part, ...]:
    """Return the parts of the mesh with their textures."""
    picture = None
    if panorama is not None:
        height = min(len(panorama[0]), texture_width // 2)
        picture, _ = exposure.expose(panoramas.resize(panorama[0], height), panorama[1])
    visible: dict[str, np.ndarray] = {}
    for name in ("albedo", "roughness", "metallic", "normal"):
        if name not in maps:
            continue
        if picture is None or name == "normal":
            visible[name] = maps[name]
        else:
            visible[name] = textures.sharpen(maps[name], picture)
    if panorama is not None and panorama[1] == "linear":
        visible |= _emission(panorama[0], built)
    parts = [Part(name="visible", triangles=built.surface.counts[0], textures=_textures(visible))]
    for layer, count in zip(built.layers[1:], built.surface.counts[1:], strict=True):
        continued = {
            name: textures.continued(maps[name], layer) for name in ("albedo", "roughness", "metallic") if name in maps
        }
        if count:
            parts.append(Part(name="hidden", triangles=count, textures=_textures(continued)))
    return tuple(parts)


def _emission(light: np.ndarray, built: Built) -> dict[str, np.ndarray]:
    """Return the light of lamps, (H, W, 3) linear: what is far brighter than lit surfaces, and not sky."""
    small = panoramas.resize(light, len(built.sky))
    _, record = exposure.expose(small, "linear")
    assert record is not None
    bright = small.max(axis=-1) * float(record["exposure"]) > _LAMP
    lamps = bright & ~built.sky
    return {"emission": np.where(lamps[..., None], small, 0)} if lamps.any() else {}


def _textures(maps: dict[str, np.ndarray]) -> dict[str, Texture]:
    """Encode textures."""
    encoded = {}
    for name, pixels in maps.items():
        emission = name == "emission"
        filename = "emission.exr" if emission else MAPS[name].filename
        colorspace = "Linear Rec.709" if emission else MAPS[name].colorspace
        data = np.frombuffer(encode_image(filename, pixels, colorspace), np.uint8)
        encoded[name] = Texture(filename=filename, colorspace=colorspace, data=data)
    return encoded
