"""The operators that save, load and delete presets, and share them as files."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import EnumProperty, StringProperty
from bpy_extras.io_utils import ExportHelper, ImportHelper

from ...shared import overwriting
from ...shared.atomic_write import atomic_write
from ...shared.protocol.errors import InputError
from ..ui.operator_parts import FINISHED, reporting
from . import schema, store

_KIND_ITEMS = tuple((kind, kind.capitalize(), "") for kind in schema.KINDS)


class _PresetOperator:
    """Base of the operators: the section of the panel that the preset is for."""

    bl_options: ClassVar = {"INTERNAL"}

    kind: EnumProperty(items=_KIND_ITEMS, options={"HIDDEN"})

    def _report_omitted(self, preset: schema.Preset) -> None:
        if omitted := schema.omitted(preset):
            self.report({"WARNING"}, omitted)


class _NamedOperator(_PresetOperator):
    """Base of the operators for one preset."""

    name: StringProperty(name="Name", description="Name of the preset", options={"SKIP_SAVE"})


class PANOFORM_OT_save_preset(_NamedOperator, bpy.types.Operator):
    """Save these settings under a name. Sources, prompts, seeds and paths are not part of presets"""

    bl_idname = "panoform.save_preset"
    bl_label = "Save Preset"

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        preset = schema.of_scene(context.scene, self.kind)
        store.save(self.kind, self.name.strip(), preset)
        self._report_omitted(preset)
        return FINISHED


class PANOFORM_OT_load_preset(_NamedOperator, bpy.types.Operator):
    """Use the settings of this preset"""

    bl_idname = "panoform.load_preset"
    bl_label = "Load Preset"
    bl_options: ClassVar = {"INTERNAL", "UNDO"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        schema.apply(context.scene, schema.read(store.find(self.kind, self.name)), self.kind)
        return FINISHED


class PANOFORM_OT_delete_preset(_NamedOperator, bpy.types.Operator):
    """Delete this preset's file"""

    bl_idname = "panoform.delete_preset"
    bl_label = "Delete Preset"

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        store.delete(self.kind, self.name)
        return FINISHED


class PANOFORM_OT_export_preset(_PresetOperator, bpy.types.Operator, ExportHelper):
    """Write these settings to a file, to share them"""

    bl_idname = "panoform.export_preset"
    bl_label = "Export Preset"

    filename_ext = store.SUFFIX
    filter_glob: StringProperty(default=f"*{store.SUFFIX}", options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        base = Path(bpy.data.filepath).parent if bpy.data.filepath else Path.home()
        self.filepath = str(base / f"{self.kind}{store.SUFFIX}")
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        path = Path(bpy.path.abspath(self.filepath)).with_suffix(store.SUFFIX)
        overwriting.check([path], _is_preset)
        preset = schema.of_scene(context.scene, self.kind)
        atomic_write(path, schema.encode(preset))
        self._report_omitted(preset)
        return FINISHED


class PANOFORM_OT_import_preset(_PresetOperator, bpy.types.Operator, ImportHelper):
    """Add a preset from a file to the saved ones, and use its settings"""

    bl_idname = "panoform.import_preset"
    bl_label = "Import Preset"
    bl_options: ClassVar = {"INTERNAL", "UNDO"}

    filename_ext = store.SUFFIX
    filter_glob: StringProperty(default=f"*{store.SUFFIX}", options={"HIDDEN"})

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        path = Path(bpy.path.abspath(self.filepath))
        preset = schema.read(path)
        schema.check(context.scene, preset, self.kind)
        store.save(self.kind, store.free_name(self.kind, path.stem), preset)
        schema.apply(context.scene, preset, self.kind)
        return FINISHED


def _is_preset(path: Path) -> bool:
    try:
        schema.read(path)
    except InputError:
        return False
    return True


CLASSES = (
    PANOFORM_OT_save_preset,
    PANOFORM_OT_load_preset,
    PANOFORM_OT_delete_preset,
    PANOFORM_OT_export_preset,
    PANOFORM_OT_import_preset,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
