"""The perceive properties that panel and operator share."""

from __future__ import annotations

from bpy.props import EnumProperty, IntProperty

from ...shared.maps import DEFAULT_MAPS, MAPS

MAP_ITEMS = tuple(
    (name.upper(), kind.label, kind.meaning.capitalize(), 2**i) for i, (name, kind) in enumerate(MAPS.items())
)


def maps_property() -> EnumProperty:
    return EnumProperty(
        name="Maps",
        description="The maps to perceive",
        items=MAP_ITEMS,
        options={"ENUM_FLAG"},
        default={name.upper() for name in DEFAULT_MAPS},
    )


def seed_property() -> IntProperty:
    return IntProperty(name="Seed", description="The same seed gives the same maps", soft_min=0)
