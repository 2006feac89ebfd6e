"""Job that textures meshes: six views of them, drawn or given, baked into one texture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import bpy
import msgspec
import numpy as np

from ...shared.engines import EngineSettings, check_engine
from ...shared.jobs.texture import (
    TextureInfo,
    TextureReply,
    TextureRequest,
    TextureSettings,
    check,
    check_enlarging,
    check_mesh,
    check_texture,
)
from ..capture.picture import CutOut
from ..capture.render import Render
from ..jobs.specs import JobSpec
from ..translation import tr, tr_report
from . import build
from .mesh import TexturedMesh


@dataclasses.dataclass(eq=False, kw_only=True)
class TextureSpec(JobSpec):
    """Texture objects. Building gives them a new material."""

    label: ClassVar = "Texture"

    request: TextureRequest
    mesh: TexturedMesh
    #: The record of given views; None: they are drawn.
    drawn: TextureInfo | None = None

    def set_source(self, source: CutOut) -> None:
        super().set_source(source)
        self.request.reference, self.request.source = source

    def cost(self) -> Hashable:
        return cost(self.request.engine, self.request.settings, self.request.views is None)

    def build(self, reply: TextureReply, scene: bpy.types.Scene) -> str:
        record = reply.info
        if self.drawn is not None:
            record = msgspec.structs.replace(self.drawn, settings=self.request.settings, seen=record.seen)
        material = build.build(scene, reply, record, self.mesh, self.name)
        return f"{tr_report('Built the material {name!r}.', name=material.name)} {self.notice(reply)}".strip()

    def summary(self, reply: TextureReply) -> str:
        return tr("{size} px texture", size=self.request.settings.texture_size)

    def notice(self, reply: TextureReply) -> str:
        return " ".join(filter(None, (*reply.info.notices, self.mesh.notice)))


def from_mesh(
    mesh: TexturedMesh,
    name: str,
    scene: bpy.types.Scene,
    engine: EngineSettings,
    settings: TextureSettings,
    *,
    reference: CutOut | None = None,
    render: Callable[[], CutOut | Render] | None = None,
    views: dict[str, np.ndarray] | None = None,
    drawn: TextureInfo | None = None,
) -> TextureSpec:
    """Return the job; arguments as in TextureRequest and TextureSpec. Raise InputError, SettingError.

    `render` starts the render of the reference picture, once everything else is checked; it may return it at once.
    """
    request = TextureRequest(**mesh.triangles._asdict(), views=views, engine=engine, settings=settings)
    job = TextureSpec(name=name, scene_uid=scene.session_uid, source=reference, request=request, mesh=mesh, drawn=drawn)
    if render is None:
        check(request)
        return job
    check_texture(settings)
    check_mesh(request)
    check_engine(engine, "texture")
    check_enlarging(engine, settings)
    return dataclasses.replace(job, source=render())


def settings_from(
    get: Callable[[str], Any], engine: EngineSettings, *, steps: int = 0, view_size: int = 0
) -> TextureSettings:
    """Return the settings from properties, which `get` reads by name. Raise SettingError.

    `steps`, `view_size`: 0 for the quality's default.
    """
    quality = engine.spec.qualities[get("quality")]
    settings = TextureSettings(
        prompt=get("prompt"),
        negative_prompt=get("negative_prompt") or None,
        num_inference_steps=steps or quality.num_inference_steps,
        # Blender stores float32: 0.98 is 0.9800000190734863.
        guidance_scale=round(get("guidance_scale"), 6) or None,
        seed=get("seed"),
        view_size=view_size or quality.height,
        upscale=get("upscale"),
        upscaler=bpy.path.abspath(get("upscaler")) if get("upscale") == "file" else "",
        texture_size=get("size"),
        front=get("front"),
    )
    check_texture(settings)
    return settings


def cost(engine: EngineSettings, settings: TextureSettings, draws: bool) -> Hashable:
    """Return what the duration of texturing depends on. `draws`: whether the views are drawn, not given."""
    return engine, draws, msgspec.structs.replace(settings, prompt="", negative_prompt=None, seed=0, front="-Y")
