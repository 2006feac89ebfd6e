"""A mesh with textures → a binary glTF 2.0 file.

The scene's root node "Panoform" has a node for each part of the mesh ("Visible", "Hidden", "Hidden 2"), one for each
thing ("Chair", "Chair 2"), whose origin is the middle of its base, and "Sky", a dome with the panorama, where there is
open sky. The unit is the metre; glTF's axes are x to the panorama's centre, y up, z to its right. The other nodes stand
at the panorama's place, the camera's height over y = 0, so that the floor lies on y = 0.

Base colours are JPEG (sRGB). Roughness is green and metallic blue in a PNG whose red, the occlusion, is 1 and not
referred to. Light of lamps is an emissive texture scaled to [0, 1], with KHR_materials_emissive_strength. There is no
normal map, as glTF's are in tangent space: vertices have the normals of the mesh, smooth up to an angle.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import OpenImageIO as oiio
import trimesh
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from ...shared import VERSION, json_file
from ...shared.atomic_write import drafts
from ...shared.imaging.colour import srgb_from_linear
from ...shared.jobs.scene import Part, SceneReply, Texture
from ...shared.protocol.errors import OutputError
from ..io import parallel
from ..io.encoding import encode_image, encode_jpeg
from ..io.panoramas import resize
from . import parts

#: Generator of the files, followed by the version; tells Panoform's own from others.
GENERATOR = "Panoform"
UNLIT, STRENGTH = "KHR_materials_unlit", "KHR_materials_emissive_strength"
#: Faces that meet at a larger angle have a sharp edge between them, in degrees.
_CREASE = 40.0
#: Vertices of more faces than this (a pole's) are smooth.
_MANY = 64
#: Radius of the sky as a multiple of the farthest point's distance, and its faces around and from pole to pole.
_SKY_RADIUS, _SKY_COLUMNS, _SKY_ROWS = 2.0, 128, 64
#: Where there is no map: the default of Blender's Principled BSDF.
_DEFAULT_ROUGHNESS = 0.5
#: u goes on beyond 1 across the seam; v ends at the poles. LINEAR, LINEAR_MIPMAP_LINEAR, REPEAT, CLAMP_TO_EDGE.
_SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 33071}
_ARRAY_BUFFER, _ELEMENT_ARRAY_BUFFER = 34962, 34963
_MAGIC, _JSON_CHUNK = 0x46546C67, 0x4E4F534A


class EncodedImage:
    """The content of an image file, in place of the PIL image that trimesh would encode itself."""

    def __init__(self, filename: str, data: bytes) -> None:
        self.format = "JPEG" if filename.endswith(".jpg") else "PNG"
        self.data = data

    def save(self, file: Any, format: str) -> None:
        assert format.upper() == self.format
        file.write(self.data)


def encode(reply: SceneReply, sky: np.ndarray | None = None) -> bytes:
    """Return the content of a .glb file. The textures are those of `encoded_maps`.

    `sky`: the panorama, (H, 2·H, 3) float32 sRGB in [0, 1], for the dome; None: no dome. Raise OutputError (a full
    disk; more than 4 GiB).
    """
    scene = trimesh.Scene(base_frame=GENERATOR)
    up = np.eye(4)
    up[:3, :3] = _y_up(_y_up(np.array(reply.info.world_from_panorama)).T).T
    up[1, 3] = reply.info.camera_height_m
    strengths: dict[str, float] = {}
    materials: dict[str, PBRMaterial] = {}
    part_of, thing_of = reply.part_of_triangles(), reply.thing_of_triangles()

    def add(name: str, material: PBRMaterial, chosen: np.ndarray, origin: tuple[float, float, float]) -> None:
        """Add a node with the `chosen` triangles, (T,) bool."""
        if chosen.any():
            positions = reply.positions - np.array(origin, np.float32)
            mesh = _mesh(positions, reply.triangles[chosen], reply.uv[chosen], material)
            at = np.eye(4)
            at[:3, 3] = _y_up(np.array(origin))
            scene.add_geometry(mesh, node_name=name, geom_name=name, transform=up @ at)

    for index, part in enumerate(reply.parts):
        if part.name == "back" or not part.triangles:
            continue
        name = part.name.capitalize()
        number = sum(other.startswith(name) for other in materials)
        name = f"{name} {number + 1}" if number else name
        materials[name], strength = _material(name, part)
        if strength > 1:
            strengths[name] = strength
        add(name, materials[name], (part_of == index) & (thing_of < 0), (0, 0, 0))
    for index, thing in enumerate(reply.things):
        add(thing.name.capitalize(), materials["Visible"], thing_of == index, thing.origin)
    if sky is not None:
        radius = _SKY_RADIUS * float(np.linalg.norm(reply.positions, axis=1).max())
        scene.add_geometry(_dome(radius, sky), node_name="Sky", geom_name="Sky", transform=up)

    def finish(tree: dict[str, Any]) -> None:
        """Add to the JSON what trimesh doesn't know."""
        tree["asset"]["generator"] = f"{GENERATOR} {VERSION}"
        if tree.get("textures"):
            tree["samplers"] = [_SAMPLER]
        for texture in tree.get("textures", []):
            texture["sampler"] = 0
        for mesh in tree["meshes"]:
            for primitive in mesh["primitives"]:
                for accessor in primitive["attributes"].values():
                    tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = _ARRAY_BUFFER
                view = tree["bufferViews"][tree["accessors"][primitive["indices"]]["bufferView"]]
                view["target"] = _ELEMENT_ARRAY_BUFFER
        used = set()
        for material in tree["materials"]:
            name = material["name"]
            if name == "Sky":
                material["extensions"] = {UNLIT: {}}
                used.add(UNLIT)
            elif name in strengths:
                material["extensions"] = {STRENGTH: {"emissiveStrength": strengths[name]}}
                used.add(STRENGTH)
        if used:
            tree["extensionsUsed"] = sorted(used)

    data = scene.export(file_type="glb", include_normals=True, tree_postprocessor=finish)
    assert isinstance(data, bytes)
    if len(data) >= 2**32:
        raise OutputError("The mesh is too large for a .glb file.", "Use fewer triangles, or smaller textures.")
    return data


