"""The engine and the quality, which all sections of the panel share."""

from __future__ import annotations

from bpy.props import EnumProperty

from ...shared.engines import ENGINES, engines_for

QUALITY_ITEMS = (
    ("draft", "Draft", "Fast preview"),
    ("standard", "Standard", "The settings the model was trained for"),
    ("best", "Best", "Highest quality, slower"),
)
ENGINE_ITEMS = (
    ("AUTO", "Automatic", "FLUX + OmniX if Models in the preferences has found or set it, else the starter"),
    *((name.upper(), ENGINES[name].label, "") for name in engines_for("perceive", "outpaint")),
)


def quality_property() -> EnumProperty:
    return EnumProperty(
        name="Quality", description="Quality of all that is perceived, generated or textured", items=QUALITY_ITEMS,
        default="standard",
    )  # fmt: skip


def engine_property() -> EnumProperty:
    description = "The model that perceives, generates and edits panoramas"
    return EnumProperty(name="Engine", description=description, items=ENGINE_ITEMS)
