"""The operators that give an environment to other files and programs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ..translation import tr_report
from ..ui.operator_parts import FINISHED, build_disabled_reason, poll_unless, reporting
from . import assets, environment, export

#: Suffix → label, of the formats that the file selector offers.
_OFFERED = {
    ".glb": "glTF Binary (.glb)",
    ".gltf": "glTF, Separate Files (.gltf)",
    ".usdc": "USD (.usdc)",
    ".usdz": "USD, Packed (.usdz)",
    ".obj": "OBJ (.obj)",
    ".fbx": "FBX (.fbx)",
}


def _disabled_reason() -> str:
    return environment.disabled_reason() or build_disabled_reason()


class PANOFORM_OT_export_scene(bpy.types.Operator, ExportHelper):
    """Export the environment, with tangent-space normals and its sky, for other programs"""

    bl_idname = "panoform.export_scene"
    bl_label = "Export Environment"
    bl_options: ClassVar = set()

    filename_ext = ""
    filter_glob: StringProperty(default=";".join(f"*{suffix}" for suffix in export.FORMATS), options={"HIDDEN"})
    file_format: EnumProperty(
        name="Format",
        description="Format of the file. Called from Python, it is that of the file's suffix",
        items=[(suffix, label, "") for suffix, label in _OFFERED.items()],
    )
    overwrite: BoolProperty(
        name="Overwrite",
        description="Replace existing files",
        default=False,
        options={"HIDDEN", "SKIP_SAVE"},
    )
    is_confirmed: BoolProperty(
        description="Whether the file selector has asked before it replaces the file",
        options={"HIDDEN", "SKIP_SAVE"},
    )

    poll = poll_unless(_disabled_reason)

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        name = environment.find(context).name
        folder = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
        self.filepath = str(folder / f"{name}{self.file_format}")
        self.is_confirmed = True
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    def check(self, _context: bpy.types.Context) -> bool:
        """Give the file name the suffix of the format."""
        path = Path(self.filepath)
        if path.suffix.lower() == self.file_format or not path.name:
            return False
        bare = path.stem if path.suffix.lower() in export.FORMATS else path.name
        self.filepath = str(path.with_name(f"{bare}{self.file_format}"))
        return True

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        path = Path(bpy.path.abspath(self.filepath))
        # The selector asks for the file only, not for others of the same name.
        done = export.export(
            environment.find(context), path, overwrite=self.overwrite, confirmed=self.is_confirmed and path.exists()
        )
        self.report({"INFO"}, done)
        return FINISHED


class PANOFORM_OT_mark_as_asset(bpy.types.Operator):
    """Add the environment and its world to the Asset Browser, with a preview, in the catalogue Panoform/Environments"""

    bl_idname = "panoform.mark_as_asset"
    bl_label = "Mark as Asset"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    poll = poll_unless(_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        if bpy.data.filepath:  # first: it may fail
            assets.write_catalogue(Path(bpy.data.filepath).parent)
        marked = assets.mark(environment.find(context), context.scene)
        names = " and ".join(repr(block.name) for block in marked)
        if bpy.data.filepath:
            self.report({"INFO"}, tr_report("Marked {names}. Save the file, so that other files see it.", names=names))
        else:
            self.report(
                {"INFO"}, tr_report("Marked {names}. For its catalogue, save the file and mark it again.", names=names)
            )
        return FINISHED


CLASSES = (PANOFORM_OT_export_scene, PANOFORM_OT_mark_as_asset)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
