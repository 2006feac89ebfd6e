"""The operators that texture meshes."""

from __future__ import annotations

from typing import Any, ClassVar

import bpy
import msgspec
import numpy as np
from bpy.props import IntProperty, StringProperty

from ...shared import json_file
from ...shared.jobs.texture import VIEWS, TextureInfo
from ...shared.protocol.errors import InputError, SceneError, SettingError
from ...shared.weights import WEIGHTS
from .. import preferences
from ..capture import sources
from ..capture.picture import CutOut
from ..capture.properties import RENDER_SAMPLES
from ..capture.render import ObjectRender, Render
from ..ui.engine_properties import quality_property
from ..ui.operator_parts import (
    FINISHED,
    build_disabled_reason,
    job_disabled_reason,
    poll_unless,
    property_or_setting,
    reporting,
    run_job,
    setting,
    start_render,
)
from . import mesh, parts, reference
from .build import FIRST, RECORD, SELECTION, VIEW, pose
from .properties import TextureInputs, size_property
from .spec import TextureSpec, from_mesh, settings_from

#: Stable Diffusion 2.1-base on Hugging Face; MV-Adapter's own files are found by themselves.
MODEL_ID = WEIGHTS["sd21"].repository
#: What the engine without a model does, and what a model would add.
WITHOUT_MODEL = "The picture is projected from the front; the rest is guessed from its colours."
MODEL = (
    "A model draws all sides, also from a prompt: Stable Diffusion 2.1-base (licence CreativeML Open RAIL++-M) and "
    "MV-Adapter (Apache-2.0), 3.8 GB."
)


def selection_disabled_reason() -> str:
    """Return why the selection can't be textured; "" if it can."""
    objects = mesh.selected(bpy.context.view_layer)
    return build_disabled_reason() or ("" if objects else "Select a mesh object")


def texture_disabled_reason(scene: bpy.types.Scene) -> str:
    """Return why the panel's settings can't be textured from; "" if they can."""
    settings = scene.panoform.texture
    reason = selection_disabled_reason()
    if not reason and settings.use_camera:
        return "" if scene.camera is not None else "The scene has no camera"
    if not reason and settings.reference is None:
        if not has_model():
            return "Choose a reference picture; a prompt needs a model"
        if not settings.prompt.strip():
            return "Choose a reference picture, or enter a prompt"
    return reason


def shown(scene: bpy.types.Scene, name: str) -> Any:
    """Return a setting of the panel. Without a model, it doesn't show how views are enlarged, and none are."""
    if name == "upscale" and not has_model():
        return "off"
    return setting(name, scene.panoform.texture, scene.panoform)


def has_model() -> bool:
    """Return whether a model that draws views is set in the preferences."""
    return bool(preferences.get().multiview_model)


def material_with_views() -> bpy.types.Material | None:
    """Return the active object's material, if it has views to bake."""
    active = bpy.context.view_layer.objects.active
    owners = parts.owners([active]) if active is not None else []
    found = [slot.material for thing in owners for slot in _active_first(thing) if slot.material is not None]
    return next((material for material in found if RECORD in material), None)


def _active_first(thing: bpy.types.Object) -> list[bpy.types.MaterialSlot]:
    """Return the material slots of an object, the active one first."""
    return sorted(thing.material_slots, key=lambda slot: slot.slot_index != thing.active_material_index)


def _bake_disabled_reason() -> str:
    reason = job_disabled_reason() or build_disabled_reason()
    return reason or ("" if material_with_views() else "Select an object that Panoform textured")


