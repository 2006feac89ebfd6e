"""Properties that hold paths take those that are relative to the .blend."""

from __future__ import annotations

import bpy
import pytest
from bpy_extras.io_utils import ExportHelper, ImportHelper


@pytest.mark.skipif(bpy.app.version < (4, 5), reason="Blender asks for it from 4.5 on")
def test_paths_may_be_relative_to_the_blend(addon) -> None:
    """Blender warns where "//…" is put into a property that doesn't say so."""
    groups = [kind.bl_rna for base in (bpy.types.PropertyGroup, bpy.types.AddonPreferences) for kind in _ours(base)]
    operators = [getattr(bpy.ops.panoform, name).get_rna_type() for name in dir(bpy.ops.panoform)]
    paths = {
        f"{kind.identifier}.{name}": entry.is_path_supports_blend_relative
        for kind in (*groups, *operators)
        for name, entry in kind.properties.items()
        if entry.subtype in ("FILE_PATH", "DIR_PATH") and not _is_of_blender(kind, name)
    }
    assert {"TextureProperties.upscaler", "PANOFORM_OT_texture.upscaler"} <= set(paths)
    assert [name for name, relative in paths.items() if not relative] == []


def _is_of_blender(kind: bpy.types.Struct, name: str) -> bool:
    """Return whether a property is that of Blender's own file dialogs."""
    helpers = (ExportHelper, ImportHelper)
    return name == "filepath" and issubclass(getattr(bpy.types, kind.identifier, object), helpers)


def _ours(base: type) -> list[type]:
    return [kind for kind in base.__subclasses__() if kind.__module__.startswith("panoform.") and kind.is_registered]
