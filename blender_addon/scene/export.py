"""Environment → file of another program: glTF, USD, OBJ or FBX, through Blender's own exporters.

They write copies (portable.py) in a scene of its own, which is removed afterwards: nothing in the user's file changes.
The files appear together, or not at all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bpy

from ...shared.atomic_write import translate_errors, writing
from ...shared.protocol.errors import OutputError, SceneError
from ..translation import tr_report
from . import environment
from .datablocks import temporary_scene
from .dome import MODIFIER_NAME
from .portable import Copier, world_light

#: Folder beside the drafts, of textures that the exporter stores itself.
_SOURCES = "sources"


class Format(NamedTuple):
    """A file format, and the options of Blender's exporter for it."""

    label: str
    #: The operator in bpy.ops; not every build of Blender has each.
    operator: str
    options: dict[str, Any]
    #: Suffixes of further files that belong to it.
    beside: tuple[str, ...] = ()
    #: Whether the file refers to textures where they are; otherwise the exporter stores them itself.
    refers_to_textures: bool = False
    #: Whether textures are in a folder beside the file.
    has_folder: bool = False
    #: Whether the world is written as a light; otherwise the sky is a dome.
    has_world: bool = False

    def exporter(self) -> Any:
        """Return the operator. Raise OutputError if this Blender doesn't have it."""
        group, name = self.operator.split(".")
        # Names of operators are looked up when they are used.
        if name not in dir(getattr(bpy.ops, group)):
            raise OutputError(
                f"This Blender can't export {self.label}.", "Enable the add-on for it, or choose another format."
            )
        return getattr(getattr(bpy.ops, group), name)


_GLTF = {
    "use_active_scene": True, "export_tangents": True, "export_lights": True, "export_cameras": True,
    "export_animations": False, "export_yup": True,
}  # fmt: skip
_USD = {
    # The names before and since Blender 4.5; the textures are where they shall stay.
    "export_textures": False, "export_textures_mode": "KEEP", "relative_paths": True,
    "convert_world_material": True, "generate_preview_surface": True, "export_materials": True,
    "export_normals": True, "export_uvmaps": True, "root_prim_path": "/root",
}  # fmt: skip
#: Viewers of USDZ expect Y up.
_USDZ = _USD | {
    "export_textures": True, "export_textures_mode": "NEW", "convert_orientation": True,
    "export_global_up_selection": "Y", "export_global_forward_selection": "NEGATIVE_Z",
}  # fmt: skip
_OBJ = {"path_mode": "RELATIVE", "export_pbr_extensions": True, "export_materials": True, "export_normals": True}
_FBX = {
    "path_mode": "COPY", "embed_textures": True, "use_tspace": True, "mesh_smooth_type": "FACE", "bake_anim": False,
    "object_types": {"MESH", "LIGHT", "CAMERA"},
}  # fmt: skip

_REFERRING = {"refers_to_textures": True, "has_folder": True}
FORMATS = {
    ".glb": Format("glTF", "export_scene.gltf", _GLTF | {"export_format": "GLB"}),
    ".gltf": Format(
        "glTF", "export_scene.gltf", _GLTF | {"export_format": "GLTF_SEPARATE"}, beside=(".bin",), has_folder=True
    ),
    ".usd": Format("USD", "wm.usd_export", _USD, has_world=True, **_REFERRING),
    ".usda": Format("USD", "wm.usd_export", _USD, has_world=True, **_REFERRING),
    ".usdc": Format("USD", "wm.usd_export", _USD, has_world=True, **_REFERRING),
    ".usdz": Format("USD", "wm.usd_export", _USDZ, has_world=True),
    ".obj": Format("OBJ", "wm.obj_export", _OBJ, beside=(".mtl",), **_REFERRING),
    ".fbx": Format("FBX", "export_scene.fbx", _FBX),
}


