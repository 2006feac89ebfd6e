"""Job that perceives maps of a panorama and builds world, mesh or dome, and material from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import bpy
import msgspec
import numpy as np

from ...shared.engines import EngineSettings
from ...shared.imaging.shrink import shrink
from ...shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings, check_perceive
from ...shared.jobs.scene import SceneRequest, SceneSettings
from ...shared.maps import DISTANCE, MAPS, check_names
from ..capture.sources import Capture
from ..jobs.specs import JobSpec, counted
from ..scene.spec import MapsSpec, SceneSpec, dome_from_files

#: The request's pixels until its source has been rendered; an empty array can't be sent.
NO_PIXELS = np.empty((0, 0, 3), np.float32)


@dataclasses.dataclass(eq=False, kw_only=True)
class PerceiveSpec(MapsSpec):
    """Perceive maps of a panorama and build the scene from them: a mesh, by a job that follows, or a dome."""

    label: ClassVar = "Perceive"

    request: PerceiveRequest
    #: How the scene is built, and whether it is a mesh or objects; else a dome.
    scene_settings: SceneSettings = dataclasses.field(default_factory=SceneSettings)
    is_mesh: bool = False

    def set_source(self, source: Capture) -> None:
        super().set_source(source)
        pixels, self.request.encoding = source.panorama
        self.request.source_size = source.size
        self.request.source_notes = source.notes
        height = self.request.settings.height
        self.request.panorama = pixels if height is None else shrink(pixels, height)

    def cost(self) -> Hashable:
        return cost(self.request.engine, self.request.settings)

    def follow_up(self, reply: PerceiveReply) -> JobSpec | None:
        if not self.is_mesh or DISTANCE.name not in reply.maps:
            return None
        return self.scene_spec(reply, self.scene_uid, self.scene_settings)

    def scene_spec(self, reply: PerceiveReply, scene_uid: int, settings: SceneSettings) -> SceneSpec:
        return SceneSpec(
            source=self.source,
            name=self.name,
            scene_uid=scene_uid,
            maps_notice=self.notice(reply),
            floor=reply.info.floor,
            request=SceneRequest(files=_files(reply), settings=settings),
        )

    def build(self, reply: PerceiveReply, scene: bpy.types.Scene) -> str:
        report = dome_from_files(scene, self.name, _files(reply), self.source, self.scene_settings, reply.info.floor)
        return f"{report} {self.notice(reply)}".strip()

    def summary(self, reply: PerceiveReply) -> str:
        return counted(len(reply.maps), "map")

    def notice(self, reply: PerceiveReply) -> str:
        return " ".join(filter(None, (*reply.info.source_notes, reply.info.notice)))


def _files(reply: PerceiveReply) -> dict[str, np.ndarray]:
    """Return the maps as SceneRequest.files."""
    return {MAPS[name].filename: data for name, data in reply.maps.items()}


def settings_from(get: Callable[[str], Any], engine: EngineSettings) -> PerceiveSettings:
    """Return the settings from properties, which `get` reads by name. Raise SettingError."""
    quality = engine.spec.qualities[get("quality")]
    settings = PerceiveSettings(
        maps=check_names(name.lower() for name in get("maps")),
        num_inference_steps=quality.num_inference_steps,
        height=quality.height,
        seed=get("seed"),
        repair=get("repair"),
    )
    check_perceive(settings)
    return settings


def cost(engine: EngineSettings, settings: PerceiveSettings) -> Hashable:
    """Return what the duration of perceiving depends on."""
    return engine, msgspec.structs.replace(settings, seed=0, repair=False)
