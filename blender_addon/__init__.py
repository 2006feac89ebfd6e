"""Panoform's add-on: it runs in Blender's Python and never imports torch."""

from . import command, jobs, operators, operators_backend, panels, preferences, previews, properties, pump

_PARTS = (preferences, properties, previews, operators, operators_backend, panels, command, jobs)


def register() -> None:
    for part in _PARTS:
        part.register()


def unregister() -> None:
    pump.unregister()
    for part in reversed(_PARTS):
        part.unregister()
