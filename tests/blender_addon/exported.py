"""Exported files, loaded back into an empty Blender and rendered by Cycles."""

from __future__ import annotations

from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import room_folder
from mathutils import Matrix

#: Name of the pass.
DIFFUSE_COLOUR = "DiffCol" if bpy.app.version < (5, 0) else "Diffuse Color"
HEIGHT = 32


def load(path: Path) -> None:
    """Load a file into an empty Blender."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.context.scene.world = bpy.data.worlds.new("world")  # the importer of USD needs one to fill
    match path.suffix:
        case ".glb" | ".gltf":
            bpy.ops.import_scene.gltf(filepath=str(path))
        case ".usdc" | ".usdz":
            bpy.ops.wm.usd_import(filepath=str(path))
        case ".obj":
            bpy.ops.wm.obj_import(filepath=str(path))
            for image in bpy.data.images:  # the importer takes all images for colours
                if any(kind in image.name for kind in ("normal", "roughness", "metallic")):
                    image.colorspace_settings.name = "Non-Color"
        case ".fbx":
            bpy.ops.import_scene.fbx(filepath=str(path))


def seen(path: Path) -> dict[str, np.ndarray]:
    """Render diffuse colour, and light of a lamp in the room, from beside its centre."""
    scene = bpy.context.scene
    for found in bpy.data.materials:
        for node in found.node_tree.nodes if found.node_tree else ():
            if node.bl_idname == "ShaderNodeBsdfPrincipled":
                node.inputs["Specular IOR Level"].default_value = 0
                node.inputs["Emission Strength"].default_value = 0
    for thing in scene.objects:
        thing.hide_render = thing.name.startswith("Sky")
    lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "POINT"))
    lamp.data.energy, lamp.data.shadow_soft_size, lamp.location = 100, 0, (0, 0, room_folder.CAMERA_M)
    scene.collection.objects.link(lamp)
    scene.world = None
    cycles.settings(scene, 2 * HEIGHT, HEIGHT, 8, sharp=True)
    scene.cycles.max_bounces = 0
    cycles.camera(scene, Matrix.Translation((0.2, 0.1, room_folder.CAMERA_M)), panorama=True)
    layer = scene.view_layers[0]
    layer.name, layer.use_pass_diffuse_color = "ViewLayer", True
    channels = cycles.render(scene, path)
    return {
        name: np.stack([channels[f"ViewLayer.{name}.{channel}"] for channel in "RGB"], axis=-1)
        for name in (DIFFUSE_COLOUR, "Combined")
    }


def decibels(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the PSNR of a render, at most 120."""
    found, expected = found.clip(0, 1), expected.clip(0, 1)
    assert 0.05 < expected.mean() < 0.95
    return float(-10 * np.log10(max(((found - expected) ** 2).mean(), 1e-12)))
