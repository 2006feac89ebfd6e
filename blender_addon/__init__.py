"""Panoform's add-on: it runs in Blender's Python and never imports torch."""

from . import command, jobs, operators, panels, preferences, previews, properties, pump

_PARTS = (preferences, properties, previews, operators, panels, command, jobs)


def register() -> None:
    for part in _PARTS:
        part.register()


def unregister() -> None:
    pump.unregister()
    for part in reversed(_PARTS):
        part.unregister()
