"""Environment → copies that other programs can show: plain meshes and materials, textures as files.

Panoform's materials use nodes that no file format has: object-space normals, other outputs for Cycles and EEVEE. The
copies have one Principled BSDF with images: base colour, roughness, metallic, a tangent-space normal map, emission.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Matrix

from ...shared.imaging.colour import linear_from_srgb, srgb_from_linear
from ...shared.protocol.errors import SceneError
from ..capture import colour_management, pixels, sources
from ..capture.colour_management import ColorSpace
from . import dome, environment, images, mesh, rays, tangents
from .datablocks import take_name

#: Faces that meet at a larger angle have a sharp edge between them, in degrees.
_CREASE = 40.0
#: Light is stored in 8 bit, up to this many times its median: beyond, dark parts would show steps.
_BRIGHTEST = 64.0
#: Radius of the sky as a multiple of the farthest point's distance, and at least, in metres.
_SKY_RADIUS, _MIN_SKY_M = 2.0, 100.0
#: Faces of the sky, around and from pole to pole.
_SKY_COLUMNS, _SKY_ROWS = 128, 64

_SOCKETS = {
    "albedo": "Base Color",
    "roughness": "Roughness",
    "metallic": "Metallic",
    "emission": "Emission Color",
}
#: Suffixes of the formats of files that every program reads.
_PLAIN = {"PNG": ".png", "JPEG": ".jpg"}
#: Types of objects that have a mesh when evaluated.
_MESHES = {"MESH", "CURVE", "SURFACE", "FONT", "META"}


class Copier:
    """Creates the copies in a scene, and the files of their textures in a folder."""

    def __init__(self, scene: bpy.types.Scene, folder: Path, *, has_strength: bool) -> None:
        """`has_strength`: whether emission is an image in [0, 1] and a strength; otherwise it is an EXR."""
        self._scene = scene
        self._folder = folder
        self._has_strength = has_strength
        #: (Image, kind) → its file's image, and the radiance of its white.
        self._files: dict[tuple[bpy.types.Image, str], tuple[bpy.types.Image, float]] = {}
        #: Meshes without materials yet, with those of the original, and the slot of each triangle, (T,).
        self._pending: list[tuple[bpy.types.Mesh, list[bpy.types.Material | None], np.ndarray]] = []
        #: Largest distance of a point of an environment from its centre, in metres.
        self._reach_m = 0.0

    def add(self, original: bpy.types.Object) -> None:
        """Add a copy of an object, with its modifiers applied; nothing for what only Blender has (an empty …)."""
        if original.type in {"LIGHT", "CAMERA"}:
            data = original.data.copy()
            data.name = portable_name(original.data.name)
            self._link(original.name, data, original.matrix_world)
            return
        if original.type not in _MESHES:
            return
        copy = original.copy()
        copy.parent, copy.hide_viewport = None, False  # a hidden object isn't evaluated
        self._scene.collection.objects.link(copy)
        layer = self._scene.view_layers[0]
        layer.update()
        depsgraph = bpy.context.evaluated_depsgraph_get()
        applied = bpy.data.meshes.new_from_object(copy.evaluated_get(depsgraph), depsgraph=depsgraph)
        bpy.data.objects.remove(copy)
        own = environment.PART in original or environment.ENVIRONMENT in original
        if own or any(map(_has_object_normals, applied.materials)):
            applied = self._portable(applied, original.name)
        self._link(original.name, applied, original.matrix_world)

    def add_sky(self, light: Light, pose: Matrix) -> None:
        """Add a dome that shines inwards with the light of the sky; nothing if there is none.

        Where no light comes from, below the horizon, it shows the panorama.
        """
        if not pixels.raw(light.lighting)[..., :3].any():
            return
        positions, uv, faces = dome.grid(_SKY_COLUMNS, _SKY_ROWS)
        corners = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
        radius = max(_SKY_RADIUS * self._reach_m, _MIN_SKY_M)
        geometry = _Geometry(positions * radius, corners, uv[corners], np.zeros(len(corners), np.int32))
        sky = _mesh("Sky", geometry)
        material, shader = _material("Sky")
        shader.inputs["Base Color"].default_value = (0, 0, 0, 1)
        shader.inputs["Specular IOR Level"].default_value = 0
        shader.inputs["Roughness"].default_value = 1
        image = light.lighting
        if image != light.image:
            image = images.create_float(image.name, _filled(_linear(image), _linear(light.image)), "Linear Rec.709")
        self._emit(material, shader, image, light.strength)
        sky.materials.append(material)
        turn = light.world_from_panorama.to_quaternion().to_matrix().to_4x4()
        self._link("Sky", sky, Matrix.Translation(pose.translation) @ turn)

    def set_world(self, light: Light) -> None:
        """Give the scene a world with the light of the sky: Mapping → Environment Texture → Background."""
        world = bpy.data.worlds.new("World")
        if bpy.app.version < (5, 0):
            world.use_nodes = True
        tree = world.node_tree
        tree.nodes.clear()
        coordinates = rays.add(tree, "ShaderNodeTexCoord", 0, 0, {}).outputs["Generated"]
        rotation = light.world_from_panorama.to_3x3().inverted().to_euler()
        mapping = rays.add(tree, "ShaderNodeMapping", 0, 0, {"Vector": coordinates, "Rotation": rotation})
        image = self._radiance(light.lighting, 1.0)
        texture = rays.add(tree, "ShaderNodeTexEnvironment", 0, 0, {"Vector": mapping.outputs[0]}, image=image)
        background = rays.add(
            tree, "ShaderNodeBackground", 0, 0, {"Color": texture.outputs[0], "Strength": light.strength}
        )
        rays.add(tree, "ShaderNodeOutputWorld", 0, 0, {"Surface": background.outputs[0]})
        self._scene.world = world

    def _link(self, name: str, data: bpy.types.ID, matrix: Matrix) -> None:
        copy = bpy.data.objects.new(data.name, data)
        take_name(copy, portable_name(name))
        copy.matrix_world = matrix
        self._scene.collection.objects.link(copy)

    def _portable(self, applied: bpy.types.Mesh, name: str) -> bpy.types.Mesh:
        """Return a mesh of triangles in place of `applied`; `finish` gives it its materials."""
        geometry = _geometry(applied)
        self._reach_m = max(self._reach_m, float(np.linalg.norm(geometry.positions, axis=1).max(initial=0)))
        looks = map(_Look.read, applied.materials)
        heights = [image.size[1] for look in looks for image in look.maps() if image.size[1]]
        half = 0.5 / min(heights, default=1)
        # A repeating texture blends zenith and nadir in its first and last half pixel.
        geometry.uv[..., 1] = geometry.uv[..., 1].clip(half, 1 - half)
        made = _mesh(name, geometry)
        self._pending.append((made, list(applied.materials), geometry.slots))
        return made

    def finish(self) -> None:
        """Give the copies their materials. Objects share them, and their normal maps."""
        looks = {material: _Look.read(material) for _, materials, _ in self._pending for material in materials}
        parts: dict[_Normals, list[tuple[bpy.types.Mesh, np.ndarray]]] = {}
        for made, materials, slots in self._pending:
            for slot, material in enumerate(materials):
                normals = looks[material].normals
                if normals is not None:
                    parts.setdefault(normals, []).append((made, slots == slot))
        tangent = {normals: self._bake(found, normals) for normals, found in parts.items()}
        plain = {material: self._look(look, tangent) for material, look in looks.items()}
        for made, materials, slots in self._pending:
            for material in materials:
                made.materials.append(plain[material])
            made.polygons.foreach_set("material_index", slots)
        self._pending.clear()

    def _look(self, look: _Look, tangent: dict[_Normals, bpy.types.Image]) -> bpy.types.Material:
        material, shader = _material(look.name)
        for kind in ("albedo", "roughness", "metallic"):
            socket = shader.inputs[_SOCKETS[kind]]
            if kind in look.images:
                _texture(material, self._values(look.images[kind], kind == "albedo"), socket)
            else:
                socket.default_value = look.values[kind]
        if look.normals is not None:
            normal = rays.add(material.node_tree, "ShaderNodeNormalMap", 0, 0, {}, uv_map=rays.UV_NAME)
            _texture(material, tangent[look.normals], normal.inputs["Color"])
            material.node_tree.links.new(normal.outputs["Normal"], shader.inputs["Normal"])
        if "emission" in look.images:
            self._emit(material, shader, look.images["emission"], look.strength)
        return material

    def _emit(
        self, material: bpy.types.Material, shader: bpy.types.Node, image: bpy.types.Image, strength: float
    ) -> None:
        if self._has_strength:
            shown, brightest = self._light(image)
            strength *= brightest
        else:
            shown, strength = self._radiance(image, strength), 1.0
        _texture(material, shown, shader.inputs["Emission Color"])
        shader.inputs["Emission Strength"].default_value = strength

    # Files

    def _values(self, image: bpy.types.Image, is_colour: bool) -> bpy.types.Image:
        """Return an image of 8 bit, in sRGB or as data: the same file if it is one, or a PNG."""
        key = (image, "values")
        if key not in self._files:
            colorspace = "sRGB" if is_colour else "Non-Color"
            suffix = _PLAIN.get(image.file_format) if image.packed_file and not image.is_float else None
            has_space = colour_management.is_srgb(image) if is_colour else image.colorspace_settings.is_data
            if suffix and has_space:
                shown = self._store(image.name, suffix, image.packed_file.data, colorspace)
            elif is_colour:
                shown = self._write(image.name, pixels.display(pixels.read(image)), colorspace)
            else:
                shown = self._write(image.name, pixels.raw(image)[..., :3].clip(0, 1), colorspace)
            self._files[key] = (shown, 1.0)
        return self._files[key][0]

    def _light(self, image: bpy.types.Image) -> tuple[bpy.types.Image, float]:
        """Return light as an sRGB image in [0, 1], and the radiance of its white."""
        key = (image, "light")
        if key not in self._files:
            light, encoding = pixels.read(image)
            if encoding == "srgb":
                return self._values(image, True), 1.0
            shining = light.max(axis=-1)
            shining = shining[shining > 0]
            brightest = 1.0
            if shining.size:
                brightest = min(float(shining.max()), _BRIGHTEST * float(np.median(shining)))
            shown = srgb_from_linear((light / brightest).clip(0, 1))
            self._files[key] = (self._write(image.name, shown, "sRGB"), brightest)
        return self._files[key]

    def _radiance(self, image: bpy.types.Image, strength: float) -> bpy.types.Image:
        """Return `strength` times light as an EXR in linear light."""
        key = (image, f"radiance {strength}")
        if key not in self._files:
            packed = images.create_float(image.name, _linear(image) * np.float32(strength), "Linear Rec.709")
            # As data, because the USD exporter would declare any other image sRGB.
            self._files[key] = (self._store(image.name, ".exr", packed.packed_file.data, "Non-Color"), 1.0)
        return self._files[key][0]

    def _bake(self, parts: list[tuple[bpy.types.Mesh, np.ndarray]], normals: _Normals) -> bpy.types.Image:
        strength = normals.strength
        if isinstance(strength, bpy.types.Image):
            strength = pixels.raw(strength)[..., :1]
        baked = tangents.bake(parts, pixels.raw(normals.image)[..., :3], strength)
        return self._write(normals.image.name, baked * 0.5 + 0.5, "Non-Color")

    def _write(self, name: str, values: np.ndarray, colorspace: ColorSpace) -> bpy.types.Image:
        """Write (H, W, 3) values in [0, 1], as stored, to a PNG of 8 bit, and return its image."""
        height, width, _ = values.shape
        path = self._path(name, ".png")
        image = bpy.data.images.new(path.stem, width, height, alpha=False)
        rgba = np.ones((height, width, 4), np.float32)
        rgba[..., :3] = values[::-1]
        image.pixels.foreach_set(rgba.ravel())
        image.file_format = "PNG"
        image.save(filepath=str(path))
        bpy.data.images.remove(image)
        return self._load(path, colorspace)

    def _store(self, name: str, suffix: str, data: bytes, colorspace: ColorSpace) -> bpy.types.Image:
        """Write the content of an image file, and return its image."""
        path = self._path(name, suffix)
        path.write_bytes(data)
        return self._load(path, colorspace)

    def _path(self, name: str, suffix: str) -> Path:
        """Return the path of a new file in the folder."""
        stem = portable_name(name)
        names = [stem, *(f"{stem}_{number}" for number in range(2, 1000))]
        return next(path for path in (self._folder / f"{name}{suffix}" for name in names) if not path.exists())

    def _load(self, path: Path, colorspace: ColorSpace) -> bpy.types.Image:
        image = bpy.data.images.load(str(path))
        image.name = path.stem
        colour_management.assign(image, colorspace)
        return image


class Light(NamedTuple):
    """The light of a scene's world."""

    #: What the camera sees, and what lights the scene; often the same.
    image: bpy.types.Image
    lighting: bpy.types.Image
    strength: float
    #: Rotation, 4 × 4.
    world_from_panorama: Matrix


