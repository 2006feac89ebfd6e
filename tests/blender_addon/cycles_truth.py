"""Synthetic scenes and their ground truth rendered by Cycles."""

from __future__ import annotations

import math
from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio
from mathutils import Matrix, Vector

from panoform.backend.io import results
from panoform.blender_addon.scene import dome, images
from panoform.shared.maps import MAPS

PASSES = {
    "distance": ("ViewLayer.Depth.Z",),
    "normal": ("ViewLayer.Normal.X", "ViewLayer.Normal.Y", "ViewLayer.Normal.Z"),
    "albedo": ("ViewLayer.albedo.R", "ViewLayer.albedo.G", "ViewLayer.albedo.B"),
    "roughness": ("ViewLayer.roughness.V", "ViewLayer.roughness.X"),
    "metallic": ("ViewLayer.metallic.V", "ViewLayer.metallic.X"),
}
COLOURS = {
    "+X": (0.8, 0.05, 0.05), "-X": (0.05, 0.6, 0.6), "+Y": (0.05, 0.7, 0.05),
    "-Y": (0.6, 0.05, 0.6), "+Z": (0.05, 0.05, 0.8), "-Z": (0.6, 0.6, 0.05),
}  # fmt: skip
#: Half the size of the room, in metres; the origin is in its middle.
HALF = (4.0, 3.0, 2.0)


def use_nodes(block: bpy.types.World | bpy.types.Material) -> None:
    """Give a world or material its nodes, which it always has from Blender 5.0 on."""
    if bpy.app.version < (5, 0):
        block.use_nodes = True


def surface(name: str, colour: tuple[float, float, float], roughness: float, metallic: float) -> bpy.types.Material:
    """Create a Principled material that also outputs its inputs as AOVs."""
    material = bpy.data.materials.new(name)
    use_nodes(material)
    tree = material.node_tree
    principled = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeBsdfPrincipled")
    principled.inputs["Base Color"].default_value = (*colour, 1)
    principled.inputs["Roughness"].default_value = roughness
    principled.inputs["Metallic"].default_value = metallic
    for aov, value in (("albedo", (*colour, 1)), ("roughness", roughness), ("metallic", metallic)):
        node = tree.nodes.new("ShaderNodeOutputAOV")
        node.aov_name = aov
        node.inputs["Color" if aov == "albedo" else "Value"].default_value = value
    return material


def _mesh(name: str, vertices, faces, material: bpy.types.Material) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(vertices, [], faces)
    mesh.materials.append(material)
    obj = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(obj)
    return obj


def room() -> None:
    """Build six walls of different colours (COLOURS), and a box in the corner of +X and +Y."""
    x, y, z = HALF
    walls = {
        "+X": [(x, y, -z), (x, -y, -z), (x, -y, z), (x, y, z)],
        "-X": [(-x, -y, -z), (-x, y, -z), (-x, y, z), (-x, -y, z)],
        "+Y": [(-x, y, -z), (x, y, -z), (x, y, z), (-x, y, z)],
        "-Y": [(x, -y, -z), (-x, -y, -z), (-x, -y, z), (x, -y, z)],
        "+Z": [(-x, -y, z), (x, -y, z), (x, y, z), (-x, y, z)],
        "-Z": [(x, -y, -z), (-x, -y, -z), (-x, y, -z), (x, y, -z)],
    }
    for name, corners in walls.items():
        _mesh(name, corners, [(0, 1, 2, 3)], surface(name, COLOURS[name], 0.8, 0.0))
    lo, hi = Vector((1.6, 0.8, -z)), Vector((2.8, 2.0, -0.4))
    corners = [(p.x, q.y, r.z) for p in (lo, hi) for q in (lo, hi) for r in (lo, hi)]
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    _mesh("box", corners, faces, surface("box", (0.7, 0.7, 0.7), 0.2, 1.0))


def settings(scene: bpy.types.Scene, width: int, height: int, samples: int, *, sharp: bool = False) -> None:
    """Set up Cycles at that size; `sharp` casts every ray through the pixel's centre."""
    scene.render.engine = "CYCLES"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = False
    scene.cycles.use_adaptive_sampling = False
    if sharp:
        scene.cycles.pixel_filter_type = "BLACKMAN_HARRIS"
        scene.cycles.filter_width = 0.01
    scene.render.resolution_x, scene.render.resolution_y = width, height
    scene.render.resolution_percentage = 100


def camera(scene: bpy.types.Scene, pose: Matrix, *, panorama: bool, fov: float = math.radians(80)) -> None:
    """Add a camera; a panoramic one is rotated so that `pose`'s +X is in its centre."""
    data = bpy.data.cameras.new("camera")
    obj = bpy.data.objects.new("camera", data)
    data.clip_start, data.clip_end = 0.001, 1e6
    if panorama:
        data.type, data.panorama_type = "PANO", "EQUIRECTANGULAR"
    else:
        data.angle = fov
    turn = Matrix.Rotation(math.pi / 2, 4, "X")
    turn = Matrix.Rotation(-math.pi / 2, 4, "Z") @ turn
    obj.matrix_world = pose @ turn
    scene.collection.objects.link(obj)
    scene.camera = obj


