"""Jobs that have maps of a panorama, and the one that builds a mesh from them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from ...shared.imaging.shrink import MARGIN, shrink
from ...shared.jobs.scene import SceneReply, SceneRequest, SceneSettings
from ...shared.maps import MAPS
from ..capture.sources import Capture
from ..jobs.specs import JobSpec
from . import images, maps_folder
from .build import build, build_mesh, show
from .datablocks import all_or_nothing


@dataclasses.dataclass(eq=False, kw_only=True)
class MapsSpec(JobSpec):
    """A job whose result has the maps of a panorama."""

    @abc.abstractmethod
    def scene_spec(self, reply: Any, scene_uid: int, settings: SceneSettings) -> SceneSpec:
        """Return the job that builds a mesh from the maps, and from a panorama beside them."""


@dataclasses.dataclass(eq=False, kw_only=True)
class SceneSpec(MapsSpec):
    """Build a mesh from maps. Without a source, they are those of a folder."""

    request: SceneRequest
    #: The folder of the maps.
    directory: Path | None = None
    #: A notice for the user about the maps, as PerceiveReply.info.notice.
    maps_notice: str = ""

    def set_source(self, source: Capture) -> None:
        super().set_source(source)
        pixels, self.request.encoding = source.panorama
        height = -(-self.request.settings.texture_width // (2 * MARGIN))
        self.request.panorama = shrink(_repaired(pixels), height)

    def scene_spec(self, reply: SceneReply | None, scene_uid: int, settings: SceneSettings) -> SceneSpec:
        return SceneSpec(
            source=self.source,
            name=self.name,
            scene_uid=scene_uid,
            directory=self.directory,
            maps_notice=self.maps_notice,
            request=SceneRequest(files=self.request.files, settings=settings),
        )

    def cost(self) -> Hashable:
        return self.request.settings

    def build(self, reply: SceneReply, scene: bpy.types.Scene) -> str:
        height = self.request.settings.camera_height_m
        pose = Matrix.Translation((0, 0, height)) if self.source is None else self.source.pose(height)
        with all_or_nothing(scene):
            collection = build_mesh(scene, reply, self._panorama(), self.name, pose)
            show(scene, collection)
        return f"Built {collection.name!r}. {self.notice(reply)}".strip()

    def build_dome(self, scene: bpy.types.Scene) -> str:
        """Build a dome from the same maps, without the backend, and return a report of it.

        Raise InputError, PanoramaError: see `maps_folder.read`.
        """
        height = self.request.settings.camera_height_m
        if self.source is None:
            return dome_from_folder(scene, self.directory, height)
        return dome_from_files(scene, self.name, self.request.files, self.source, height)

    def summary(self, reply: SceneReply) -> str:
        return f"{len(reply.triangles):,} triangles"

    def notice(self, reply: SceneReply) -> str:
        return " ".join(filter(None, (self.maps_notice, *reply.info.notices)))

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
    return SceneSpec(name=path.name, scene_uid=scene_uid, directory=path, request=request)


def dome_from_files(
    scene: bpy.types.Scene, name: str, files: dict[str, np.ndarray], source: Capture, camera_height_m: float
) -> str:
    """Build a dome from the files of perceived maps, as SceneRequest.files, and return a report of it."""
    with all_or_nothing(scene):
        maps = {
            kind.name: images.create_from_file(f"{name} {kind.name}", files[kind.filename], kind.colorspace)
            for kind in MAPS.values()
            if kind.filename in files
        }
        collection = build(
            scene,
            maps,
            source.world_picture(),
            name,
            camera_height_m=camera_height_m,
            world_from_panorama=source.pose(camera_height_m),
        )
        show(scene, collection)
    return f"Built {collection.name!r}."


def dome_from_folder(scene: bpy.types.Scene, directory: str | Path, camera_height_m: float) -> str:
    """Build a dome from a folder of maps and return a report of it. Raise InputError, PanoramaError."""
    with all_or_nothing(scene):
        folder = maps_folder.read(directory)
        name = Path(bpy.path.abspath(str(directory))).name
        collection = build(scene, folder.maps, folder.panorama, name, camera_height_m=camera_height_m)
        show(scene, collection)
    return f"Built {collection.name!r} from {', '.join(folder.maps)}."


def _repaired(panorama: np.ndarray) -> np.ndarray:
    """Return the panorama with NaN as 0, infinite pixels as the largest finite value, and no negative ones."""
    if np.isfinite(panorama).all() and panorama.min() >= 0:
        return panorama
    finite = panorama[np.isfinite(panorama)]
    largest = max(float(finite.max()), 0.0) if finite.size else 0.0
    return np.maximum(np.nan_to_num(panorama, nan=0.0, posinf=largest, neginf=0.0), 0.0)
