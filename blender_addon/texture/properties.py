"""The settings of texturing, `scene.panoform.texture`; the mixin is shared with the operators."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ...shared.jobs.texture import DEFAULT_SIZE, FRONTS, MAX_SIZE, MIN_SIZE
from ..ui.path_properties import BLEND_RELATIVE

FRONT_ITEMS = tuple((axis, axis.replace("-", "−"), "World axis that the front of the object faces") for axis in FRONTS)
UPSCALE_ITEMS = (
    ("off", "Off", "Bake the views as they are drawn"),
    ("bicubic", "Bicubic", "Enlarge the views by 2, without new detail"),
    ("latent", "Latent", "Enlarge the views by 2 with Stable Diffusion's latent upscaler, another 2 GB"),
    ("file", "File", "Enlarge the views by 2 with an image upscaler of yours. The backend needs spandrel for it"),
)


def size_property() -> IntProperty:
    return IntProperty(
        name="Texture Size",
        description="Side of the texture in pixels",
        default=DEFAULT_SIZE,
        soft_min=MIN_SIZE,
        soft_max=MAX_SIZE,
        subtype="PIXEL",
    )


class TextureInputs:
    """Settings of panel and operator. 0 and "" stand for the engine's default."""

    prompt: StringProperty(name="Prompt", description="What the object is, with or without a picture")
    negative_prompt: StringProperty(name="Negative Prompt", description="What the object should not look like")
    size: size_property()
    front: EnumProperty(name="Front", items=FRONT_ITEMS)
    seed: IntProperty(name="Seed", description="The same seed gives the same views", soft_min=0)
    guidance_scale: FloatProperty(
        name="Guidance Scale", description="How closely the views follow picture and prompt. 0: the engine's default",
        soft_min=0, soft_max=30,
    )  # fmt: skip
    use_camera: BoolProperty(
        name="Scene Camera",
        description="Render the selected objects, as they look now, from the scene's camera as the reference picture",
    )
    only_selected_faces: BoolProperty(
        name="Only Selected Faces",
        description="Texture the faces that are selected in Edit Mode; the others keep their materials, and only hide",
    )
    upscale: EnumProperty(name="Enlarge Views", items=UPSCALE_ITEMS)
    upscaler: StringProperty(
        name="Upscaler", description="An image upscaler (ESRGAN, SwinIR …) as .safetensors file", subtype="FILE_PATH",
        options=BLEND_RELATIVE,
    )  # fmt: skip


class TextureProperties(TextureInputs, bpy.types.PropertyGroup):
    reference: PointerProperty(
        name="Reference",
        description="A picture of the object, on transparency or on a background of one colour",
        type=bpy.types.Image,
    )


CLASSES = (TextureProperties,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
