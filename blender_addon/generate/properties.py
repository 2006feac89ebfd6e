"""What the panel's sections Generate and Edit edit: `scene.panoform.generate` and `scene.panoform.edit`.

The groups of properties below are those of the operators too.
"""

from __future__ import annotations

import math

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ...shared.jobs.generate import MAX_SEEDS, METHODS, GenerateSettings
from ..capture import picture
from ..ui.engine_properties import engine_property, quality_property
from . import gallery

OF_ITEMS = (
    ("WORDS", "Words", "What the words say, all around. Needs FLUX"),
    ("PICTURE", "Picture", "A photo, and what might be around it"),
    ("CAMERA", "Camera", "What the scene's camera sees, rendered, and what might be around it"),
)
SIZE_ITEMS = tuple((str(height), f"{2 * height} × {height}", "In pixels") for height in (512, 1024, 2048))
METHOD_ITEMS = tuple((name, label, "") for name, label in METHODS.items())
MODE_ITEMS = (
    ("INPAINT", "Inpaint", "Put what the words say where the mask is white; all else keeps every bit"),
    ("EXTEND", "Extend", "Fill in what is missing: where the mask is white, or the panorama transparent"),
    ("VARY", "Vary", "Make a variation of the whole panorama"),
)

_DEFAULTS = GenerateSettings()


def _angle(name: str, description: str) -> FloatProperty:
    return FloatProperty(name=name, description=description, subtype="ANGLE", unit="ROTATION")


class Drawing:
    """How anything is drawn, made or changed. 0 and "": the method's own."""

    quality: quality_property()
    engine: engine_property()
    seed: IntProperty(name="Seed", description="The same seed and words give the same panorama", soft_min=0)
    new_seed: BoolProperty(name="New Seed Each Time", default=True)
    count: IntProperty(
        name="Variations", description="How many to make: of this seed, and of those that follow it", default=1,
        soft_min=1, soft_max=MAX_SEEDS,
    )  # fmt: skip
    method: EnumProperty(name="Method", description="How words become a panorama", items=METHOD_ITEMS)
    lora: StringProperty(
        name="LoRA", description="A .safetensors file, a folder or a Hugging Face id. Empty: the method's own"
    )
    trigger: StringProperty(name="Trigger", description="Words put before yours. Empty: the method's own")
    negative_prompt: StringProperty(name="Negative", description="What it is not to show; counts with True Guidance")
    true_cfg_scale: FloatProperty(
        name="True Guidance", description="By the negative words; twice the time. 1: none", default=1, soft_min=1,
        soft_max=10,
    )  # fmt: skip
    guidance_scale: FloatProperty(name="Guidance", description="FLUX's. 0: the method's own", soft_min=0, soft_max=30)
    shift: FloatProperty(name="Shift", description="The scheduler's. 0: FLUX's own, by size", soft_min=0, soft_max=20)
    hdr: BoolProperty(
        name="Rebuild Lights", description="Give suns, lamps and windows the light that a picture clips", default=True
    )
    sun_strength: FloatProperty(
        name="Light Strength", description="Times the light of suns and lamps", default=1, soft_min=0, soft_max=10
    )
    sun_threshold: FloatProperty(
        name="Clipped From", description="Value from which on a colour counts as clipped: lower it for a grey sun",
        default=_DEFAULTS.sun_threshold, soft_min=0.5, soft_max=1,
    )  # fmt: skip


class Generating:
    """What is made."""

    prompt: StringProperty(name="Words", description="What the panorama shows")
    size: EnumProperty(name="Size", description="Of the panorama", items=SIZE_ITEMS, default="1024")
    fov: _angle("Field of View", "Of the picture, from its left edge to its right one. 0: as its EXIF tells")
    yaw: _angle("Yaw", "How far the picture's camera was turned to the left of +X")
    pitch: _angle("Pitch", "How far it looked up")
    roll: _angle("Roll", "How far it was turned clockwise")


class Editing:
    """What is changed."""

    prompt: StringProperty(name="Words", description="What is to be there")
    mode: EnumProperty(name="Mode", items=MODE_ITEMS)
    strength: FloatProperty(
        name="Strength", description="How far it may go from what was there", subtype="FACTOR", default=0.4,
        soft_min=0.05, soft_max=1,
    )  # fmt: skip


def _picture_chosen(settings: GenerateProperties, _context: bpy.types.Context) -> None:
    """Show the field of view that the photo tells."""
    told = picture.told_by_exif(settings.image) if settings.image is not None else None
    settings.fov = math.radians(told.fov) if told is not None and told.fov is not None else 0


class GenerateProperties(Drawing, Generating, bpy.types.PropertyGroup):
    of: EnumProperty(name="Of", description="What the panorama is made of", items=OF_ITEMS)
    image: PointerProperty(
        name="Picture", description="A photo, or any perspective picture", type=bpy.types.Image, update=_picture_chosen
    )
    folder: StringProperty(
        name="Folder",
        description="Where panoramas are written. Beside a .blend that isn't saved yet, in the add-on's own folder",
        subtype="DIR_PATH",
        default="//panoramas",
    )
    gallery: gallery.gallery_property()


class EditProperties(Editing, bpy.types.PropertyGroup):
    mask: PointerProperty(name="Mask", description="White where it is to change", type=bpy.types.Image)


CLASSES = (GenerateProperties, EditProperties)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
