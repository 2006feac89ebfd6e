"""Jobs that generate or edit panoramas; the first panorama becomes the scene's world."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, ClassVar

import bpy
import msgspec
from mathutils import Matrix

from ...shared.engines import EngineSettings
from ...shared.jobs.edit import EditRequest
from ...shared.jobs.generate import GenerateReply, GenerateRequest, GenerateSettings, PanoramaFile, check_generate
from ...shared.panorama_file import check_path, with_seed
from ..capture.picture import Picture
from ..capture.sources import Capture
from ..jobs.specs import JobSpec, counted
from ..translation import tr_report
from . import panoramas


@dataclasses.dataclass(eq=False, kw_only=True)
class GenerateSpec(JobSpec):
    """Generate a panorama for each seed, from a prompt or by outpainting a picture."""

    label: ClassVar = "Generate"

    request: GenerateRequest | EditRequest
    #: File to write (`with_seed`). None: unused names in the panoramas' folder.
    path: Path | None = None
    #: The panoramas written so far.
    written: list[Path] = dataclasses.field(default_factory=list)
    remove_when_built: bool = True

    @property
    def world_from_panorama(self) -> Matrix:
        """The orientation of the panorama, 4 × 4."""
        return Matrix.Identity(4)

    def preview_pose(self) -> Matrix:
        return self.world_from_panorama

    def set_source(self, source: Picture) -> None:
        super().set_source(source)
        self.request.picture, self.request.view, self.request.source = source

    def cost(self) -> Hashable:
        return cost(self.request.engine, self.request.settings, self.source is None)

    def build(self, reply: GenerateReply, scene: bpy.types.Scene) -> str:
        """Write the files that are not written yet; make the first panorama the world."""
        for panorama in reply.panoramas[len(self.written) :]:
            self.written.append(self._write(panorama, scene))
        panoramas.show(scene, self.written[0], self.world_from_panorama)
        notices = dict.fromkeys(line for panorama in reply.panoramas for line in panorama.recipe.notices)
        return " ".join((tr_report("Wrote {paths}.", paths=", ".join(map(str, self.written))), *notices))

    def summary(self, reply: GenerateReply) -> str:
        return counted(len(reply.panoramas), "panorama")

    def _write(self, panorama: PanoramaFile, scene: bpy.types.Scene) -> Path:
        if self.path is None:
            return panoramas.write_new(panoramas.folder(scene), self.name, panorama)
        seed = panorama.recipe.settings.seeds[0]
        path = with_seed(self.path, seed, self.request.settings.seeds)
        check_path(path, (seed,))  # again: the user may have created a file there since
        panoramas.write(path, panorama)
        return path


@dataclasses.dataclass(eq=False, kw_only=True)
class EditSpec(GenerateSpec):
    """Edit a panorama, once for each seed."""

    label: ClassVar = "Edit"

    request: EditRequest

    @property
    def world_from_panorama(self) -> Matrix:
        return self.source.world_from_panorama

    def set_source(self, source: Capture) -> None:
        self.source = source
        self.request.panorama, self.request.encoding = source.panorama
        self.request.source = source.source
        self.request.turn = panoramas.turn(self.world_from_panorama)

    def cost(self) -> Hashable:
        return super().cost(), self.request.strength


def settings_from(
    get: Callable[[str], Any], *, engine: EngineSettings, prompt: str, height: int, seed: int, steps: int = 0
) -> GenerateSettings:
    """Return the settings from properties, which `get` reads by name. Raise SettingError.

    `steps`: 0 for the quality's default.
    """
    copied = ("method", "negative_prompt", "true_cfg_scale", "hdr", "measure_light", "sun_strength", "sun_threshold")
    optional = ("lora", "trigger", "guidance_scale", "shift")
    fields = {name: get(name) for name in copied} | {name: get(name) or None for name in optional}
    # Blender stores float32: 0.98 is 0.9800000190734863.
    fields = {name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()}
    settings = GenerateSettings(
        prompt=prompt,
        height=height,
        num_inference_steps=steps or engine.spec.qualities[get("quality")].generation_steps,
        seeds=tuple(range(seed, seed + get("count"))),
        **fields,
    )
    check_generate(settings)
    return settings


def cost(engine: EngineSettings, settings: GenerateSettings, prompt_only: bool) -> Hashable:
    """Return what the duration of generating depends on."""
    ignored = {
        "prompt": "",
        "negative_prompt": "",
        "trigger": None,
        "hdr": True,
        "measure_light": settings.hdr and settings.measure_light,
        "sun_strength": 1,
        "sun_threshold": 1,
    }
    seeds = tuple(range(len(settings.seeds)))
    return engine, prompt_only, msgspec.structs.replace(settings, **ignored, seeds=seeds)
