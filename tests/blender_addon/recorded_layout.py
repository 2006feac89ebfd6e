"""A stand-in for UILayout, for tests of panels: bpy has no window."""

from __future__ import annotations

from types import SimpleNamespace

import bpy


class Layout:
    """A stand-in for UILayout that checks that every property, operator and icon exists."""

    def __init__(
        self,
        texts: list[str] | None = None,
        enabled: dict[str, Layout] | None = None,
        buttons: dict[tuple[str, str], SimpleNamespace] | None = None,
    ) -> None:
        self.texts = [] if texts is None else texts
        #: Label of a button → the layout that it was drawn in last.
        self.drawn_in = {} if enabled is None else enabled
        self.enabled = True
        #: (operator, label) → the properties of its button that was drawn last.
        self.buttons: dict[tuple[str, str], SimpleNamespace] = {} if buttons is None else buttons

    def column(self, **_) -> Layout:
        return Layout(self.texts, self.drawn_in, self.buttons)

    row = box = grid_flow = column

    def label(self, *, text: str, icon: str = "NONE") -> None:
        self._icon(icon)
        self.texts.append(text)

    def prop(self, data, name: str, **_) -> None:
        assert set(_) <= set(bpy.types.UILayout.bl_rna.functions["prop"].parameters.keys())
        if not name.startswith('["'):
            assert name in data.bl_rna.properties, name
        else:
            assert name[2:-2] in data, name
        self.texts.append(name)

    def prop_enum(self, data, name: str, value: str, *, text: str | None = None, icon: str = "NONE") -> None:
        self._icon(icon)
        assert value in data.bl_rna.properties[name].enum_items
        self.texts.append(text or value)

    def template_icon_view(self, data, name: str, **_) -> None:
        self.prop(data, name)

    def template_ID(self, data, name: str, open: str) -> None:
        self.prop(data, name)

    def template_icon(self, *, icon_value: int, scale: float) -> None:
        self.texts.append("picture")

    def menu(self, name: str, *, text: str, icon: str) -> None:
        self._icon(icon)
        self.texts.append(getattr(bpy.types, name).bl_label)

    def progress(self, *, factor: float, text: str) -> None:
        assert 0 <= factor <= 1
        self.texts.append(text)

    def operator(
        self, name: str, *, text: str | None = None, icon: str = "NONE", depress: bool = False, translate: bool = True
    ) -> SimpleNamespace:
        self._icon(icon)
        module, function = name.split(".")
        rna = getattr(getattr(bpy.ops, module), function).get_rna_type()
        self.texts.append(rna.name if text is None else text)
        self.drawn_in[self.texts[-1]] = self
        properties = self.buttons[name, self.texts[-1]] = SimpleNamespace()
        return properties

    def separator(self, **_) -> None:
        pass

    def operator_menu_enum(self, name: str, property: str, *, text: str | None = None, icon: str = "NONE") -> None:
        self.operator(name, text=text, icon=icon)
        module, function = name.split(".")
        assert property in getattr(getattr(bpy.ops, module), function).get_rna_type().properties

    @staticmethod
    def _icon(icon: str) -> None:
        assert icon in bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items
