"""The panel that selects the source."""

from __future__ import annotations

import bpy

from ...shared.protocol.errors import PanoramaError, SceneError
from ..translation import tr
from ..ui.panel_parts import BackendSection, characters, draw_text
from . import image_limits, sources
from .properties import layers

#: What to do where the world has no HDRI.
_NO_HDRI = "Choose another source, or drop a panorama onto the 3D View."


class PANOFORM_PT_source(BackendSection, bpy.types.Panel):
    bl_label = "Source"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 1

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform
        column = self.layout.column()
        column.prop(settings, "source", text="")
        match settings.source:
            case "WORLD":
                _draw_world(column, context.scene, characters(context))
            case "IMAGE":
                column.template_ID(settings, "image", open="image.open")
                if settings.image is not None:
                    column.label(text=_size(settings.image))
                _draw_layer(column, settings)
            case "FILE":
                column.prop(settings, "filepath", text="")
                _draw_layer(column, settings)
            case "RENDER_CAMERA" if context.scene.camera is None:
                column.label(text="The scene has no camera", icon="INFO")
            case _:
                row = column.row(align=True)
                row.prop(settings, "render_width")
                row.prop(settings, "render_samples")
                button = column.operator("panoform.render_panorama", text="Render Panorama")
                button.at_cursor = settings.source == "RENDER_CURSOR"
        column.prop(settings, "repair")


def _draw_layer(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    if layers(settings) or settings.layer:
        layout.prop(settings, "layer")


def _draw_world(layout: bpy.types.UILayout, scene: bpy.types.Scene, width: int) -> None:
    try:
        image, _rotation = sources.world_image(scene)
    except SceneError as error:
        try:
            sources.check_world(scene)
        except (SceneError, PanoramaError):
            draw_text(layout, f"{tr(error.message)} {tr(_NO_HDRI)}", width, icon="INFO")
        else:
            layout.label(text=f"{scene.world.name}{tr(' · rendered')}", icon="WORLD")
    else:
        layout.label(text=f"{image.name} · {_size(image)}", icon="WORLD")
        layout.operator("panoform.split_sun", icon="LIGHT_SUN")


def _size(image: bpy.types.Image) -> str:
    width, height = image_limits.size(image)
    return f"{width} × {height}" if width else "Can't be read"


CLASSES = (PANOFORM_PT_source,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
