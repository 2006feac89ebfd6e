"""Texturing at a tiny size, and what Cycles shows of the result."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio
from mathutils import Vector

from panoform.backend.texturing import cameras

TINY = {"size": 128, "view_size": 64, "num_inference_steps": 2}


def texture(**options) -> bpy.types.Material:
    """Texture the selection and return the new material."""
    before = set(bpy.data.materials)
    assert bpy.ops.panoform.texture(**TINY | options) == {"FINISHED"}
    (new,) = set(bpy.data.materials) - before
    return new


def rendered(material: bpy.types.Material, asked, side: int, folder: Path) -> np.ndarray:
    """Return the textured objects as Cycles shows them to the front camera, unlit: (H, H, 4) sRGB with alpha."""
    tree = material.node_tree
    emission = tree.nodes.new("ShaderNodeEmission")
    output = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeOutputMaterial")
    colour = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeTexImage").outputs["Color"]
    tree.links.new(colour, emission.inputs["Color"])
    tree.links.new(emission.outputs[0], output.inputs["Surface"])
    centre, length = cameras.fit(asked.corners)
    scene = bpy.context.scene
    camera = bpy.data.objects.new("front", bpy.data.cameras.new("front"))
    scene.collection.objects.link(camera)
    scene.camera, camera.data.type = camera, "ORTHO"
    camera.data.ortho_scale = cameras.ORTHO_SCALE * length
    camera.location = Vector(centre) + Vector((0, -3 * length, 0))
    camera.rotation_euler = (np.pi / 2, 0, 0)
    camera.data.clip_end = 10 * length
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 16, False
    scene.render.resolution_x = scene.render.resolution_y = side
    scene.render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    scene.render.filepath = str(folder / "front.png")
    bpy.ops.render.render(write_still=True)
    image = oiio.ImageBuf(scene.render.filepath)
    return np.asarray(image.get_pixels(oiio.FLOAT))
