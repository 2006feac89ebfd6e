"""Job that perceives maps of a panorama and builds world, dome and material from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import bpy
import msgspec
import numpy as np

from ...shared.engines import EngineSettings
from ...shared.imaging.shrink import shrink
from ...shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings, check_perceive
from ...shared.maps import MAPS, check_names
from ..capture.sources import Capture
from ..jobs.specs import JobSpec, counted
from ..scene import images
from ..scene.build import build, select

#: Placeholder in a request until its source is available; an empty array can't be sent.
NO_PIXELS = np.empty((0, 0, 3), np.float32)


@dataclasses.dataclass(eq=False, kw_only=True)
class PerceiveSpec(JobSpec):
    """Perceive maps of a panorama and build the scene from them."""

    request: PerceiveRequest
    #: Height of the camera above the floor in metres.
    camera_height_m: float = 1.6

    def set_source(self, source: Capture) -> None:
        super().set_source(source)
        pixels, self.request.encoding = source.panorama
        self.request.source_size = pixels.shape[:2]
        height = self.request.settings.height
        self.request.panorama = pixels if height is None else shrink(pixels, height)

    def cost(self) -> Hashable:
        return cost(self.request.engine, self.request.settings)

    def build(self, reply: PerceiveReply, scene: bpy.types.Scene) -> str:
        maps = {
            name: images.create_from_file(f"{self.name} {name}", data, MAPS[name].colorspace)
            for name, data in reply.maps.items()
        }
        collection = build(
            scene,
            maps,
            self.source.world_picture(),
            self.name,
            camera_height_m=self.camera_height_m,
            world_from_panorama=self.source.pose(self.camera_height_m),
        )
        select(scene, collection)
        return f"Built {collection.name!r}. {reply.info.notice}".strip()

    def summary(self, reply: PerceiveReply) -> str:
        return counted(len(reply.maps), "map")

    def notice(self, reply: PerceiveReply) -> str:
        return reply.info.notice


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
