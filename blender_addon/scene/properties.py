"""The scene property that panel and operators share."""

from __future__ import annotations

from bpy.props import FloatProperty


def camera_height_property() -> FloatProperty:
    return FloatProperty(
        name="Camera Height",
        description="Height of the camera above the floor. Sets the scale of the scene and puts the floor at Z = 0",
        subtype="DISTANCE",
        unit="LENGTH",
        default=1.6,
        min=0.01,
        soft_max=10,
    )
