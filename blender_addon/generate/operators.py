"""The operators that make and change panoramas; operator_parts.py tells how they run."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import BoolProperty, IntProperty, StringProperty
from mathutils import Matrix

from ...shared.engines import QUALITIES, EngineSettings
from ...shared.jobs.edit import check_strength
from ...shared.jobs.generate import GenerateSettings, View, check_generate
from ...shared.protocol.errors import InputError, SceneError, SettingError, WeightsError
from .. import preferences
from ..capture import picture, pixels, sources
from ..capture.render import ViewRender
from ..capture.sources import Capture
from ..jobs.manager import jobs
from ..jobs.specs import EditOrder, GenerateOrder
from ..ui.operator_parts import (
    CANCELLED,
    FINISHED,
    RENDER_SAMPLES,
    carry_out,
    given,
    greyed_by,
    rendered,
    reporting,
    why_not_begin,
    why_not_build,
)
from . import mask, panoramas, sun_lamp
from .properties import Drawing, Editing, Generating

GET_FLUX = (
    "Accept FLUX.1-dev's licence on huggingface.co, save your access token, then choose the engine FLUX + OmniX. "
    "Or name a copy of yours in the preferences."
)


def has_flux(scene: bpy.types.Scene) -> bool:
    """Whether the panel's engine for generating is FLUX."""
    return preferences.get().engine_settings(scene.panoform.generate.engine).engine == "flux"


def _need_flux(engine: EngineSettings, what: str) -> None:
    if engine.engine != "flux":
        raise WeightsError(f"{what} need FLUX.1-dev.", GET_FLUX)


def why_not_generate(scene: bpy.types.Scene) -> str:
    """What the panel's settings lack to generate; "" for nothing."""
    settings = scene.panoform.generate
    try:
        if settings.of == "CAMERA":
            picture.camera_view(scene)
    except InputError as error:
        return str(error)
    if settings.of == "PICTURE" and settings.image is None:
        return "Choose a picture."
    if settings.of == "PICTURE" and not settings.fov:
        return "The picture doesn't tell its field of view: give it."
    if settings.of == "WORDS" and not settings.prompt.strip():
        return "Write what it shows."
    return ""


def why_not_edit(scene: bpy.types.Scene) -> str:
    """What the panel's settings lack to edit; "" for nothing."""
    settings = scene.panoform.edit
    try:
        sources.world_image(scene)
    except SceneError as error:
        return error.message
    if settings.mode == "INPAINT" and settings.mask is None:
        return "Paint a mask, white where it is to change."
    if settings.mode != "VARY" and not settings.prompt.strip():
        return "Write what is to be there."
    return ""


def why_not_split() -> str:
    """Why the world's sun can't be split off now; "" where it can."""
    return "Panoform is at work: wait for it, or cancel it" if jobs.job is not None else why_not_build()


