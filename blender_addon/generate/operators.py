"""The operators that generate and edit panoramas; see operator_parts.py for how they run."""

from __future__ import annotations

import functools
import math
import random
from pathlib import Path
from typing import ClassVar

import bpy
import numpy as np
from bpy.props import BoolProperty, IntProperty, StringProperty
from mathutils import Matrix

from ...shared.engines import Capability, EngineSettings
from ...shared.jobs.edit import EditRequest, check_strength
from ...shared.jobs.generate import GenerateRequest, GenerateSettings, View
from ...shared.protocol.errors import InputError, SceneError, SettingError, WeightsError
from .. import preferences
from ..capture import picture, picture_file, sources
from ..capture.pixels import Pixels
from ..capture.properties import RENDER_SAMPLES
from ..capture.render import ViewRender
from ..capture.sources import Capture
from ..jobs.manager import jobs
from ..translation import tr_report
from ..ui.engine_properties import engine_property, quality_property
from ..ui.operator_parts import (
    CANCELLED,
    FINISHED,
    build_disabled_reason,
    job_disabled_reason,
    poll_unless,
    property_or_setting,
    reporting,
    run_job,
    start_render,
)
from ..ui.path_properties import BLEND_RELATIVE
from . import mask, panoramas, sun_lamp
from .properties import EditInputs, GenerateInputs, SamplingProperties
from .spec import EditSpec, GenerateSpec, settings_from

GET_FLUX = (
    "Accept FLUX.1-dev's licence on huggingface.co, save your access token, then choose the engine FLUX + OmniX. "
    "Or set a local copy in the preferences."
)


def engine_can(scene: bpy.types.Scene, capability: Capability) -> bool:
    """Return whether the selected engine has the capability."""
    return preferences.get().engine_settings(scene.panoform.engine).spec.can(capability)


def _check_capability(engine: EngineSettings, capability: Capability, what: str) -> None:
    if not engine.spec.can(capability):
        raise WeightsError(f"{what} need FLUX.1-dev.", GET_FLUX)


def generate_disabled_reason(scene: bpy.types.Scene) -> str:
    """Return why the panel's settings can't be generated from; "" if they can."""
    settings = scene.panoform.generate
    try:
        if settings.of == "CAMERA":
            picture.camera_view(scene)
    except InputError as error:
        return str(error)
    if settings.of == "PICTURE" and settings.image is None:
        return "Choose a picture."
    if settings.of == "PICTURE" and not settings.fov:
        return "The picture's EXIF data has no field of view: enter it."
    if settings.of == "WORDS" and not settings.prompt.strip():
        return "Enter a prompt."
    return ""


def edit_disabled_reason(scene: bpy.types.Scene) -> str:
    """Return why the world can't be edited with the panel's settings; "" if it can."""
    settings = scene.panoform.edit
    try:
        sources.world_image(scene)
    except SceneError as error:
        return error.message
    if settings.mode == "INPAINT" and settings.mask is None:
        return "Paint a mask, white where the panorama is edited."
    if settings.mode != "VARY" and not settings.prompt.strip():
        return "Enter a prompt for the masked area."
    return ""


def _paint_disabled_reason() -> str:
    """Return why no mask can be painted now; "" if one can."""
    scene = bpy.context.scene
    try:
        sources.world_image(scene)
    except SceneError as error:
        return error.message
    return "" if engine_can(scene, "edit") else "Edits need FLUX.1-dev: choose the engine FLUX + OmniX"


def split_disabled_reason() -> str:
    """Return why the world's sun can't be extracted now; "" if it can."""
    return "A job is running: wait for it or cancel it" if jobs.job is not None else build_disabled_reason()


