"""Which engine works, and how well: what perceiving and generating ask alike."""

from __future__ import annotations

from bpy.props import EnumProperty

from ...shared.engines import ENGINES

QUALITY_ITEMS = (
    ("draft", "Draft", "A quick look"),
    ("standard", "Standard", "What the model was trained for"),
    ("best", "Best", "The finest the model can do, slower"),
)
ENGINE_ITEMS = (
    ("AUTO", "Automatic", "FLUX + OmniX where its checkpoint is set in the preferences, else the starter"),
    *((name.upper(), label, "") for name, label in ENGINES.items()),
)


def quality_property() -> EnumProperty:
    return EnumProperty(name="Quality", items=QUALITY_ITEMS, default="standard")


def engine_property() -> EnumProperty:
    return EnumProperty(name="Engine", description="What does the work", items=ENGINE_ITEMS)