def check_path(path: Path, *, overwrite: bool, confirmed: bool = False) -> Format:
    """Return the format of a file. Raise OutputError for another one, or if files would be overwritten.

    `confirmed`: the user wants to replace the file, and those that it names.
    """
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise OutputError(f"{path.name} has no format that can be written.", f"Name it {', '.join(FORMATS)}.")
    form.exporter()
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent}.", "Create it, or choose another folder.")
    for target in _targets(path, form):
        is_folder = target == _textures(path)
        if os.path.lexists(target) and target.is_dir() != is_folder:
            raise OutputError(f"{target} is in the way.", "Choose another file name.")
        # In the folder, only files of the names of the textures are replaced.
        wanted = overwrite or (confirmed and (target == path or is_folder or _names(path, target)))
        if os.path.lexists(target) and not wanted:
            raise OutputError(f"{target} exists.", "Choose another file name, or allow overwriting (--overwrite).")
    return form


def _names(path: Path, beside: Path) -> bool:
    """Return whether a text file, a .gltf or .obj, names a file beside it, which then belongs to it."""
    with translate_errors(path):
        return path.is_file() and beside.name.encode() in path.read_bytes()


def export(body: bpy.types.Object, path: Path, *, overwrite: bool = False, confirmed: bool = False) -> str:
    """Write the environment that `body` belongs to, and return a report of it.

    It is the objects of its collection, with the light of the scene's world; nothing else of the scene. Raise
    OutputError (`check_path`), SceneError, PanoramaError.
    """
    form = check_path(path, overwrite=overwrite, confirmed=confirmed)
    scene = bpy.context.scene
    objects = _objects(body, scene)
    light, notice = None, ""
    if scene.world is not None:
        try:
            light = world_light(scene)
        except SceneError as error:
            notice = tr_report("There is no sky in it: {reason}", reason=error.message)
    with writing(path.parent, last=path.name) as drafts, _progress() as progress:
        draft = drafts / path.name
        folder = _textures(draft) if form.refers_to_textures else drafts / _SOURCES
        folder.mkdir()
        with temporary_scene("Panoform Export") as temporary:
            copier = Copier(temporary, folder, has_strength=form.label != "USD")
            for number, thing in enumerate(objects):
                copier.add(thing)
                progress((number + 1) / (len(objects) + 1))
            copier.finish()
            if light is not None and form.has_world:
                copier.set_world(light)
            elif light is not None and MODIFIER_NAME not in body.modifiers:  # a dome shows the sky itself
                copier.add_sky(light, body.matrix_world)
            _run(form, draft)
        for entry in drafts.iterdir():
            if entry not in _targets(draft, form):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        check_path(path, overwrite=overwrite, confirmed=confirmed)  # again: exporting takes a while
    written = tr_report("Wrote {path} ({size:.1f} MB).", path=path, size=_size(path, form) / 1e6)
    return f"{written} {notice}".strip()


def _objects(body: bpy.types.Object, scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """Return the objects of the collection in `scene` that `body` was built in."""
    collection = environment.collection(body, scene)
    return [body] if collection is None else list(collection.all_objects)


def _run(form: Format, path: Path) -> None:
    """Call the exporter. Raise OutputError if it fails."""
    operator = form.exporter()
    known = operator.get_rna_type().properties
    options = {name: value for name, value in form.options.items() if name in known}
    if form.has_folder and not form.refers_to_textures:
        options["export_texture_dir"] = _textures(path).name
    try:
        done = operator(filepath=str(path), check_existing=False, **options)
    except RuntimeError as error:
        raise OutputError(
            f"Blender can't export {form.label}: {str(error).strip()}", "See Blender's console."
        ) from error
    if "FINISHED" not in done or not path.exists():
        raise OutputError(f"Blender could not export {form.label}.", "See Blender's console.")


# Files


def _textures(path: Path) -> Path:
    """Return the folder of the textures of a file."""
    return path.with_name(f"{path.stem}_{path.suffix[1:].lower()}_textures")


def _targets(path: Path, form: Format) -> list[Path]:
    """Return the files and folders that are written for a file."""
    return [path, *(path.with_suffix(suffix) for suffix in form.beside), *[_textures(path)] * form.has_folder]


def _size(path: Path, form: Format) -> int:
    """Return the size of all files, in bytes."""
    files = [file for target in _targets(path, form) for file in (target, *target.rglob("*"))]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[float], None]]:
    """Show progress, from 0 to 1, at the mouse pointer."""
    manager = bpy.context.window_manager
    manager.progress_begin(0, 1)
    try:
        yield manager.progress_update
    finally:
        manager.progress_end()
