"""Panoform's add-on: it runs in Blender's Python and never imports torch."""

from . import command, preferences
from .backend import operators as backend_operators
from .capture import render
from .generate import operators as generate_operators
from .generate import panel as generate_panel
from .generate import properties as generate_properties
from .generate import world_preview
from .jobs import manager, timer
from .perceive import operators as perceive_operators
from .perceive import properties as perceive_properties
from .ui import panels, previews

_PARTS = (
    preferences,
    generate_properties,
    perceive_properties,
    previews,
    world_preview,
    render,
    perceive_operators,
    backend_operators,
    generate_operators,
    panels,
    generate_panel,
    command,
    manager,
)


def register() -> None:
    for part in _PARTS:
        part.register()


def unregister() -> None:
    timer.unregister()
    for part in reversed(_PARTS):
        part.unregister()
