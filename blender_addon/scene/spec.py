"""Jobs that have maps of a panorama, and the one that builds a mesh from them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import bpy
import msgspec
import numpy as np
from mathutils import Matrix, Vector

from ...shared import result_folder
from ...shared.imaging.shrink import MARGIN, shrink
from ...shared.imaging.true_scale import true_scale
from ...shared.jobs.scene import SceneReply, SceneRequest, SceneSettings, rotation_rows
from ...shared.maps import DISTANCE, MAPS
from ..capture import pixels
from ..capture.sources import Capture
from ..jobs.specs import JobSpec
from ..translation import tr, tr_report
from . import dome, environment, images, light_probe, maps_folder, remove, scale
from .build import build, build_mesh, show
from .datablocks import all_or_nothing
from .dome import FloorPlane


@dataclasses.dataclass(eq=False, kw_only=True)
class MapsSpec(JobSpec):
    """A job whose result has the maps of a panorama."""

    @abc.abstractmethod
    def scene_spec(self, reply: Any, scene_uid: int, settings: SceneSettings) -> SceneSpec:
        """Return the job that builds a mesh from the maps, and from a panorama beside them."""


@dataclasses.dataclass(eq=False, kw_only=True)
class SceneSpec(MapsSpec):
    """Build a mesh from maps. Without a source, they are those of a folder."""

    label: ClassVar = "Build"

    request: SceneRequest
    #: The folder of the maps.
    directory: Path | None = None
    #: A notice for the user about the maps, as PerceiveReply.info.notice.
    maps_notice: str = ""
    #: The floor of the maps, for a dome, as PerceiveReply.info.floor.
    floor: FloorPlane | None = None
    #: Whether the scale of the settings is one that the user measured earlier.
    has_measured_scale: bool = False
    #: Whether the albedo is the user's own, and no model's: it stays as it is.
    has_own_albedo: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.has_own_albedo:
            self.request.settings = msgspec.structs.replace(self.request.settings, match_panorama=False)

    def set_source(self, source: Capture) -> None:
        super().set_source(source)
        request = self.request
        pixels, request.encoding = source.panorama
        request.panorama = shrink(pixels, -(-request.settings.texture_width // (2 * MARGIN)))
        request.repair = True  # maps were perceived from it: its bad pixels were reported, if not to be repaired
        request.world_from_panorama = rotation_rows(source.world_from_panorama.to_quaternion().to_matrix())
        if source.has_position:  # the mesh lies on the user's own scene
            request.settings = msgspec.structs.replace(request.settings, level_floor=False, align_walls=False)
            request.known_distances = source.known_distances

    def scene_spec(self, reply: SceneReply | None, scene_uid: int, settings: SceneSettings) -> SceneSpec:
        return SceneSpec(
            source=self.source,
            name=self.name,
            scene_uid=scene_uid,
            directory=self.directory,
            maps_notice=self.maps_notice,
            floor=self.floor,
            has_own_albedo=self.has_own_albedo,
            request=SceneRequest(files=self.request.files, settings=settings),
        )

    def cost(self) -> Hashable:
        return self.request.settings

    def build(self, reply: SceneReply, scene: bpy.types.Scene) -> str:
        info = reply.info
        turn = Matrix(info.world_from_panorama)
        posed = self.source is not None and self.source.has_position
        place = self.source.world_from_panorama.translation if posed else Vector((0, 0, info.camera_height_m))
        floor = turn.inverted() @ Vector((0, 0, 0 if posed else -info.camera_height_m))
        with all_or_nothing(scene):
            pose = Matrix.Translation(place) @ turn.to_4x4()
            collection = build_mesh(scene, reply, self._panorama(), self.name, pose)
            scale.store(
                environment.of(collection), self.maps_digest(), info.scale, floor, measured=self.has_measured_scale
            )
            notice = self.notice(reply)
            _finish(scene, collection)
            return f"{tr_report('Built {name!r}.', name=collection.name)} {notice}".strip()

    def build_dome(self, scene: bpy.types.Scene) -> str:
        """Build a dome from the same maps, without the backend, and return a report of it.

        Raise InputError, PanoramaError: see `maps_folder.read`.
        """
        settings = self.request.settings
        if self.source is None:
            report = dome_from_folder(scene, self.directory, settings, self.maps_digest())
        else:
            report = dome_from_files(scene, self.name, self.request.files, self.source, settings, self.floor)
        return " ".join(filter(None, (report, self._scale_notice())))

    def maps_digest(self) -> str:
        """Return the digest of the distance map's file (`scale.digest`); "" if there is none."""
        return _digest(self.request.files)

    def keep_measured_scale(self, scene: bpy.types.Scene) -> None:
        """Use the scale that the user measured in an environment of `scene` from the same maps, if any."""
        measured = scale.measured(scene, self.maps_digest())
        if measured is not None:
            self.has_measured_scale = True
            self.request.settings = msgspec.structs.replace(self.request.settings, scale=measured)

    def summary(self, reply: SceneReply) -> str:
        return tr("{count:,} triangles", count=len(reply.triangles))

    def notice(self, reply: SceneReply) -> str:
        return " ".join(filter(None, (self.maps_notice, *reply.info.notices, self._scale_notice())))

    def _scale_notice(self) -> str:
        return "The measured scale was kept." if self.has_measured_scale else ""

    def _panorama(self) -> bpy.types.Image | None:
        """Create the world's image, if there is a panorama."""
        if self.source is not None:
            return self.source.world_picture()
        for filename, data in self.request.files.items():
            if Path(filename).stem.lower() == "panorama":
                light = Path(filename).suffix.lower() in {".exr", ".hdr"}
                return images.create_from_file("panorama", data, "Linear Rec.709" if light else "sRGB")
        return None


