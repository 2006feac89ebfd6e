"""Read meshes with texture coordinates from files, and write textured ones, by trimesh."""

from __future__ import annotations

import contextlib
import io
import json
import re
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import numpy as np
import trimesh
from trimesh.resolvers import FilePathResolver
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from ...shared import VERSION
from ...shared.file_errors import display_name, is_file
from ...shared.jobs.texture import check_count
from ...shared.protocol.errors import InputError
from ..scene.gltf import GENERATOR, EncodedImage

#: Formats that are read, and whether their Y axis points up.
FORMATS = {".glb": True, ".gltf": True, ".obj": True, ".ply": False}
#: Of a .glb file: magic, version, length; then length and type of the JSON.
_HEADER = struct.Struct("<4sIII4s")


@dataclass(frozen=True)
class MeshFile:
    """Triangles with normals and texture coordinates of their own at each corner, Z up."""

    #: (T, 3, 3) float32 each.
    corners: np.ndarray
    normals: np.ndarray
    #: (T, 3, 2) float32: u to the right, v up; None: a mesh of the file has none.
    uv: np.ndarray | None


def read(path: Path) -> MeshFile:
    """Read all meshes of a file as one, in the file's units.

    A glTF or OBJ file's Y axis becomes Z, and its Z axis −Y. Raise InputError for a file that is missing, damaged, of
    another format, or without faces or with too many.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path.name} is not a mesh that can be read.", f"Give one of {', '.join(FORMATS)}.")
    if not path.is_file():
        raise InputError(f"There is no file {path}.", "Check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about colours and materials, which are not used
            scene = _load(path)
            if count := _count(scene):  # before its triangles, at all their places, take memory
                check_count(count)
            parts = [_placed(scene, node) for node in scene.graph.nodes_geometry]
    except InputError:
        raise
    except UnicodeEncodeError as error:
        raise InputError(f"The name of {display_name(path.name)} or its folder is not UTF-8.", "Rename it.") from error
    except Exception as error:  # trimesh's readers raise exceptions of any class
        raise InputError(f"{path.name} can't be read: {error}.", "Export it again.") from error
    parts = [part for part in parts if part is not None]
    if not parts:
        raise InputError(f"{path.name} has no faces.", "Choose a mesh with faces.")
    corners, normals = (
        np.concatenate(each).astype(np.float32) for each in zip(*(part[:2] for part in parts), strict=True)
    )
    if FORMATS[path.suffix.lower()]:
        corners, normals = _z_up(corners), _z_up(normals)
    coordinates = [part[2] for part in parts if part[2] is not None]
    whole = len(coordinates) == len(parts)
    return MeshFile(corners, normals, np.concatenate(coordinates).astype(np.float32) if whole else None)


def files(path: Path) -> list[Path]:
    """Return a mesh's file and those that it names: buffers, materials, images. They may be missing.

    The content is not checked: `read` does.
    """
    found = [path]
    if path.suffix.lower() == ".gltf" and path.is_file():
        with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
            tree = json.loads(path.read_bytes())
            named = [entry.get("uri", "") for kind in ("buffers", "images") for entry in tree.get(kind, [])]
            found += [path.parent / unquote(name) for name in named if name and not name.startswith("data:")]
    elif path.suffix.lower() == ".obj" and path.is_file():
        found += (materials := _named(path, "mtllib"))
        found += [image for file in materials if is_file(file) for image in _named(file, r"(?:map_|bump|disp|refl)")]
    return found


def _named(path: Path, keyword: str) -> list[Path]:
    """Return the files that lines of an OBJ or MTL file name after a keyword, and its options."""
    text = path.read_bytes().decode("utf-8", "replace")
    lines = re.findall(rf"^\s*{keyword}\w*\s+(.+?)\s*$", text, re.MULTILINE | re.IGNORECASE)
    return [path.parent / name for line in lines for name in dict.fromkeys((line, line.split()[-1]))]


def _load(path: Path) -> trimesh.Scene:
    """Load a file; trimesh reads the texture coordinates of a glTF mesh only where it has a material."""
    suffix, options = path.suffix.lower(), cast("Any", {"process": False, "maintain_order": True})
    if suffix not in (".glb", ".gltf"):
        return trimesh.load_scene(path, **options)
    data, rest = path.read_bytes(), b""
    if suffix == ".glb":
        _, _, _, length, _ = _HEADER.unpack(data[: _HEADER.size])
        end = _HEADER.size + length
        data, rest = data[_HEADER.size : end], data[end:]
    tree = json.loads(data)
    materials = tree.setdefault("materials", [])
    for mesh in tree.get("meshes", []):
        for primitive in mesh["primitives"]:
            primitive.setdefault("material", len(materials))
    materials.append({})
    data = json.dumps(tree).encode()
    if suffix == ".glb":
        data += b" " * (-len(data) % 4)
        data = _HEADER.pack(b"glTF", 2, _HEADER.size + len(data) + len(rest), len(data), b"JSON") + data + rest
    resolver = FilePathResolver(str(path))
    return trimesh.load_scene(io.BytesIO(data), file_type=suffix[1:], resolver=resolver, **options)


def _count(scene: trimesh.Scene) -> int:
    """Return the number of triangles of all nodes; one mesh may be at many."""
    meshes = [scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry]
    return sum(len(mesh.faces) for mesh in meshes if isinstance(mesh, trimesh.Trimesh))


def _placed(scene: trimesh.Scene, node: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None] | None:
    """Return corners, normals and texture coordinates (None: there are none) of a node's mesh, where it stands; None
    for a node without triangles."""
    transform, name = scene.graph[node]
    mesh: Any = scene.geometry[name]
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        return None
    matrix = np.asarray(transform)[:3, :3]
    faces = mesh.faces if np.linalg.det(matrix) > 0 else mesh.faces[:, ::-1]  # mirrored: the other way around
    corners = mesh.vertices[faces] @ matrix.T + np.asarray(transform)[:3, 3]
    uv = getattr(mesh.visual, "uv", None)
    own = None if uv is None or len(uv) != len(mesh.vertices) else uv[faces]
    return corners, mesh.vertex_normals[faces] @ np.linalg.inv(matrix), own


def _z_up(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.stack([vectors[..., 0], -vectors[..., 2], vectors[..., 1]], axis=-1))


def _y_up(vectors: np.ndarray) -> np.ndarray:
    return np.stack([vectors[..., 0], vectors[..., 2], -vectors[..., 1]], axis=-1)


def encode_glb(mesh: MeshFile, texture: bytes, name: str) -> bytes:
    """Return the content of a .glb file: the mesh with one material, whose base colour is the PNG `texture`."""
    assert mesh.uv is not None
    values = np.concatenate([_y_up(mesh.corners), _y_up(mesh.normals), mesh.uv], axis=-1).reshape(-1, 8)
    unique, index = np.unique(values, axis=0, return_inverse=True)
    material = PBRMaterial(
        name=name, baseColorTexture=EncodedImage("texture.png", texture), metallicFactor=0.0, roughnessFactor=1.0
    )
    made = trimesh.Trimesh(
        unique[:, :3], index.reshape(-1, 3), vertex_normals=unique[:, 3:6], process=False,
        visual=TextureVisuals(uv=unique[:, 6:], material=material),
    )  # fmt: skip
    scene = trimesh.Scene(base_frame=GENERATOR)
    scene.add_geometry(made, node_name=name, geom_name=name)

    def finish(tree: dict[str, Any]) -> None:
        tree["asset"]["generator"] = f"{GENERATOR} {VERSION}"

    data = scene.export(file_type="glb", include_normals=True, tree_postprocessor=finish)
    assert isinstance(data, bytes)
    return data