def world_light(scene: bpy.types.Scene) -> Light:
    """Return the light that comes from outside a scene. Raise SceneError where its world isn't a plain HDRI."""
    image, world_from_panorama = sources.world_image(scene)
    light = scene.world.node_tree.nodes.get(sources.LIGHT)
    return Light(image, light.image if light else image, sources.world_strength(scene), world_from_panorama)


def _linear(image: bpy.types.Image) -> np.ndarray:
    """Return linear light, (H, W, 3) float32."""
    values, encoding = pixels.read(image)
    return linear_from_srgb(values) if encoding == "srgb" else values


def _filled(light: np.ndarray, panorama: np.ndarray) -> np.ndarray:
    """Return light (H, W, 3), where there is none that of the nearest pixel of a panorama (h, w, 3)."""
    (height, width), (rows, columns) = light.shape[:2], panorama.shape[:2]
    row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
    return np.where(light.any(axis=-1, keepdims=True), light, panorama[row[:, None], column])


def portable_name(name: str) -> str:
    """Return a name without spaces and dots, which some formats can't have in names of files or nodes."""
    return "_".join(name.replace(".", " ").split())


# Geometry


class _Geometry(NamedTuple):
    """Triangles."""

    #: (V, 3) float32.
    positions: np.ndarray
    #: (T, 3).
    corners: np.ndarray
    #: (T, 3, 2) float32.
    uv: np.ndarray
    #: Index of the material, (T,) int32.
    slots: np.ndarray


