"""The settings of generating and editing: `scene.panoform.generate` and `scene.panoform.edit`.

The mixins below are shared with the operators.
"""

from __future__ import annotations

import math

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ...shared.jobs.generate import MAX_SEEDS, METHODS, GenerateSettings
from ..capture import picture
from ..ui.path_properties import BLEND_RELATIVE
from . import gallery

#: What runs without FLUX comes first. The numbers are stored in .blend files.
SOURCE_ITEMS = (
    ("PICTURE", "Picture", "Extend a photo to a panorama", 1),
    ("CAMERA", "Camera", "Render the scene camera's view and extend it to a panorama", 2),
    ("WORDS", "Prompt", "Generate the panorama from the prompt alone. Needs FLUX", 0),
)
SIZE_ITEMS = tuple((str(height), f"{2 * height} × {height}", "Resolution in pixels") for height in (512, 1024, 2048))
METHOD_ITEMS = tuple((name, label, "") for name, label in METHODS.items())
MODE_ITEMS = (
    ("INPAINT", "Inpaint", "Generate the prompt where the mask is white; all other pixels stay unchanged"),
    ("EXTEND", "Extend", "Fill areas where the mask is white or the panorama is transparent"),
    ("VARY", "Vary", "Generate a variation of the whole panorama"),
)

_DEFAULTS = GenerateSettings()


def _angle(name: str, description: str) -> FloatProperty:
    return FloatProperty(name=name, description=description, subtype="ANGLE", unit="ROTATION")


class SamplingProperties:
    """Sampling settings for generating and editing. 0 and "" stand for the method's default."""

    seed: IntProperty(name="Seed", description="The same seed and prompt give the same panorama", soft_min=0)
    new_seed: BoolProperty(name="Random Seed", description="Use a new seed for every run", default=True)
    count: IntProperty(
        name="Variations", description="Number of panoramas, with consecutive seeds", default=1,
        soft_min=1, soft_max=MAX_SEEDS,
    )  # fmt: skip
    method: EnumProperty(name="Method", description="Model and LoRA used", items=METHOD_ITEMS)
    lora: StringProperty(
        name="LoRA", description="A .safetensors file, a folder or a Hugging Face id. Empty: the method's default"
    )
    trigger: StringProperty(name="Trigger", description="Text added before the prompt. Empty: the method's default")
    negative_prompt: StringProperty(
        name="Negative Prompt", description="What the panorama should not show. Needs a True CFG Scale above 1"
    )
    true_cfg_scale: FloatProperty(
        name="True CFG Scale", description="Guidance away from the negative prompt; doubles the time. 1: off",
        default=1, soft_min=1, soft_max=10,
    )  # fmt: skip
    guidance_scale: FloatProperty(
        name="Guidance Scale", description="How closely FLUX follows the prompt. 0: the method's default",
        soft_min=0, soft_max=30,
    )  # fmt: skip
    shift: FloatProperty(
        name="Shift", description="Timestep shift of the scheduler. 0: chosen by image size", soft_min=0, soft_max=20
    )
    hdr: BoolProperty(
        name="Recover Highlights", description="Restore the clipped brightness of suns, lamps and windows", default=True
    )
    measure_light: BoolProperty(
        name="Measure Light",
        description="Perceive the panorama with the built-in model, and measure on its surfaces how bright clipped "
        "lights are. Takes some seconds; off: an estimate from the picture alone",
        default=True,
    )
    sun_strength: FloatProperty(
        name="Highlight Strength", description="Factor on the recovered brightness", default=1, soft_min=0, soft_max=10
    )
    sun_threshold: FloatProperty(
        name="Clipping Threshold",
        description="sRGB value at and above which a pixel counts as clipped. Lower it if the sun is grey",
        default=_DEFAULTS.sun_threshold, soft_min=0.5, soft_max=1,
    )  # fmt: skip


class GenerateInputs:
    """The properties for generating."""

    prompt: StringProperty(name="Prompt", description="What the panorama shows")
    size: EnumProperty(name="Size", description="Size of the panorama", items=SIZE_ITEMS, default="1024")
    fov: _angle("Field of View", "Horizontal field of view of the picture. 0: read from its EXIF data")
    yaw: _angle("Yaw", "Rotation of the picture's camera from +X to the left")
    pitch: _angle("Pitch", "Upward tilt of the picture's camera")
    roll: _angle("Roll", "Clockwise rotation of the picture's camera")


class EditInputs:
    """The properties for editing."""

    prompt: StringProperty(name="Prompt", description="What the edited area shows")
    mode: EnumProperty(name="Mode", items=MODE_ITEMS)
    strength: FloatProperty(
        name="Strength", description="How much the result may differ from the original", subtype="FACTOR", default=0.4,
        soft_min=0.05, soft_max=1,
    )  # fmt: skip


def _update_fov(settings: GenerateProperties, _context: bpy.types.Context) -> None:
    """Set the field of view from the picture's EXIF data; 0 if it has none."""
    exif = picture.read_exif(settings.image) if settings.image is not None else None
    settings.fov = math.radians(exif.fov) if exif is not None and exif.fov is not None else 0


class GenerateProperties(SamplingProperties, GenerateInputs, bpy.types.PropertyGroup):
    of: EnumProperty(name="Source", description="Input of the generation", items=SOURCE_ITEMS, default="PICTURE")
    image: PointerProperty(
        name="Picture",
        description="A photo, or another picture in perspective",
        type=bpy.types.Image,
        update=_update_fov,
    )
    folder: StringProperty(
        name="Folder",
        description="Folder for panoramas. Until the .blend is saved, a folder of the add-on is used",
        subtype="DIR_PATH",
        options=BLEND_RELATIVE,
        default="//panoramas",
    )
    gallery: gallery.gallery_property()


class EditProperties(EditInputs, bpy.types.PropertyGroup):
    mask: PointerProperty(name="Mask", description="White where the panorama is edited", type=bpy.types.Image)


CLASSES = (GenerateProperties, EditProperties)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