def small_importance_map(scene: bpy.types.Scene) -> None:
    """Sample the world's light by a map 1024 px wide: by default Cycles evaluates 8 million pixels of any picture, for
    2 s of CPU time in each render."""
    if scene.world is not None:
        scene.world.cycles.sampling_method, scene.world.cycles.sample_map_resolution = "MANUAL", 1024


def render(scene: bpy.types.Scene, path: Path) -> dict[str, np.ndarray]:
    """Render to a multilayer EXR; return channel name → (H, W) float32."""
    small_importance_map(scene)
    image = scene.render.image_settings
    if bpy.app.version >= (5, 0):
        image.media_type = "MULTI_LAYER_IMAGE"
    image.file_format = "OPEN_EXR_MULTILAYER"
    image.color_depth = "32"
    scene.render.filepath = str(path)
    scene.render.use_file_extension = False
    bpy.ops.render.render(write_still=True)
    file = oiio.ImageInput.open(str(path))
    channels, part = {}, 0
    while file.seek_subimage(part, 0):  # Blender 5 writes a part for each pass
        values = file.read_image(part, 0, 0, file.spec().nchannels, oiio.FLOAT)
        channels |= {name: values[..., i] for i, name in enumerate(file.spec().channelnames)}
        part += 1
    file.close()
    return channels


def combined(channels: dict[str, np.ndarray]) -> np.ndarray:
    """Return the combined pass, (H, W, 3) linear."""
    return np.stack([channels[f"ViewLayer.Combined.{c}"] for c in "RGB"], axis=-1)


def ground_truth(scene: bpy.types.Scene, width: int, path: Path, pose: Matrix | None = None) -> dict[str, np.ndarray]:
    """Render the maps of `scene` from `pose` (default: the origin), as in maps.MAPS; albedo linear."""
    settings(scene, width, width // 2, 1, sharp=True)
    camera(scene, Matrix.Identity(4) if pose is None else pose, panorama=True)
    layer = scene.view_layers[0]
    layer.name = "ViewLayer"
    layer.use_pass_z = layer.use_pass_normal = True
    for name, kind in (("albedo", "COLOR"), ("roughness", "VALUE"), ("metallic", "VALUE")):
        aov = layer.aovs.add()
        aov.name, aov.type = name, kind
    channels = render(scene, path)
    maps = {}
    for name, wanted in PASSES.items():
        found = [channels[channel] for channel in wanted if channel in channels]
        maps[name] = np.stack(found, axis=-1)
        assert maps[name].shape[-1] == MAPS[name].channels, (name, sorted(channels))
    return maps


def write(path: Path, array: np.ndarray, kind: str = "float") -> None:
    """Write (H, W, C) as an image file with OpenImageIO (not Blender)."""
    out = oiio.ImageOutput.create(str(path))
    spec = oiio.ImageSpec(array.shape[1], array.shape[0], array.shape[2], kind)
    if array.shape[2] == 1:
        spec.channelnames = ("Y",)
    assert out.open(str(path), spec), out.geterror()
    assert out.write_image(np.ascontiguousarray(array, dtype=np.float32)), out.geterror()
    out.close()


def write_folder(folder: Path, maps: dict[str, np.ndarray]) -> None:
    """Write ground truth (linear albedo) as a folder like `panoform perceive` does."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in maps.items():
        if name == "albedo":
            array = np.where(array <= 0.0031308, 12.92 * array, 1.055 * np.maximum(array, 0) ** (1 / 2.4) - 0.055)
        write(folder / MAPS[name].filename, array, "float" if MAPS[name].filename.endswith("exr") else "uint16")


def images_of(maps: dict[str, np.ndarray]) -> dict[str, bpy.types.Image]:
    """Create the image datablocks of maps (maps.MAPS) as from the backend's reply."""
    return {
        name: images.create_from_file(name, np.frombuffer(data, np.uint8), MAPS[name].colorspace)
        for name, data in results.encode_maps(maps).items()
    }


def show(path: Path, linear: np.ndarray) -> None:
    """Write a PNG for inspection."""
    write(path, np.clip(linear, 0, 1) ** (1 / 2.2), "uint8")


def box_distance(rays: np.ndarray) -> np.ndarray:
    """Return the distance from the centre of a box of half size HALF along unit `rays` (…, 3), (…, 1)."""
    return (np.array(HALF) / np.maximum(np.abs(rays), 1e-9)).min(axis=-1, keepdims=True)


def set_input(body: bpy.types.Object, name: str, value: float) -> None:
    """Set an input of the modifier, as in its panel."""
    owner, path = dome.controls(body.modifiers[dome.MODIFIER_NAME])[name]
    if path == "value":
        owner.value = value
    else:
        owner[path[2:-2]] = value
    body.update_tag()
