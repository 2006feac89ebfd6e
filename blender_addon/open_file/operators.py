"""The operators that use a picture file: as the world, and as the source of Perceive, Generate and Texture."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import EnumProperty, StringProperty

from ...shared.file_errors import display_name
from ...shared.imaging import headers
from ...shared.panorama_size import check_size
from ...shared.protocol.errors import InputError, PanoramaError
from ..capture import image_limits, sources
from ..scene import light_probe, world
from ..scene.datablocks import all_or_nothing
from ..translation import tr_report
from ..ui.operator_parts import CANCELLED, FINISHED, build_disabled_reason, poll_unless, relay, reporting
from ..ui.path_properties import BLEND_RELATIVE

#: Uses of a panorama, and of another picture.
PANORAMA_USES = (
    ("WORLD", "Use as World", "Show the panorama as the scene's world", "WORLD", 0),
    ("PERCEIVE", "Perceive This", "Perceive the panorama, and build the scene from it", "LIGHTPROBE_SPHERE", 1),
)
PICTURE_USES = (
    ("GENERATE", "Extend to Panorama", "Make the picture the source of Generate", "IMAGE_DATA", 2),
    ("TEXTURE", "Texture Reference", "Make the picture the reference of Texture", "MATERIAL", 3),
)
SUFFIXES = (".exr", ".hdr", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
#: Height to which a panorama is read to find whether it can be read; the world shows the file at its own size.
_CHECKED_HEIGHT = 256


def uses(path: Path) -> tuple:
    """Return the uses of a file by the size that its header names. Raise PanoramaError where it is no picture."""
    header = headers.check_file(path)
    try:
        check_size(header.height, header.width)
    except PanoramaError:
        return PICTURE_USES
    return PANORAMA_USES


def _file() -> StringProperty:
    return StringProperty(
        name="File", description="Picture file", subtype="FILE_PATH", options={"SKIP_SAVE"} | BLEND_RELATIVE
    )


class PANOFORM_OT_use_file(bpy.types.Operator):
    """Use a picture file in Panoform"""

    bl_idname = "panoform.use_file"
    bl_label = "Use File"
    bl_options: ClassVar = {"UNDO"}

    filepath: _file()
    use: EnumProperty(name="Use", description="What the file is used for", items=PANORAMA_USES + PICTURE_USES)

    poll = poll_unless(build_disabled_reason)

    @classmethod
    def description(cls, _context: bpy.types.Context, properties: PANOFORM_OT_use_file) -> str:
        return next(text for use, _label, text, *_rest in PANORAMA_USES + PICTURE_USES if use == properties.use)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        path, scene = _path(self.filepath), context.scene
        match self.use:
            case "WORLD":
                _show(scene, path)
            case "PERCEIVE":
                if not relay(self, lambda: bpy.ops.panoform.perceive(source="FILE", filepath=str(path))):
                    return CANCELLED
                scene.panoform.source, scene.panoform.filepath = "FILE", str(path)
                return FINISHED
            case "GENERATE":
                scene.panoform.generate.of, scene.panoform.generate.image = "PICTURE", _image(path)
            case _:
                scene.panoform.texture.reference = _image(path)
                scene.panoform.texture.use_camera = False
        label = next(label for use, label, *_rest in PANORAMA_USES + PICTURE_USES if use == self.use)
        self.report({"INFO"}, tr_report("{label}: {name}", label=label, name=display_name(path.name)))
        return FINISHED


class PANOFORM_OT_drop_file(bpy.types.Operator):
    """Choose what a picture file is used for"""

    bl_idname = "panoform.drop_file"
    bl_label = "Use in Panoform"
    bl_options: ClassVar = {"INTERNAL"}

    filepath: _file()

    poll = poll_unless(lambda: "Only available in a window" if bpy.app.background else "")

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        path = _path(self.filepath)
        found = uses(path)

        def draw(menu: bpy.types.Menu, _context: bpy.types.Context) -> None:
            draw_uses(menu.layout, path, found)

        context.window_manager.popup_menu(draw, title=display_name(path.name), icon="IMAGE_DATA")
        return FINISHED


def draw_uses(layout: bpy.types.UILayout, path: Path, found: tuple) -> None:
    """Draw a button for each use of the file."""
    layout.operator_context = "EXEC_DEFAULT"
    for use, label, _text, icon, _number in found:
        button = layout.operator("panoform.use_file", text=label, icon=icon)
        button.filepath, button.use = str(path), use


def _path(filepath: str) -> Path:
    if not filepath:
        raise InputError("No file is given.", "Name a picture file.")
    return Path(bpy.path.abspath(filepath))


def _image(path: Path) -> bpy.types.Image:
    """Return the image of this file as it is now: that of the .blend file, unless it is packed or was painted on."""
    for image in bpy.data.images:
        if image.source == "FILE" and sources.image_file(image) == path and not (image.packed_file or image.is_dirty):
            image.reload()
            return image
    return image_limits.load(path)


def _show(scene: bpy.types.Scene, path: Path) -> None:
    """Make the panorama the scene's world. Raise PanoramaError if it can't be read or is none."""
    capture = sources.from_file(path, height=_CHECKED_HEIGHT)
    if not capture.is_plain:
        capture = sources.from_file(path)  # Blender shows the file otherwise: its pixels are the world
    with all_or_nothing(scene):
        shown = world.create(capture.source, capture.world_picture(), capture.world_from_panorama)
        light_probe.remember(shown, capture.panorama)
        world.assign(scene, shown)


CLASSES = (PANOFORM_OT_use_file, PANOFORM_OT_drop_file)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