def _geometry(source: bpy.types.Mesh) -> _Geometry:
    """Return the triangles of a mesh but for those without an area, which have no tangents, and repeated ones."""
    source.calc_loop_triangles()
    count = len(source.loop_triangles)
    positions = np.empty(3 * len(source.vertices), np.float32)
    source.attributes["position"].data.foreach_get("vector", positions)
    positions = positions.reshape(-1, 3)
    loops, slots = np.empty(3 * count, np.int32), np.empty(count, np.int32)
    source.loop_triangles.foreach_get("loops", loops)
    source.loop_triangles.foreach_get("material_index", slots)
    vertex = np.empty(len(source.loops), np.int32)
    source.attributes[".corner_vert"].data.foreach_get("value", vertex)
    uv = np.empty(2 * len(source.loops), np.float32)
    if rays.UV_NAME not in source.uv_layers:
        raise SceneError(f"{source.name!r} has no UV map {rays.UV_NAME!r}.", "Build the scene again.")
    source.uv_layers[rays.UV_NAME].uv.foreach_get("vector", uv)
    corners, uv = vertex[loops].reshape(-1, 3), uv.reshape(-1, 2)[loops].reshape(-1, 3, 2)
    a, b, c = (positions[corners[:, corner]].astype(np.float64) for corner in range(3))
    proper = np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12
    _, first = np.unique(np.sort(corners, axis=1), axis=0, return_index=True)
    repeated = np.ones(count, bool)
    repeated[first] = False
    kept = proper & ~repeated
    return _Geometry(positions, corners[kept], uv[kept], slots[kept])


