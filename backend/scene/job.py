"""The job `scene`: a mesh with textures from maps of a panorama."""

from __future__ import annotations

import dataclasses
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ...shared.atomic_write import MAKE_ROOM, drafts
from ...shared.imaging import sphere
from ...shared.imaging.colour import linear_from_srgb
from ...shared.jobs import scene as contract
from ...shared.jobs.scene import SceneInfo, SceneReply, SceneRequest, SceneSettings, Texture, Thing, rotation_rows
from ...shared.maps import MAPS
from ...shared.protocol.errors import InputError, OutputError, PanoramaError
from ..io import maps as map_files
from ..io import panoramas
from ..io.maps import Maps
from ..io.panoramas import Encoding
from ..jobs.progress import ProgressReporter, Stage, StagedProgress, report_loading
from ..lighting import exposure
from ..models.cache import ModelCache
from ..perception import palette
from ..perception.palette import PALETTE
from . import build, light, match, normals, parts, placement, planes, sky, solids, textures
from .build import Built, Layered
from .light import Lights
from .parts import EncodeMaps
from .solids import Solid

NO_FLOOR = "No floor was found in the maps: the scale of the scene is a guess."
NO_ALBEDO = "There is no albedo map: the panorama's colours are used, with the light in them."
NO_NORMALS = "The normal map is empty: the distances tell the normals."
NO_THINGS = "The semantic map shows no things: everything is one mesh."
#: Share of the surfaces from which on it is told that they have no normal.
_ABSENT = 0.05


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
        with drafts() as folder:
            for filename in chosen.values():
                (folder / Path(filename).name).write_bytes(files[filename].tobytes())
            try:
                return map_files.read(folder)
            except PanoramaError as error:
                raise PanoramaError(error.message.replace(f"{folder}{os.sep}", ""), error.hint) from error
    except OSError as error:
        raise OutputError(f"The maps could not be written as temporary files: {error}.", MAKE_ROOM) from error


