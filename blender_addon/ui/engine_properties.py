"""The engine properties, which all features share."""

from __future__ import annotations

from bpy.props import EnumProperty

from ...shared.engines import ENGINES

QUALITY_ITEMS = (
    ("draft", "Draft", "Fast preview"),
    ("standard", "Standard", "The settings the model was trained for"),
    ("best", "Best", "Highest quality, slower"),
)
ENGINE_ITEMS = (
    ("AUTO", "Automatic", "FLUX + OmniX if its checkpoint is set in the preferences, else the starter"),
    *((spec.name.upper(), spec.label, "") for spec in ENGINES.values()),
)


def quality_property() -> EnumProperty:
    return EnumProperty(name="Quality", items=QUALITY_ITEMS, default="standard")


def engine_property() -> EnumProperty:
    return EnumProperty(name="Engine", description="The model to run", items=ENGINE_ITEMS)