def from_folder(directory: str | Path, scene_uid: int, settings: SceneSettings) -> SceneSpec:
    """Return the job that builds a mesh from a folder of maps. Raise InputError if it has none."""
    path = Path(bpy.path.abspath(str(directory)))
    request = SceneRequest(files=maps_folder.files(path), settings=settings)
    return SceneSpec(
        name=path.name,
        scene_uid=scene_uid,
        directory=path,
        request=request,
        has_own_albedo=_has_own(path, request.files, "albedo"),
    )


def _has_own(directory: Path, files: dict[str, np.ndarray], name: str) -> bool:
    """Return whether the map is none of a result that is as it was written. False without it."""
    return any(Path(file).stem.lower() == name and not result_folder.is_own(directory / file) for file in files)


def _digest(files: dict[str, np.ndarray]) -> str:
    found = (data for name, data in files.items() if Path(name).stem.lower() == DISTANCE.name)
    return next((scale.digest(data) for data in found), "")


def dome_from_files(
    scene: bpy.types.Scene,
    name: str,
    files: dict[str, np.ndarray],
    source: Capture,
    settings: SceneSettings,
    floor: FloorPlane | None,
) -> str:
    """Build a dome from the files of perceived maps, as SceneRequest.files, and return a report of it."""
    with all_or_nothing(scene):
        maps = {
            kind.name: images.create_from_file(f"{name} {kind.name}", files[kind.filename], kind.colorspace)
            for kind in MAPS.values()
            if kind.filename in files
        }
        collection, notice = _dome(scene, maps, source.world_picture(), name, settings, source, floor, _digest(files))
        return f"{tr_report('Built {name!r}.', name=collection.name)} {notice}".strip()


def dome_from_folder(
    scene: bpy.types.Scene, directory: str | Path, settings: SceneSettings, maps_digest: str = ""
) -> str:
    """Build a dome from a folder of maps and return a report of it. Raise InputError, PanoramaError.

    `maps_digest`: `scale.digest` of the distance map's file; "" doesn't keep the scale for other builds.
    """
    with all_or_nothing(scene):
        folder = maps_folder.read(directory)
        name = Path(bpy.path.abspath(str(directory))).name
        floor = None if folder.info is None else folder.info.floor
        collection, notice = _dome(scene, folder.maps, folder.panorama, name, settings, None, floor, maps_digest)
        report = tr_report("Built {name!r} from {maps}.", name=collection.name, maps=", ".join(folder.maps))
        return f"{report} {notice}".strip()


def _dome(
    scene: bpy.types.Scene,
    maps: dict[str, bpy.types.Image],
    panorama: bpy.types.Image | None,
    name: str,
    settings: SceneSettings,
    source: Capture | None,
    floor: FloorPlane | None,
    maps_digest: str,
) -> tuple[bpy.types.Collection, str]:
    """Build a dome from images (`build.build`), step inside, and return a notice for the user.

    Raise PanoramaError (`pixels.raw`).
    """
    height, metres, notice = settings.camera_height_m, settings.scale, ""
    posed = source is not None and source.has_position
    turn = Matrix.Identity(3) if source is None else source.world_from_panorama.to_3x3()
    if floor is not None and settings.level_floor and not posed:
        turn, tilt_deg = dome.levelled(turn, floor)
        notice = f"The floor was tilted by {tilt_deg:.1f}°." if tilt_deg else ""
    distance = pixels.raw(maps["distance"])[..., :1] if "distance" in maps else None
    if distance is not None:
        if metres is None and source is not None and source.known_distances is not None:
            metres = true_scale(distance[..., 0], source.known_distances)
        depth = dome.floor_depth(distance) if floor is None else dome.depth_below(turn, floor)
        if metres is None:
            metres = height / depth
        else:
            height = metres * depth
    place = Vector((0, 0, height)) if source is None else source.pose(height).translation
    pose = Matrix.Translation(place) @ turn.to_4x4()
    collection = build(scene, maps, panorama, name, scale=metres, world_from_panorama=pose)
    if source is not None:
        light_probe.remember(scene.world, source.panorama)
    if distance is not None:
        below = pose.to_3x3().inverted() @ Vector((0, 0, 0 if posed else -height))
        scale.store(environment.of(collection), maps_digest, metres, below, measured=settings.scale is not None)
    _finish(scene, collection)
    return collection, notice


def _finish(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    """Step inside the built collection, and let it replace an earlier one where that is, if the user wants that.

    Removing comes last: what it removes could not be restored (`all_or_nothing`).
    """
    if scene.panoform.replace_earlier:
        remove.take_place(scene, collection)
    show(scene, collection)
    if scene.panoform.replace_earlier:
        remove.replace_earlier(scene, collection)