def generator(path: Path) -> str:
    """Return the generator that a .glb file names; "" for any other file. Raise OSError."""
    with path.open("rb") as file:
        header = file.read(20)
        if len(header) < 20:
            return ""
        magic, _, length, size, kind = struct.unpack("<5I", header)
        if magic != _MAGIC or kind != _JSON_CHUNK or size > length:
            return ""
        try:
            content = file.read(min(size, json_file.MAX_BYTES))
            return str(json_file.decode(content, dict)["asset"]["generator"])
        except (ValueError, KeyError, TypeError):
            return ""


def _y_up(vectors: np.ndarray) -> np.ndarray:
    """Convert vectors (…, 3) from Panoform's axes, z up, to glTF's, y up."""
    return np.stack([vectors[..., 0], vectors[..., 2], -vectors[..., 1]], axis=-1)


def _mesh(positions: np.ndarray, triangles: np.ndarray, uv: np.ndarray, material: PBRMaterial) -> trimesh.Trimesh:
    """Return a mesh of triangles (T, 3) with texture coordinates (T, 3, 2); vertices are split where these differ."""
    corner = triangles.reshape(-1).astype(np.int64)
    normals = corner_normals(positions.astype(np.float64), triangles.astype(np.int64)).reshape(-1, 3)
    coordinates = uv.reshape(-1, 2).astype(np.float32)
    keys = [corner, *coordinates.view(np.int32).T, *np.round(normals * 2**14).astype(np.int32).T]
    order = np.lexsort(keys)
    new = np.zeros(len(corner), bool)
    for key in keys:
        ordered = key[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    vertex = np.empty(len(corner), np.int64)
    vertex[order] = np.cumsum(new)
    new[:1] = True
    first = order[new]
    return _trimesh(positions[corner[first]], vertex.reshape(-1, 3), coordinates[first], normals[first], material)


def _trimesh(
    positions: np.ndarray, triangles: np.ndarray, uv: np.ndarray, normals: np.ndarray, material: PBRMaterial
) -> trimesh.Trimesh:
    return trimesh.Trimesh(
        _y_up(positions), triangles, vertex_normals=_y_up(normals), process=False,
        visual=TextureVisuals(uv=uv, material=material),
    )  # fmt: skip


def corner_normals(positions: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return unit normals of the triangles' corners, (T, 3, 3).

    That of a corner is the mean of the normals of those faces at its vertex (V, 3) that meet its own at an angle of up
    to _CREASE, weighted by their angles at the vertex.
    """
    points = positions[triangles]
    sides = np.roll(points, -1, axis=1) - points
    face = np.cross(sides[:, 0], sides[:, 1])
    face /= np.maximum(np.linalg.norm(face, axis=1, keepdims=True), 1e-30)
    sides /= np.maximum(np.linalg.norm(sides, axis=2, keepdims=True), 1e-30)
    angle = np.arccos(np.clip(-(sides * np.roll(sides, 1, axis=1)).sum(-1), -1, 1))
    # Corners, those of one vertex together.
    corner = triangles.reshape(-1)
    order = np.argsort(corner, kind="stable")
    start = np.flatnonzero(np.diff(corner[order], prepend=-1))
    count = np.diff(start, append=len(corner))
    weighted = (face[:, None] * angle[..., None]).reshape(-1, 3)
    result = np.repeat(face, 3, axis=0)
    for number in np.unique(count):
        here = start[count == number]
        at = order[here[:, None] + np.arange(number)]  # [vertices, corners]
        if number > _MANY:
            result[at] = weighted[at].sum(axis=1, keepdims=True)
            continue
        faces = face[at // 3]
        alike = faces @ faces.swapaxes(1, 2) > np.cos(np.radians(_CREASE))
        result[at] = alike @ weighted[at]
    length = np.linalg.norm(result, axis=1, keepdims=True)
    result = np.where(length > 1e-6, result / np.maximum(length, 1e-6), np.repeat(face, 3, axis=0))
    # A triangle without area has no normal: the direction to the camera.
    empty = np.linalg.norm(result, axis=1) < 0.5
    towards = points.reshape(-1, 3)[empty] * -1
    result[empty] = towards / np.maximum(np.linalg.norm(towards, axis=1, keepdims=True), 1e-30)
    return result.reshape(-1, 3, 3)


def _dome(radius: float, picture: np.ndarray) -> trimesh.Trimesh:
    """Return a sphere seen from inside, that shows the panorama."""
    u, v = np.meshgrid(np.linspace(0, 1, _SKY_COLUMNS + 1), np.linspace(1, 0, _SKY_ROWS + 1))
    lon, lat = (0.5 - u) * 2 * np.pi, (v - 0.5) * np.pi
    rays = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1).reshape(-1, 3)
    corner = (np.arange(_SKY_ROWS)[:, None] * (_SKY_COLUMNS + 1) + np.arange(_SKY_COLUMNS)).reshape(-1)
    a, b, c, d = corner, corner + _SKY_COLUMNS + 1, corner + _SKY_COLUMNS + 2, corner + 1
    upper, lower = np.stack([a, b, c], -1), np.stack([a, c, d], -1)
    # The quadrilaterals at a pole are triangles.
    triangles = np.concatenate([upper[:-_SKY_COLUMNS], lower[_SKY_COLUMNS:]])
    material = PBRMaterial(
        name="Sky", baseColorTexture=_image(_jpeg(picture)), roughnessFactor=1.0, metallicFactor=0.0, doubleSided=False
    )
    return _trimesh(rays * radius, triangles, np.stack([u, v], -1).reshape(-1, 2), rays * -1, material)


def _material(name: str, part: Part) -> tuple[PBRMaterial, float]:
    """Return the material of a part, and the strength of its emission."""
    found = part.textures
    options: dict[str, Any] = {}
    if "albedo" in found:
        options["baseColorTexture"] = _image(found["albedo"])
    else:
        options["baseColorFactor"] = [204, 204, 204, 255]
    options["roughnessFactor"] = 1.0 if "roughness" in found else _DEFAULT_ROUGHNESS
    options["metallicFactor"] = 1.0 if "metallic" in found else 0.0
    packed = found.get("roughness") or found.get("metallic")
    if packed is not None:
        options["metallicRoughnessTexture"] = _image(packed)
    strength = 0.0
    if "emission" in found:
        pixels = _pixels(found["emission"])
        strength = float(pixels.max())
        options["emissiveTexture"] = _image(_png("emission", srgb_from_linear(pixels / strength), "sRGB"))
        options["emissiveFactor"] = [min(strength, 1.0)] * 3
    return PBRMaterial(name=name, doubleSided=False, **options), strength


def encoded_maps(maps: dict[str, np.ndarray]) -> dict[str, Texture]:
    """Encode maps (H, 2·H, C) as the textures that `encode` wants: albedo as JPEG, roughness and metallic as one PNG,
    which has both names, emission as an EXR. Other maps are left out: they have no place in the file.
    """
    encoders: dict[str, Callable[[], Texture]] = {}
    if "albedo" in maps:
        encoders["albedo"] = lambda: _jpeg(maps["albedo"])
    packed = [kind for kind in ("roughness", "metallic") if kind in maps]
    if packed:
        encoders["packed"] = lambda: _packed(maps, packed)
    if "emission" in maps:
        encoders["emission"] = lambda: parts.encoded("emission", maps["emission"])
    found = dict(zip(encoders, parallel.in_threads(lambda kind: encoders[kind](), encoders), strict=True))
    if packed:
        found |= dict.fromkeys(packed, found.pop("packed"))
    return found


def _packed(maps: dict[str, np.ndarray], kinds: list[str]) -> Texture:
    """Encode roughness as green and metallic as blue."""
    height = max(len(maps[kind]) for kind in kinds)
    pixels = np.ones((height, 2 * height, 3), np.float32)
    for kind in kinds:
        pixels[..., 1 + (kind == "metallic")] = resize(maps[kind], height)[..., 0]
    return _png("metallic_roughness", pixels, "Non-Color")


def _pixels(texture: Texture) -> np.ndarray:
    """Decode a texture, (H, W, C) float32."""
    with drafts() as folder:
        path = folder / texture.filename
        path.write_bytes(texture.data.tobytes())
        image = oiio.ImageBuf(str(path))
        pixels = image.get_pixels(oiio.FLOAT)
        assert pixels is not None, image.geterror()  # the job's own file
        spec = image.spec()
    return pixels.reshape(spec.height, spec.width, -1)


def _image(texture: Texture) -> EncodedImage:
    return EncodedImage(texture.filename, texture.data.tobytes())


def _jpeg(pixels: np.ndarray) -> Texture:
    return Texture(filename="colour.jpg", colorspace="sRGB", data=np.frombuffer(encode_jpeg(pixels), np.uint8))


def _png(name: str, pixels: np.ndarray, colorspace: Literal["sRGB", "Non-Color"]) -> Texture:
    data = encode_image(f"{name}.png", pixels, colorspace, bits=8)
    return Texture(filename=f"{name}.png", colorspace=colorspace, data=np.frombuffer(data, np.uint8))