class PANOFORM_OT_texture(TextureInputs, bpy.types.Operator):
    """Texture the selected meshes as one object, from a reference picture or a prompt"""

    bl_idname = "panoform.texture"
    bl_label = "Texture from Reference"

    quality: quality_property()
    reference: StringProperty(name="Reference", description="Name of an image in this file. Empty with a prompt: none")
    num_inference_steps: IntProperty(name="Steps", description="0: set by the quality", options={"HIDDEN"})
    view_size: IntProperty(
        name="View Size", description="Side of the views in pixels. 0: set by the quality", options={"HIDDEN"}
    )

    poll = poll_unless(lambda: job_disabled_reason() or selection_disabled_reason())

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        return run_job(self, self._spec(context.scene))

    def _spec(self, scene: bpy.types.Scene) -> TextureSpec:
        engine, panel = preferences.get().texture_engine_settings(), scene.panoform.texture
        settings = settings_from(
            lambda name: getattr(self, name) if self.properties.is_property_set(name) else shown(scene, name), engine,
            steps=self.num_inference_steps, view_size=self.view_size,
        )  # fmt: skip
        image, use_camera = self._reference(scene)
        if image is None and not use_camera and not settings.prompt.strip():
            raise SettingError("There is neither a reference picture nor a prompt.", "Give one of them.")
        if image is None and not use_camera and not has_model():
            raise SettingError("A prompt alone needs a model.", f"Choose a reference picture. {MODEL}")
        objects = mesh.selected(bpy.context.view_layer)
        only_selected = property_or_setting(self, "only_selected_faces", panel)
        textured = mesh.read(objects, faces=parts.selected_faces if only_selected else parts.all_faces)

        def render() -> CutOut | Render:
            return start_render(ObjectRender(scene, objects, samples=RENDER_SAMPLES))

        return from_mesh(
            textured, objects[0].name, scene, engine, settings,
            reference=None if image is None else CutOut(reference.read(image), image.name),
            render=render if use_camera else None,
        )  # fmt: skip

    def _reference(self, scene: bpy.types.Scene) -> tuple[bpy.types.Image | None, bool]:
        """Return the reference picture, and whether the camera's render is it instead.

        Both are from the properties that a script set, else from the panel. Raise SettingError for both at once.
        """
        # In a window, properties that are not set have the values of the last call.
        given = self.properties.is_property_set
        reference, use_camera = given("reference") and self.reference, given("use_camera") and self.use_camera
        if reference and use_camera:
            raise SettingError("There are a reference picture and the camera.", "Give one of them.")
        if reference:
            return sources.named_image(reference), False
        if use_camera or given("prompt"):
            return None, use_camera
        settings = scene.panoform.texture
        return (None, True) if settings.use_camera else (settings.reference, False)


class PANOFORM_OT_bake_texture_again(bpy.types.Operator):
    """Bake the views of the active material again, for example after painting on one of them, or at another size"""

    bl_idname = "panoform.bake_texture_again"
    bl_label = "Bake Again"

    size: size_property()

    poll = poll_unless(_bake_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        return run_job(self, self._spec(context.scene))

    def _spec(self, scene: bpy.types.Scene) -> TextureSpec:
        material = material_with_views()
        try:
            info = json_file.decode(material[RECORD], TextureInfo)
        except ValueError as error:
            raise SceneError(
                f"The custom property {RECORD!r} of the material {material.name!r} is damaged: {error}.",
                "Texture the objects again.",
            ) from error
        objects = sorted(_textured_with(material), key=lambda thing: thing.name != material[FIRST])
        if not objects:
            raise SceneError("What has the texture is no longer in the scene.", "Rename it back, or undo.")
        if objects[0].name != material[FIRST] and len(objects) > 1:
            raise SceneError(f"The object {material[FIRST]!r} no longer has the texture.", "Rename it back, or undo.")
        # The views show the objects as they stood then.
        frame = pose(material) @ objects[0].matrix_world.inverted_safe()
        size = property_or_setting(self, "size", scene.panoform.texture)
        settings = msgspec.structs.replace(info.settings, texture_size=size)
        views = {name: _file(material, name) for name in VIEWS}
        textured = mesh.read(objects, frame, parts.faces_with(material))
        return from_mesh(textured, objects[0].name, scene, info.engine, settings, views=views, drawn=info)


def _textured_with(material: bpy.types.Material) -> list[bpy.types.Object]:
    """Return the objects of the view layer that were selected for the texture. Raise SceneError for a damaged list."""
    layer = bpy.context.view_layer.objects
    if SELECTION not in material:
        return [
            thing
            for thing in layer
            if thing.type == "MESH" and any(slot.material == material for slot in thing.material_slots)
        ]
    try:
        names = json_file.decode(material[SELECTION], list[str])
    except ValueError as error:
        raise SceneError(
            f"The custom property {SELECTION!r} of the material {material.name!r} is damaged: {error}.",
            "Texture the objects again.",
        ) from error
    return [thing for name in names if (thing := layer.get(name)) is not None and parts.has_meshes(thing)]


def _file(material: bpy.types.Material, view: str) -> np.ndarray:
    """Return the content of a view's image file, with what was painted on it, (bytes,) uint8."""
    image = material.get(VIEW.format(view))
    if image is None:
        raise InputError(f"The material {material.name!r} has lost its view {view}.", "Texture the object again.")
    if image.is_dirty or not image.packed_file:
        image.pack()
    return np.frombuffer(image.packed_file.data, np.uint8)


class PANOFORM_OT_use_multiview_hub(bpy.types.Operator):
    """Load Stable Diffusion 2.1-base (licence CreativeML Open RAIL++-M) and MV-Adapter (Apache-2.0) from Hugging Face,
    3.8 GB, at the first use"""

    bl_idname = "panoform.use_multiview_hub"
    bl_label = "Use Model from Hugging Face"
    bl_options: ClassVar = {"INTERNAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        preferences.change("multiview_model", MODEL_ID)
        return FINISHED


CLASSES = (PANOFORM_OT_texture, PANOFORM_OT_bake_texture_again, PANOFORM_OT_use_multiview_hub)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
