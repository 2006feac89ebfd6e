"""The operators for generated panoramas: use, perceive, show in their folder, make again, delete; and past prompts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import StringProperty

from ...shared.atomic_write import translate_errors
from ...shared.protocol.errors import InputError, SettingError
from ..translation import tr_report
from ..ui.operator_parts import (
    FINISHED,
    build_disabled_reason,
    job_disabled_reason,
    poll_unless,
    relay,
    reporting,
)
from . import deleted, gallery, panoramas
from .gallery import Entry
from .properties import SIZE_ITEMS

#: Settings that the recipe and the panel have under one name; 0 and "" stand for None in the panel.
_SETTINGS = (
    "prompt", "negative_prompt", "true_cfg_scale", "method", "lora", "trigger", "guidance_scale", "shift", "hdr",
    "measure_light", "sun_strength", "sun_threshold",
)  # fmt: skip
#: Most prompts in the menu.
_PROMPTS = 20


class _PanoramaOperator:
    """Base of the operators for one panorama of the gallery."""

    name: StringProperty(name="Panorama", description="File name of a panorama in the folder")

    def entry(self, scene: bpy.types.Scene) -> Entry:
        """Return the entry. Raise InputError if there is none of that name."""
        found = next((entry for entry in gallery.entries(scene) if entry.path.name == self.name), None)
        if found is None:
            raise InputError(f"There is no panorama {self.name!r}.", "It was moved or deleted.")
        return found


class PANOFORM_OT_use_panorama(_PanoramaOperator, bpy.types.Operator):
    """Use this panorama as the world"""

    bl_idname = "panoform.use_panorama"
    bl_label = "Use as World"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context.scene)
        panoramas.show(context.scene, entry.path, panoramas.world_from_panorama(entry.recipe))
        return FINISHED


class PANOFORM_OT_perceive_panorama(_PanoramaOperator, bpy.types.Operator):
    """Use this panorama as the world, perceive it, and build the scene from it"""

    bl_idname = "panoform.perceive_panorama"
    bl_label = "Perceive This"
    bl_options: ClassVar = {"UNDO"}

    poll = poll_unless(lambda: job_disabled_reason() or build_disabled_reason())

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context.scene)
        panoramas.show(context.scene, entry.path, panoramas.world_from_panorama(entry.recipe))
        relay(self, lambda: bpy.ops.panoform.perceive(source="WORLD"))
        return FINISHED  # the world is another, whatever became of the job


class PANOFORM_OT_show_panorama_folder(_PanoramaOperator, bpy.types.Operator):
    """Show the folder of this panorama and its recipe in the system's file browser"""

    bl_idname = "panoform.show_panorama_folder"
    bl_label = "Show in File Browser"

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        bpy.ops.wm.path_open(filepath=str(self.entry(context.scene).path.parent))
        return FINISHED


class PANOFORM_OT_generate_again(_PanoramaOperator, bpy.types.Operator):
    """Generate another panorama with the settings of this one and a new seed. The settings are put into the panel"""

    bl_idname = "panoform.generate_again"
    bl_label = "Generate Again"
    bl_options: ClassVar = {"UNDO"}

    poll = poll_unless(job_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        entry = self.entry(context.scene)
        use_recipe(context.scene, entry)
        steps = entry.recipe.settings.num_inference_steps or 0
        relay(self, lambda: bpy.ops.panoform.generate(num_inference_steps=steps))
        return FINISHED


class PANOFORM_OT_delete_panorama(_PanoramaOperator, bpy.types.Operator):
    """Delete the files of this panorama from the disk. Worlds in this .blend keep it, packed"""

    bl_idname = "panoform.delete_panorama"
    bl_label = "Delete Panorama"
    bl_options: ClassVar = {"UNDO"}  # so that the file, which keeps it packed, is to be saved

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        text = f'Delete "{self.name}" from the disk?'
        return context.window_manager.invoke_confirm(self, event, title=text, confirm_text="Delete", icon="WARNING")

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        path = self.entry(context.scene).path
        deleted.keep(path)
        for file in (path, path.with_suffix(".json")):
            with translate_errors(file):
                file.unlink()
        self.report({"INFO"}, tr_report("Deleted {path}.", path=path))
        return FINISHED


class PANOFORM_OT_use_prompt(bpy.types.Operator):
    """Put this prompt into the panel"""

    bl_idname = "panoform.use_prompt"
    bl_label = "Use Prompt"
    bl_options: ClassVar = {"INTERNAL", "UNDO"}

    prompt: StringProperty(name="Prompt")

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.scene.panoform.generate.prompt = self.prompt
        return FINISHED


class PANOFORM_MT_prompts(bpy.types.Menu):
    """The prompts of the panoramas in the folder, the newest first"""

    bl_idname = "PANOFORM_MT_prompts"
    bl_label = "Past Prompts"

    def draw(self, context: bpy.types.Context) -> None:
        for prompt in prompts(context.scene):
            self.layout.operator("panoform.use_prompt", text=prompt).prompt = prompt


def prompts(scene: bpy.types.Scene) -> list[str]:
    """Return the prompts of the panoramas in the scene's folder, each once, the newest first."""
    found = dict.fromkeys(entry.recipe.settings.prompt for entry in gallery.entries(scene))
    return [prompt for prompt in found if prompt.strip()][:_PROMPTS]


def use_recipe(scene: bpy.types.Scene, entry: Entry) -> None:
    """Put the settings of a panorama into the panel. Raise InputError if it can't be generated from there."""
    recipe, panel = entry.recipe, scene.panoform.generate
    if recipe.kind == "edit":
        raise SettingError(f"{entry.path.name} is an edit.", "Use the panorama it was made from, and Edit.")
    image = bpy.data.images.get(recipe.source) if recipe.kind == "picture" else None
    # A render of the camera's view is named after its scene.
    is_render = recipe.kind == "picture" and image is None and recipe.source == scene.name and scene.camera is not None
    if recipe.kind == "picture" and image is None and not is_render:
        raise InputError(f"The picture {recipe.source!r} is not in this file.", "Open it as the picture in Generate.")
    sizes = [item[0] for item in SIZE_ITEMS]
    if str(recipe.size[0]) not in sizes:
        raise SettingError(f"{entry.path.name} is {recipe.size[0]} high.", f"The panel has {', '.join(sizes)}.")
    lora = recipe.settings.lora
    if lora in recipe.weights and Path(panel.lora).name != lora:
        raise SettingError(f"The recipe names the LoRA {lora}, but not where it is.", "Choose its file as LoRA first.")
    for name in (name for name in _SETTINGS if name != "lora" or lora not in recipe.weights):
        value = getattr(recipe.settings, name)
        panel.property_unset(name) if value is None else setattr(panel, name, value)
    panel.of, panel.size, panel.new_seed, panel.count = "WORDS", str(recipe.size[0]), True, 1
    scene.panoform.engine = recipe.engine.engine.upper()
    if is_render:
        panel.of = "CAMERA"
    if image is not None:
        panel.of, panel.image = "PICTURE", image
        for name in ("fov", "yaw", "pitch", "roll"):
            setattr(panel, name, math.radians(getattr(recipe.view, name) or 0))


CLASSES = (
    PANOFORM_OT_use_panorama,
    PANOFORM_OT_perceive_panorama,
    PANOFORM_OT_show_panorama_folder,
    PANOFORM_OT_generate_again,
    PANOFORM_OT_delete_panorama,
    PANOFORM_OT_use_prompt,
    PANOFORM_MT_prompts,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
