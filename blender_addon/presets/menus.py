"""The menus of presets, in the headers of the sections."""

from __future__ import annotations

import bpy

from . import schema, store


class _PresetMenu:
    """Base of the menus: `kind` is the section's."""

    bl_label = "Presets"
    kind: str

    def draw(self, _context: bpy.types.Context) -> None:
        names = store.names(self.kind)
        for name in names:
            self._item("load", name=name, text=name, translate=False)
        if names:
            self.layout.separator()
        self._item("save", text="Save Preset…", icon="ADD")
        if names:
            self.layout.menu(f"PANOFORM_MT_delete_{self.kind}_preset", text="Delete Preset", icon="REMOVE")
        self.layout.separator()
        self._item("import", text="Import…", icon="IMPORT")
        self._item("export", text="Export…", icon="EXPORT")

    def _item(
        self, verb: str, *, text: str, icon: str = "NONE", name: str | None = None, translate: bool = True
    ) -> None:
        button = self.layout.operator(f"panoform.{verb}_preset", text=text, icon=icon, translate=translate)
        button.kind = self.kind
        if name is not None:
            button.name = name


class _DeleteMenu(_PresetMenu):
    """Base of the submenus that delete."""

    bl_label = "Delete Preset"

    def draw(self, _context: bpy.types.Context) -> None:
        for name in store.names(self.kind):
            self._item("delete", name=name, text=name, translate=False)


def _menus(kind: str) -> list[type[bpy.types.Menu]]:
    """Return the classes of a section's menus."""
    return [
        type(name, (base, bpy.types.Menu), {"bl_idname": name, "bl_label": base.bl_label, "kind": kind})
        for name, base in (
            (f"PANOFORM_MT_{kind}_presets", _PresetMenu),
            (f"PANOFORM_MT_delete_{kind}_preset", _DeleteMenu),
        )
    ]


CLASSES = tuple(menu for kind in schema.KINDS for menu in _menus(kind))

register, unregister = bpy.utils.register_classes_factory(CLASSES)