def build_scene(
    request: SceneRequest, maps: Maps, reporter: ProgressReporter, encode_maps: EncodeMaps = parts.encoded_maps
) -> SceneReply:
    """Build mesh and textures from maps, which are the request's.

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
    if "normal" in found and not planes.has_normal(found["normal"]).any():
        notices.append(NO_NORMALS)
        del maps.maps["normal"], found["normal"]
    if "normal" in found:
        turn = normals.turn(distance, found["normal"], ~sky.infinite(distance))
    if turn is not None:
        for given in (maps.maps, found):
            given["normal"] = given["normal"] @ turn.T.astype(np.float32)
        angle = np.degrees(np.arccos((np.trace(turn) - 1) / 2))
        notices.append(f"The normals were turned by {angle:.1f}° to fit the distances.")
    normal = found.get("normal")
    classes = None if "semantic" not in found else palette.classes(found["semantic"])
    if settings.objects and classes is None:
        raise InputError("There is no semantic map.", "Objects need one: perceive Semantic too.")
    limit = settings.texture_width // 2
    with ThreadPoolExecutor(1) as beside:  # the mesh takes one processor only
        matches = settings.match_panorama and maps.panorama is not None  # the albedo follows from the light, then
        visible = beside.submit(parts.visible, _without_albedo(maps) if matches else maps, limit)
        encoded = beside.submit(lambda: encode_maps(parts.unlit(visible.result())))
        layered = build.find_layers(
            distance,
            normal,
            sky_candidates=_shows(classes, "unlabelled", "window"),
            picture=None if maps.panorama is None else _picture(maps.panorama, len(distance)),
            classes=classes if settings.objects else None,
            camera_height_m=settings.camera_height_m,
            scale=settings.scale,
            known_distances=request.known_distances,
            world_from_panorama=np.array(request.world_from_panorama),
            max_triangles=settings.max_triangles,
        )
        looks = beside.submit(_looks, maps, found, layered, classes, visible, encoded, settings, encode_maps)
        built = build.mesh(layered, settings.max_triangles)
    progress.step_done()
    layers, environment, mean_confidence = looks.result()
    made = parts.parts(built, layers)
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
        notices=(*_notices(maps, built, settings), *notices, *place.notices),
        seconds=round(time.monotonic() - began, 3),
    )
    return SceneReply(
        id=request.id,
        positions=surface.positions.astype(np.float32),
        triangles=surface.triangles.astype(np.uint32),
        uv=surface.uv.astype(np.float32),
        parts=made,
        things=tuple(_thing(solid, surface.positions, place.world_from_panorama) for solid in built.things),
        environment=environment,
        info=info,
    )


def _looks(
    maps: Maps,
    found: dict[str, np.ndarray],
    layered: Layered,
    classes: np.ndarray | None,
    visible: Future[dict[str, np.ndarray]],
    encoded: Future[dict[str, Texture]],
    settings: SceneSettings,
    encode_maps: EncodeMaps,
) -> tuple[list[dict[str, Texture]], Texture | None, float | None]:
    """Return the textures of each layer and of the environment, and the mean confidence of the normals.

    `found`: the maps at the size of the distance map. `visible`: `parts.visible`. `encoded`: textures of
    `parts.unlit`.
    """
    normal = confidence = mean_confidence = None
    if "normal" in found:
        normal = panoramas.resize(found["normal"], len(layered.sky))
        confidence = normals.confidence(normal, layered.planes)
        weight = layered.planes.solid * sphere.solid_angles(*confidence.shape)
        mean_confidence = float(np.average(confidence, weights=weight))
    lights, shown = None, visible.result()
    if maps.panorama is not None:
        lights = light.find(maps.panorama, found.get("albedo"), layered, _shows(classes, "floor"))
        if settings.match_panorama:
            shading = layered.planes.normal
            if normal is not None and confidence is not None:
                shading = normals.shading(normal, layered.planes, confidence)
            found, lights = _matched(found, lights, layered, shading, maps.panorama)
            shown = shown | parts.visible(Maps({"albedo": found["albedo"]}, maps.panorama), settings.texture_width // 2)
    limit = settings.texture_width // 2
    layers = parts.encode(layered, shown, found, lights, confidence, limit, encode_maps, encoded.result())
    environment = {} if lights is None else encode_maps({"environment": lights.environment})
    return layers, environment.get("environment"), mean_confidence


def _without_albedo(maps: Maps) -> Maps:
    return Maps({name: pixels for name, pixels in maps.maps.items() if name != "albedo"}, maps.panorama)


def _matched(
    found: dict[str, np.ndarray],
    lights: Lights,
    layered: Layered,
    shading: np.ndarray,
    panorama: tuple[np.ndarray, Encoding],
) -> tuple[dict[str, np.ndarray], Lights]:
    """Return the maps, with an albedo, and the light of a scene that looks like its panorama.

    `shading`: the normals that light sees, (H, W, 3).
    """
    height = len(layered.sky)
    own = {name: panoramas.resize(found[name], height) for name in ("albedo", "roughness", "metallic") if name in found}
    same = match.match(
        lights.all,
        np.where(layered.sky, np.inf, layered.planes.distance),
        shading,
        linear_from_srgb(own["albedo"] if "albedo" in own else panoramas.resize(_picture(panorama, height), height)),
        own["roughness"][..., 0] if "roughness" in own else None,
        own["metallic"][..., 0] if "metallic" in own else None,
        lights.lamps,
    )
    emission = np.where(lights.lamps[..., None], lights.emission, same.emission)
    return found | {"albedo": same.albedo}, dataclasses.replace(lights, emission=emission)


def _picture(panorama: tuple[np.ndarray, Encoding], height: int) -> np.ndarray:
    """Return a panorama as sRGB, (height, 2·height, 3), or as it is where it is smaller."""
    pixels, encoding = panorama
    return exposure.expose(panoramas.resize(pixels, min(len(pixels), height)), encoding)[0]


def _thing(solid: Solid, positions: np.ndarray, world_from_panorama: np.ndarray) -> Thing:
    x, y, z = map(float, solids.base(positions[solid.vertices], world_from_panorama))
    return Thing(name=solid.name, visible=solid.front, back=solid.back, origin=(x, y, z))


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
            found[name] = textures.nearest(pixels, height)  # a mean of two classes' colours is that of another
        elif name != "distance":
            found[name] = panoramas.resize(pixels, height)
    return found


def _notices(maps: Maps, built: Built, settings: SceneSettings) -> list[str]:
    """Return what the user must know about the result."""
    notices = [NO_FLOOR] if built.is_guess else []
    if settings.objects and not built.things:
        notices.append(NO_THINGS)
    if "normal" in maps.maps:
        absent = 1 - planes.has_normal(textures.nearest(maps.maps["normal"], len(built.sky)))[~built.sky].mean()
        if absent > _ABSENT:
            notices.append(f"{absent:.0%} of the surfaces have no normal in the map; there, the distances tell it.")
    missing = [name for name in parts.NAMES if name not in maps.maps]
    if "albedo" in missing and maps.panorama is not None:
        missing.remove("albedo")
        if not settings.match_panorama:
            notices.append(NO_ALBEDO)
    return [*notices, f"There is no map of {' and '.join(missing)}."] if missing else notices


def _shows(classes: np.ndarray | None, *names: str) -> np.ndarray | None:
    """Return where a map of classes (indices into PALETTE) shows one of those named, (H, W) bool; None without it."""
    return None if classes is None else np.isin(classes, [list(PALETTE).index(name) for name in names])
