"""Import what jobs need."""

from __future__ import annotations

import gc
from importlib import import_module
from types import ModuleType


def import_job_module(name: str) -> ModuleType:
    """Import a module without collecting garbage: visiting all that torch and diffusers create, over and over, takes a
    seventh of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return import_module(name)
    finally:
        if was_enabled:
            gc.enable()
