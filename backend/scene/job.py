"""The job `scene`: a mesh with textures from maps of a panorama."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...shared.atomic_write import MAKE_ROOM
from ...shared.imaging import sphere
from ...shared.imaging.colour import linear_from_srgb
from ...shared.jobs import scene as contract
from ...shared.jobs.scene import Part, SceneInfo, SceneReply, SceneRequest, Texture, rotation_rows
from ...shared.maps import MAPS
from ...shared.protocol.errors import InputError, OutputError, PanoramaError
from ..io import maps as map_files
from ..io import panoramas
from ..io.encoding import encode_image
from ..io.maps import Maps
from ..io.panoramas import Encoding
from ..jobs.progress import ProgressReporter, Stage, StagedProgress, report_loading
from ..lighting import exposure, inverse_tonemapping
from ..models.cache import ModelCache
from . import build, normals, placement, sky, textures
from . import light as lighting
from .build import Built

NO_FLOOR = "No floor was found in the maps: the scale of the scene is a guess."
NO_ALBEDO = "There is no albedo map: the panorama's colours are used, with the light in them."
#: Share of the pixels below which it doesn't matter where the normal map and the mesh disagree.
_AGREE = 5e-3
_TEXTURES = ("albedo", "roughness", "metallic", "normal")


def run(request: SceneRequest, models: ModelCache, reporter: ProgressReporter) -> SceneReply:
    """Run the request."""
    contract.check(request)
    chosen = map_files.find(request.files)
    if request.panorama is not None:
        chosen.pop("panorama", None)
    maps = _read(request.files, chosen)
    if request.panorama is not None:
        picture = panoramas.check(request.panorama, request.encoding, repair=request.repair)
        maps = Maps(maps.maps, (picture, request.encoding))
    return build_scene(request, maps, reporter)


def _read(files: dict[str, np.ndarray], chosen: dict[str, str]) -> Maps:
    """Read files, `chosen` by map name. Raise InputError for no map, PanoramaError, OutputError (a full disk)."""
    if not chosen.keys() & MAPS.keys():
        raise InputError(
            "There is no map among the files.",
            f"Maps are named {', '.join(kind.filename for kind in MAPS.values())}.",
        )
    try:
        with tempfile.TemporaryDirectory(prefix="panoform-", ignore_cleanup_errors=True) as folder:
            for filename in chosen.values():
                (Path(folder) / Path(filename).name).write_bytes(files[filename].tobytes())
            try:
                return map_files.read(Path(folder))
            except PanoramaError as error:
                raise PanoramaError(error.message.replace(f"{folder}{os.sep}", ""), error.hint) from error
    except OSError as error:
        raise OutputError(f"The maps could not be written as temporary files: {error}.", MAKE_ROOM) from error


def build_scene(request: SceneRequest, maps: Maps, reporter: ProgressReporter) -> SceneReply:
    """Build mesh and textures from the request's maps.

    Raise InputError, PanoramaError, and Cancelled from `reporter` within a stage.
    """
    began = time.monotonic()
    settings, notices = request.settings, []
    progress = StagedProgress(
        reporter,
        [Stage("Building the mesh", 1, 3, counted=False), Stage("Textures", 1, 2, counted=False)],
    )
    report_loading(reporter, "Building the mesh")
    found = _check(maps)
    distance = found["distance"][..., 0]
    turn = None
    if "normal" in found:
        turn = normals.turn(distance, found["normal"], ~sky.infinite(distance))
    if turn is not None:
        for given in (maps.maps, found):
            given["normal"] = given["normal"] @ turn.T.astype(np.float32)
        angle = np.degrees(np.arccos((np.trace(turn) - 1) / 2))
        notices.append(f"The normals were turned by {angle:.1f}° to fit the distances.")
    normal = found.get("normal")
    built = build.build(
        distance,
        normal,
        sky_candidates=_sky_candidates(found.get("semantic")),
        camera_height_m=settings.camera_height_m,
        scale=settings.scale,
        known_distances=request.known_distances,
        world_from_panorama=np.array(request.world_from_panorama),
        max_triangles=settings.max_triangles,
    )
    progress.step_done()
    lights = None if maps.panorama is None else _lights(maps.panorama, found.get("albedo"), built)
    confidence = mean_confidence = None
    if normal is not None:
        confidence = normals.confidence(panoramas.resize(normal, len(built.sky)), built.planes)
        weight = built.planes.solid * sphere.solid_angles(*confidence.shape)
        mean_confidence = float(np.average(confidence, weights=weight))
    parts = _parts(built, maps, found, lights, confidence, settings.texture_width)
    environment = None if lights is None else _light_texture("environment", lights.environment)
    progress.step_done()
    surface = built.surface
    place = placement.place(built.planes, built.floor, np.array(request.world_from_panorama), settings)
    info = SceneInfo(
        scale=float(built.scale),
        has_floor=built.floor is not None,
        camera_height_m=settings.camera_height_m if place.height is None else float(place.height * built.scale),
        world_from_panorama=rotation_rows(place.world_from_panorama),
        normal_confidence=mean_confidence,
        sky=float(built.sky.mean()),
        noise=float(built.planes.noise),
        notices=(*_notices(maps, built), *notices, *place.notices),
        seconds=round(time.monotonic() - began, 3),
    )
    return SceneReply(
        id=request.id,
        positions=surface.positions.astype(np.float32),
        triangles=surface.triangles.astype(np.uint32),
        uv=surface.uv.astype(np.float32),
        parts=parts,
        environment=environment,
        info=info,
    )


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
    found = {"distance": distance}
    for name, pixels in maps.maps.items():
        if name == "semantic":
            found[name] = _nearest(pixels, height)  # a mean of two classes' colours is that of another
        elif name != "distance":
            found[name] = panoramas.resize(pixels, height)
    return found


def _nearest(pixels: np.ndarray, height: int) -> np.ndarray:
    """Resample a map (h, 2·h, C) to (height, 2·height, C) without mixing pixels."""
    rows = (np.arange(height) + 0.5) * len(pixels) // height
    columns = (np.arange(2 * height) + 0.5) * len(pixels) // height
    return pixels[rows.astype(int)[:, None], columns.astype(int)]


def _notices(maps: Maps, built: Built) -> list[str]:
    """Return what the user must know about the result."""
    notices = [NO_FLOOR] if built.is_guess else []
    missing = [name for name in _TEXTURES if name not in maps.maps]
    if "albedo" in missing and maps.panorama is not None:
        missing.remove("albedo")
        notices.append(NO_ALBEDO)
    return [*notices, f"There is no map of {' and '.join(missing)}."] if missing else notices


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
    built: Built,
    maps: Maps,
    found: dict[str, np.ndarray],
    lights: _Lights | None,
    confidence: np.ndarray | None,
    texture_width: int,
) -> tuple[Part, ...]:
    """Return the parts of the mesh with their textures; `found` are the maps at the size of the distance map.

    `confidence`: of the normals, (H, W).
    """
    limit = texture_width // 2
    own = {name: maps.maps[name] for name in _TEXTURES if name in maps.maps}
    small = {name: found[name] for name in own}
    picture = None
    if maps.panorama is not None:
        pixels, encoding = maps.panorama
        picture, _ = exposure.expose(panoramas.resize(pixels, min(len(pixels), limit)), encoding)
        if "albedo" not in own:
            own["albedo"] = picture
            small["albedo"] = panoramas.resize(picture, len(built.sky))
    visible: dict[str, np.ndarray] = {}
    for name, pixels in own.items():
        if picture is not None and name != "normal" and len(picture) > len(pixels):
            visible[name] = textures.sharpen(pixels, picture)
        else:
            visible[name] = panoramas.resize(pixels, min(len(pixels), limit))
    if lights is not None and lights.lamps.any():
        visible["emission"] = panoramas.resize(lights.emission, min(len(lights.emission), limit))
        if "albedo" in visible:  # a lamp isn't lit by others too
            visible["albedo"] = visible["albedo"] * ~_nearest(lights.lamps[..., None], len(visible["albedo"]))
    if confidence is not None and (confidence < 1).mean() > _AGREE:
        rows = min(len(maps.maps["normal"]), limit)
        visible["confidence"] = panoramas.resize(confidence[..., None], rows)
    parts = [Part(name="visible", triangles=built.surface.counts[0], textures=_textures(visible))]
    for layer, count in zip(built.layers[1:], built.surface.counts[1:], strict=True):
        if count:
            continued = {
                name: panoramas.resize(textures.continued(pixels, layer), min(len(pixels), limit))
                for name, pixels in small.items()
                if name != "normal"
            }
            parts.append(Part(name="hidden", triangles=count, textures=_textures(continued)))
    return tuple(parts)


@dataclass(frozen=True)
class _Lights:
    """What lights the scene; arrays have the size of the layers."""

    #: Where there are lamps, (H, W) bool, and their linear light, (H, W, 3).
    lamps: np.ndarray
    emission: np.ndarray
    #: Linear light of the whole sky, (H, W, 3).
    environment: np.ndarray


def _lights(panorama: tuple[np.ndarray, Encoding], albedo: np.ndarray | None, built: Built) -> _Lights:
    """Find what lights the scene. Clipped light of an sRGB panorama is reconstructed.

    `albedo`: sRGB; None: the panorama's own colours.
    """
    pixels, encoding = panorama
    height = len(built.sky)
    light = panoramas.resize(pixels, height)
    own, _ = exposure.expose(light, encoding)
    grey = linear_from_srgb(panoramas.resize(own if albedo is None else albedo, height))
    if encoding == "srgb":
        light = inverse_tonemapping.reconstruct(light)
    lamps = lighting.lamps(light, built.sky, built.planes.normal, grey)
    return _Lights(lamps, np.where(lamps[..., None], light, 0), lighting.environment(light, built.sky))


def _textures(maps: dict[str, np.ndarray]) -> dict[str, Texture]:
    """Encode textures."""
    encoded = {}
    for name, pixels in maps.items():
        if name == "emission":
            encoded[name] = _light_texture(name, pixels)
        elif name == "confidence":
            filename = f"{name}.png"
            data = np.frombuffer(encode_image(filename, pixels, "Non-Color", bits=8), np.uint8)
            encoded[name] = Texture(filename=filename, colorspace="Non-Color", data=data)
        else:
            kind = MAPS[name]
            data = np.frombuffer(encode_image(kind.filename, pixels, kind.colorspace), np.uint8)
            encoded[name] = Texture(filename=kind.filename, colorspace=kind.colorspace, data=data)
    return encoded


def _light_texture(name: str, pixels: np.ndarray) -> Texture:
    """Encode linear light."""
    filename = f"{name}.exr"
    data = np.frombuffer(encode_image(filename, pixels, "Linear"), np.uint8)
    return Texture(filename=filename, colorspace="Linear Rec.709", data=data)
