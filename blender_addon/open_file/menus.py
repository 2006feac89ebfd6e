"""Where files come from: the 3D View, by drag and drop, and the context menu of the File Browser."""

from __future__ import annotations

from pathlib import Path

import bpy

from ...shared.protocol.errors import PanoformError
from . import operators


class PANOFORM_FH_picture(bpy.types.FileHandler):
    """Offers a dropped picture to Panoform."""

    bl_idname = "PANOFORM_FH_picture"
    bl_label = "Use in Panoform"
    bl_import_operator = "panoform.drop_file"
    bl_file_extensions = ";".join(operators.SUFFIXES)

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D"


class PANOFORM_MT_use_file(bpy.types.Menu):
    """What Panoform can use the File Browser's active file for"""

    bl_idname = "PANOFORM_MT_use_file"
    bl_label = "Panoform"

    def draw(self, context: bpy.types.Context) -> None:
        path = _active(context)
        if path is None:
            return
        try:
            operators.draw_uses(self.layout, path, operators.uses(path))
        except PanoformError as error:
            self.layout.label(text=error.message, icon="INFO", translate=False)


def _active(context: bpy.types.Context) -> Path | None:
    """Return the path of the File Browser's active file where it is a picture."""
    entry, parameters = context.active_file, context.space_data.params
    if entry is None or parameters is None or Path(entry.name).suffix.lower() not in operators.SUFFIXES:
        return None
    return Path(parameters.directory.decode("utf-8", "surrogateescape")) / entry.relative_path


def _draw(menu: bpy.types.Menu, context: bpy.types.Context) -> None:
    if context.space_data.browse_mode == "FILES" and _active(context) is not None:
        menu.layout.separator()
        menu.layout.menu(PANOFORM_MT_use_file.bl_idname)


CLASSES = (PANOFORM_FH_picture, PANOFORM_MT_use_file)

_register, _unregister = bpy.utils.register_classes_factory(CLASSES)


def register() -> None:
    _register()
    bpy.types.FILEBROWSER_MT_context_menu.append(_draw)


def unregister() -> None:
    bpy.types.FILEBROWSER_MT_context_menu.remove(_draw)
    _unregister()
