"""The add-on is no part of the installed package (it ships as an extension): let `panoform.blender_addon` be found."""

from pathlib import Path

import panoform
import pytest

panoform.__path__ = [str(Path(__file__).resolve().parents[2])]


@pytest.fixture
def scene():
    """An empty Blender: bpy is one global state a process."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy.context.scene