class _DrawingOperator(Drawing):
    """What making and changing have in common."""

    height: IntProperty(name="Height", description="Of the panorama, in pixels", options={"HIDDEN"})
    num_inference_steps: IntProperty(name="Steps", description="0: by the quality", options={"HIDDEN"})
    out: StringProperty(
        name="File",
        description="EXR to write, or several, each with its seed. Empty: new ones in the scene's folder",
        subtype="FILE_PATH",
    )

    poll = greyed_by(why_not_begin)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        return carry_out(self, self._order(context.scene))

    def _get(self, scene: bpy.types.Scene, name: str):
        return given(self, name, scene.panoform.generate)

    def _common(self, scene: bpy.types.Scene) -> dict:
        """What an order is made of in any case."""
        engine = preferences.get().engine_settings(self._get(scene, "engine"))
        return {"scene_uid": scene.session_uid, "engine": engine}

    def _path(self, settings: GenerateSettings, *sources: bpy.types.Image | None) -> Path | None:
        """Where the panoramas go; None: under names that are free. Raises OutputError (`panoramas.check_path`)."""
        if not self.out:
            return None
        path = Path(bpy.path.abspath(self.out))
        panoramas.check_path(path, settings.seeds, [image for image in sources if image])
        return path

    def _settings(self, scene: bpy.types.Scene, prompt: str, height: int) -> GenerateSettings:
        """Raises SettingError (`check_generate`)."""
        # FLUX's for the starter too: it completes pictures in as many steps.
        quality = QUALITIES["flux"][self._get(scene, "quality")]
        same = ("method", "negative_prompt", "true_cfg_scale", "hdr", "sun_strength", "sun_threshold")
        own_if_empty = ("lora", "trigger", "guidance_scale", "shift")
        seed = self._seed(scene)
        fields = {name: self._get(scene, name) for name in same}
        fields |= {name: self._get(scene, name) or None for name in own_if_empty}
        fields |= {
            "prompt": prompt,
            "height": height,
            "num_inference_steps": self.num_inference_steps or quality.num_inference_steps,
            "seeds": tuple(range(seed, seed + self._get(scene, "count"))),
        }
        # Blender's numbers have 24 bits: 0.98 is 0.9800000190734863.
        fields |= {name: round(value, 6) for name, value in fields.items() if isinstance(value, float)}
        made = GenerateSettings(**fields)
        check_generate(made)
        return made

    def _seed(self, scene: bpy.types.Scene) -> int:
        settings = scene.panoform.generate
        if self._get(scene, "new_seed") and not self.properties.is_property_set("seed"):
            settings.seed = random.randrange(2**31)
            return settings.seed
        return self._get(scene, "seed")


class PANOFORM_OT_generate(_DrawingOperator, Generating, bpy.types.Operator):
    """Make a panorama of words or around a picture, and light the scene with it"""

    bl_idname = "panoform.generate"
    bl_label = "Generate"

    image: StringProperty(name="Picture", description="Name of an image of this file, to be completed")
    use_camera: BoolProperty(name="Camera", description="Complete what the scene's camera sees, rendered")

    def _order(self, scene: bpy.types.Scene) -> GenerateOrder:
        common = self._common(scene)
        prompt = self._get(scene, "prompt")
        height = self.height or int(self._get(scene, "size"))
        settings = self._settings(scene, prompt, height)
        of = self._of(scene)
        if of == "WORDS":
            _need_flux(common["engine"], "Words")
            if not prompt.strip():
                raise SettingError("There are no words to make a panorama of.", "Write what it shows.")
        image = self._picture(scene) if of == "PICTURE" else None
        path = self._path(settings, image)
        source = rendered(ViewRender(scene, samples=RENDER_SAMPLES)) if of == "CAMERA" else None
        if image:
            source = picture.from_image(image, self._view(scene))
        name = prompt.strip() or (Path(source.source).stem if isinstance(source, picture.Picture) else scene.name)
        return GenerateOrder(source=source, name=name, settings=settings, path=path, **common)

    def _of(self, scene: bpy.types.Scene) -> str:
        """What it is made of: what the script gave, else what the panel has."""
        if self.image:
            return "PICTURE"
        if self.use_camera:
            return "CAMERA"
        return "WORDS" if self.properties.is_property_set("prompt") else scene.panoform.generate.of

    def _picture(self, scene: bpy.types.Scene) -> bpy.types.Image:
        image = _image(self.image) if self.image else scene.panoform.generate.image
        if image is None:
            raise SceneError("No picture is chosen.", "Choose an image of this file.")
        return image

    def _view(self, scene: bpy.types.Scene) -> View:
        fov, *angles = (round(math.degrees(self._get(scene, name)), 4) for name in ("fov", "yaw", "pitch", "roll"))
        return View(fov=fov or None, yaw=angles[0], pitch=angles[1], roll=angles[2])