class _SamplingOperator(SamplingProperties):
    """Base of the operators that generate and edit."""

    quality: quality_property()
    engine: engine_property()
    height: IntProperty(name="Height", description="Height of the panorama in pixels", options={"HIDDEN"})
    num_inference_steps: IntProperty(name="Steps", description="0: set by the quality", options={"HIDDEN"})
    out: StringProperty(
        name="File",
        description="EXR file to write, one for each seed. Empty: new files in the folder for panoramas",
        subtype="FILE_PATH",
        options=BLEND_RELATIVE,
    )

    poll = poll_unless(job_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        return run_job(self, self._spec(context.scene))

    def _get(self, scene: bpy.types.Scene, name: str):
        return property_or_setting(self, name, scene.panoform.generate, scene.panoform)

    def _engine(self, scene: bpy.types.Scene) -> EngineSettings:
        return preferences.get().engine_settings(self._get(scene, "engine"))

    def _path(self, settings: GenerateSettings, *sources: bpy.types.Image | None) -> Path | None:
        """Return the file to write; None for an unused name. Raise OutputError (`panoramas.check_path`)."""
        if not self.out:
            return None
        path = Path(bpy.path.abspath(self.out))
        panoramas.check_path(path, settings.seeds, [image for image in sources if image])
        return path

    def _settings(self, scene: bpy.types.Scene, prompt: str, height: int) -> GenerateSettings:
        """Return the settings. Raise SettingError (`check_generate`)."""
        return settings_from(
            lambda name: self._get(scene, name), engine=self._engine(scene), prompt=prompt, height=height,
            seed=self._seed(scene), steps=self.num_inference_steps,
        )  # fmt: skip

    def _seed(self, scene: bpy.types.Scene) -> int:
        settings = scene.panoform.generate
        if self._get(scene, "new_seed") and not self.properties.is_property_set("seed"):
            settings.seed = random.randrange(2**31)
            return settings.seed
        return self._get(scene, "seed")


class PANOFORM_OT_generate(_SamplingOperator, GenerateInputs, bpy.types.Operator):
    """Generate a panorama from a prompt or a picture, and light the scene with it"""

    bl_idname = "panoform.generate"
    bl_label = "Generate Environment"

    image: StringProperty(name="Picture", description="Name of an image in this file to extend to a panorama")
    use_camera: BoolProperty(name="Camera", description="Render the scene camera's view and extend it to a panorama")

    def _spec(self, scene: bpy.types.Scene) -> GenerateSpec:
        engine, prompt = self._engine(scene), self._get(scene, "prompt")
        settings = self._settings(scene, prompt, self.height or int(self._get(scene, "size")))
        kind = self._source_kind(scene)
        if kind == "WORDS":
            _check_capability(engine, "text_to_panorama", "Prompts")
            if not prompt.strip():
                raise SettingError("The prompt is empty.", "Enter a prompt.")
        image = self._picture(scene) if kind == "PICTURE" else None
        path = self._path(settings, image)
        source = start_render(ViewRender(scene, samples=RENDER_SAMPLES)) if kind == "CAMERA" else None
        if image:
            source = picture.from_image(image, self._view(scene))
        return GenerateSpec(
            source=source,
            name=prompt.strip() or (Path(source.source).stem if isinstance(source, picture.Picture) else scene.name),
            scene_uid=scene.session_uid,
            request=GenerateRequest(engine=engine, settings=settings),
            path=path,
        )

    def _source_kind(self, scene: bpy.types.Scene) -> str:
        """Return the item of SOURCE_ITEMS: from the properties a script set, else from the panel."""
        if self.image:
            return "PICTURE"
        if self.use_camera:
            return "CAMERA"
        return "WORDS" if self.properties.is_property_set("prompt") else scene.panoform.generate.of

    def _picture(self, scene: bpy.types.Scene) -> bpy.types.Image:
        image = sources.named_image(self.image) if self.image else scene.panoform.generate.image
        if image is None:
            raise SceneError("No picture is selected.", "Select an image of this file.")
        return image

    def _view(self, scene: bpy.types.Scene) -> View:
        fov, *angles = (round(math.degrees(self._get(scene, name)), 4) for name in ("fov", "yaw", "pitch", "roll"))
        return View(fov=fov or None, yaw=angles[0], pitch=angles[1], roll=angles[2])


class PANOFORM_OT_edit(_SamplingOperator, EditInputs, bpy.types.Operator):
    """Inpaint, extend or vary the world's panorama"""

    bl_idname = "panoform.edit"
    bl_label = "Edit"

    image: StringProperty(name="Panorama", description="Name of an image in this file. Empty: the world's HDRI")
    mask: StringProperty(name="Mask", description="Name of an image in this file, white where the panorama is edited")

    def _get(self, scene: bpy.types.Scene, name: str):
        return property_or_setting(self, name, scene.panoform.edit, scene.panoform.generate, scene.panoform)

    def _spec(self, scene: bpy.types.Scene) -> EditSpec:
        engine = self._engine(scene)
        _check_capability(engine, "edit", "Edits")
        mode = self._get(scene, "mode")
        settings = self._settings(scene, self._get(scene, "prompt"), self.height or GenerateSettings().height)
        vary = mode == "VARY"
        if not vary and not settings.prompt.strip():
            raise SettingError("A masked edit needs a prompt.", "Describe what the masked area shows.")
        strength = self._get(scene, "strength") if vary or self.properties.is_property_set("strength") else 1.0
        check_strength(strength)
        image, world_from_panorama = self._panorama(scene)
        mask_image = None if vary else self._mask(scene)
        path = self._path(settings, image, mask_image)
        read = picture_file.read_image if self.image else picture_file.displayed  # the world as it is displayed
        reading = read(image)
        colours, painted = _read(reading, image.name, mask_image, mode)
        source = Capture(
            colours, Path(image.name).stem, world_from_panorama, image.session_uid, is_plain=reading.is_plain
        )
        request = EditRequest(
            panorama=colours.pixels, encoding=colours.encoding, mask=painted, strength=strength,
            extend=mode == "EXTEND", engine=engine, settings=settings,
        )  # fmt: skip
        return EditSpec(
            source=source,
            name=settings.prompt.strip() or f"{source.source} variation",
            scene_uid=scene.session_uid,
            request=request,
            path=path,
        )

    def _panorama(self, scene: bpy.types.Scene) -> tuple[bpy.types.Image, Matrix]:
        if not self.image:
            return sources.world_image(scene)
        image = sources.named_image(self.image)
        return image, sources.stored_pose(image) or Matrix.Identity(4)

    def _mask(self, scene: bpy.types.Scene) -> bpy.types.Image | None:
        return sources.named_image(self.mask) if self.mask else scene.panoform.edit.mask


def _read(
    reading: picture_file.Reading, name: str, mask_image: bpy.types.Image | None, mode: str
) -> tuple[Pixels, np.ndarray | None]:
    """Return the panorama, and its mask, (H, W, 1) uint8: as painted, and in mode EXTEND where it is transparent.

    None stands for everywhere. Raise SceneError without a mask.
    """
    if mode == "VARY":
        return reading.opaque(name), None
    masks = [mask.from_image(mask_image)] if mask_image else []
    if mode == "EXTEND":
        colours, alpha = reading.colours, reading.alpha
        masks += [mask.from_alpha(alpha)] if alpha is not None else []
    else:
        colours = reading.opaque(name)
    if not masks:
        raise SceneError("No mask is selected.", "Paint one, white where the panorama is edited.")
    return colours, functools.reduce(np.bitwise_or, masks)


class PANOFORM_OT_paint_mask(bpy.types.Operator):
    """Create a mask for the world's panorama and open it for painting: white where the panorama is edited"""

    bl_idname = "panoform.paint_mask"
    bl_label = "Paint Mask"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    poll = poll_unless(_paint_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        image, _ = sources.world_image(context.scene)
        painted = mask.create(image)
        context.scene.panoform.edit.mask = painted
        if not bpy.app.background:
            mask.open_to_paint(context, painted)
        self.report({"INFO"}, "Paint white where the panorama is edited; black erases.")
        return FINISHED


class PANOFORM_OT_split_sun(bpy.types.Operator):
    """Replace the sun in the world's HDRI by a Sun lamp; a copy of the HDRI without the sun becomes the world"""

    bl_idname = "panoform.split_sun"
    bl_label = "Extract Sun to Lamp"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    poll = poll_unless(split_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        lamp = sun_lamp.split(scene)
        if lamp is None:
            self.report(
                {"INFO"}, tr_report("{name!r} has no distinct sun: nothing was changed.", name=scene.world.name)
            )
            return CANCELLED
        text = "Added the lamp {lamp!r} and the world {world!r} without the sun."
        self.report({"INFO"}, tr_report(text, lamp=lamp.name, world=scene.world.name))
        return FINISHED


CLASSES = (PANOFORM_OT_generate, PANOFORM_OT_edit, PANOFORM_OT_paint_mask, PANOFORM_OT_split_sun)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
