"""Panoform's add-on: it runs in Blender's Python and never imports torch."""

from . import (
    command,
    jobs,
    operators,
    operators_backend,
    operators_generate,
    panels,
    panels_generate,
    preferences,
    previews,
    properties,
    properties_generate,
    pump,
    world_preview,
)

_PARTS = (
    preferences,
    properties_generate,
    properties,
    previews,
    world_preview,
    operators,
    operators_backend,
    operators_generate,
    panels,
    panels_generate,
    command,
    jobs,
)


def register() -> None:
    for part in _PARTS:
        part.register()


def unregister() -> None:
    pump.unregister()
    for part in reversed(_PARTS):
        part.unregister()