class PANOFORM_OT_edit(_DrawingOperator, Editing, bpy.types.Operator):
    """Change the world's panorama where the mask is white, fill in what is missing, or vary all of it"""

    bl_idname = "panoform.edit"
    bl_label = "Edit"

    image: StringProperty(name="Panorama", description="Name of an image of this file. Empty: the world's HDRI")
    mask: StringProperty(name="Mask", description="Name of an image of this file, white where it is to change")

    def _get(self, scene: bpy.types.Scene, name: str):
        return given(self, name, scene.panoform.edit, scene.panoform.generate)

    def _order(self, scene: bpy.types.Scene) -> EditOrder:
        common = self._common(scene)
        _need_flux(common["engine"], "Edits")
        mode = self._get(scene, "mode")
        settings = self._settings(scene, self._get(scene, "prompt"), self.height or GenerateSettings().height)
        vary = mode == "VARY"
        if not vary and not settings.prompt.strip():
            raise SettingError("There are no words for what is to be in the mask.", "Write them.")
        strength = self._get(scene, "strength") if vary or self.properties.is_property_set("strength") else 1.0
        check_strength(strength)
        image, world_from_panorama = self._panorama(scene)
        mask_image = None if vary else self._mask(scene)
        path = self._path(settings, image, mask_image)
        missing = None
        if mode == "EXTEND":
            colours, alpha = pixels.read_with_alpha(image)
            missing = mask.of_missing(alpha) if alpha is not None else None
        else:
            colours = pixels.read(image)
        if not vary:
            painted = mask.of_image(mask_image) if mask_image else None
            missing = painted if missing is None else missing if painted is None else missing | painted
            if missing is None:
                raise SceneError("No mask is chosen.", "Paint one, white where it is to change.")
        source = Capture(colours, Path(image.name).stem, world_from_panorama, image.session_uid)
        name = settings.prompt.strip() or f"{source.source} variation"
        return EditOrder(
            source=source, name=name, settings=settings, path=path, mask=missing, strength=strength,
            extend=mode == "EXTEND", **common,
        )  # fmt: skip

    def _panorama(self, scene: bpy.types.Scene) -> tuple[bpy.types.Image, Matrix]:
        if not self.image:
            return sources.world_image(scene)
        image = _image(self.image)
        return image, sources.kept_pose(image) or Matrix.Identity(4)

    def _mask(self, scene: bpy.types.Scene) -> bpy.types.Image | None:
        return _image(self.mask) if self.mask else scene.panoform.edit.mask


def _image(name: str) -> bpy.types.Image:
    image = bpy.data.images.get(name)
    if image is None:
        raise SceneError(f"There is no image called {name!r}.", "Choose an image of this file.")
    return image


class PANOFORM_OT_paint_mask(bpy.types.Operator):
    """Make a mask for the world's panorama, and open it to be painted white where the panorama is to change"""

    bl_idname = "panoform.paint_mask"
    bl_label = "Paint a Mask"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        image, _ = sources.world_image(context.scene)
        painted = mask.create(image)
        context.scene.panoform.edit.mask = painted
        if not bpy.app.background:
            mask.open_to_paint(context, painted)
        self.report({"INFO"}, "Paint white what is to change; black takes it back.")
        return FINISHED


class PANOFORM_OT_split_sun(bpy.types.Operator):
    """Make the sun in the world's HDRI a Sun lamp, and take it out of a copy of that HDRI, which becomes the world"""

    bl_idname = "panoform.split_sun"
    bl_label = "Sun as a Lamp"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    poll = greyed_by(why_not_split)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        lamp = sun_lamp.split(scene)
        if lamp is None:
            self.report({"INFO"}, f"No sun stands out in {scene.world.name!r}: all is as it was.")
            return CANCELLED
        (written,) = panoramas.shown(scene)
        self.report({"INFO"}, f"The sun is the lamp {lamp.name!r} now. Wrote the panorama without it: {written}.")
        return FINISHED


CLASSES = (PANOFORM_OT_generate, PANOFORM_OT_edit, PANOFORM_OT_paint_mask, PANOFORM_OT_split_sun)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