def _mesh(name: str, geometry: _Geometry) -> bpy.types.Mesh:
    """Create a mesh, without the vertices that no triangle has, smooth up to an angle."""
    used, corners = np.unique(geometry.corners, return_inverse=True)
    made = bpy.data.meshes.new(portable_name(name))
    mesh.set_geometry(made, geometry.positions[used], corners.reshape(-1, 3), geometry.uv)
    made.shade_smooth()
    made.set_sharp_from_angle(angle=math.radians(_CREASE))
    return made


# Materials


class _Normals(NamedTuple):
    """An object-space normal map."""

    image: bpy.types.Image
    #: Strength of the Normal Map node: an image of the same size, or the same everywhere.
    strength: bpy.types.Image | float

    @classmethod
    def read(cls, socket: bpy.types.NodeSocket) -> _Normals | None:
        """Read what the Normal of a shader is linked to; None if there is no map."""
        node = socket.links[0].from_node if socket.is_linked else None
        image = _image(node.inputs["Color"]) if node and node.bl_idname == "ShaderNodeNormalMap" else None
        if image is None:
            return None
        return cls(image, _image(node.inputs["Strength"]) or node.inputs["Strength"].default_value)


class _Look(NamedTuple):
    """What a material of Panoform shows."""

    name: str
    normals: _Normals | None
    #: By map name, and "emission".
    images: dict[str, bpy.types.Image]
    #: Values where there is no image.
    values: dict[str, object]
    #: Of the emission.
    strength: float

    @classmethod
    def read(cls, material: bpy.types.Material | None) -> _Look:
        """Read a material. Raise SceneError if it has no Principled BSDF."""
        shader = material and next(
            (node for node in material.node_tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled"), None
        )
        if shader is None:
            name = material.name if material else "None"
            raise SceneError(f"The material {name!r} has no Principled BSDF.", "Add one, or build the scene again.")
        images = {kind: _image(shader.inputs[socket]) for kind, socket in _SOCKETS.items()}
        values = {kind: shader.inputs[_SOCKETS[kind]].default_value for kind in ("albedo", "roughness", "metallic")}
        return cls(
            material.name,
            _Normals.read(shader.inputs["Normal"]),
            {kind: image for kind, image in images.items() if image is not None},
            {kind: value if isinstance(value, float) else tuple(value) for kind, value in values.items()},
            shader.inputs["Emission Strength"].default_value,
        )

    def maps(self) -> list[bpy.types.Image]:
        """Return all images."""
        return [*self.images.values(), *([self.normals.image] if self.normals else [])]


def _image(socket: bpy.types.NodeSocket) -> bpy.types.Image | None:
    """Return the image that the nodes before a socket read first."""
    queue = [link.from_node for link in socket.links]
    for node in queue:
        if node.bl_idname == "ShaderNodeTexImage":
            return node.image
        queue += [link.from_node for given in node.inputs for link in given.links]
    return None


def _has_object_normals(material: bpy.types.Material | None) -> bool:
    return material is not None and any(
        node.bl_idname == "ShaderNodeNormalMap" and node.space == "OBJECT" for node in _nodes(material)
    )


def _nodes(material: bpy.types.Material) -> Iterable[bpy.types.Node]:
    return material.node_tree.nodes if material.node_tree else ()


def _material(name: str) -> tuple[bpy.types.Material, bpy.types.Node]:
    """Create a material and its Principled BSDF."""
    made = bpy.data.materials.new(portable_name(name))
    if bpy.app.version < (5, 0):
        made.use_nodes = True
    made.use_backface_culling = True
    made.node_tree.nodes.clear()
    shader = rays.add(made.node_tree, "ShaderNodeBsdfPrincipled", 0, 0, {})
    rays.add(made.node_tree, "ShaderNodeOutputMaterial", 0, 0, {"Surface": shader.outputs["BSDF"]})
    return made, shader


def _texture(material: bpy.types.Material, image: bpy.types.Image, target: bpy.types.NodeSocket) -> None:
    """Link an image to a socket. It needs no UV Map node, as there is only one UV map."""
    node = rays.add(material.node_tree, "ShaderNodeTexImage", 0, 0, {}, image=image)
    material.node_tree.links.new(node.outputs["Color"], target)
