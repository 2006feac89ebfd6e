"""Make the documentation's picture of texturing by the engine projection, with the bpy module:

    .venv/bin/python docs/picture_texture.py docs/texture.png

A painted Suzanne is rendered from the front: the reference picture. A bare one gets its texture from that alone, and is
rendered from the front, from aside and from behind. It takes a minute.
"""

import sys
import tempfile
from pathlib import Path

import bpy
import numpy as np
import OpenImageIO as oiio
from mathutils import Euler

from panoform.backend.io.encoding import encode_image
from panoform.backend.texturing import completion, frame, projection
from panoform.blender_addon.capture import render
from panoform.blender_addon.capture.picture import CutOut
from panoform.blender_addon.scene import images
from panoform.blender_addon.texture import mesh
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.texture import TextureRequest, TextureSettings

OUT = Path(sys.argv[1])
#: Side of a picture in pixels, and turns of the object in degrees.
SIDE, TURNS = 320, (0, 50, 180)
FUR, FACE, EYE, PUPIL = (0.25, 0.09, 0.03), (0.75, 0.45, 0.25), (0.9, 0.9, 0.85), (0.01, 0.02, 0.05)
#: Faces of one eye, and of the pupil: its vertices nearest to the front.
EYE_FACES, PUPIL_RADIUS = 32, 0.07


def suzanne() -> bpy.types.Object:
    bpy.ops.mesh.primitive_monkey_add()
    thing = bpy.context.object
    bpy.ops.object.shade_smooth()
    thing.modifiers.new("smooth", "SUBSURF").levels = 3
    thing.modifiers["smooth"].render_levels = 3
    bpy.ops.object.modifier_apply(modifier="smooth")
    return thing


def parts(data: bpy.types.Mesh) -> np.ndarray:
    """Return the number of the connected part of each vertex."""
    edges = np.array([edge.vertices[:] for edge in data.edges])
    label = np.arange(len(data.vertices))
    while True:
        low = label.copy()
        np.minimum.at(low, edges[:, 0], label[edges[:, 1]])
        np.minimum.at(low, edges[:, 1], label[edges[:, 0]])
        low = low[low]
        if np.array_equal(low, label):
            return label
        label = low


def paint(thing: bpy.types.Object) -> None:
    data = thing.data
    points = np.array([vertex.co[:] for vertex in data.vertices])
    colour = np.broadcast_to(FUR, points.shape).copy()
    x, y, z = points.T
    face = (y < -0.3) & ((x / 0.62) ** 2 + ((z - 0.1) / 0.45) ** 2 < 1)
    muzzle = (y < -0.3) & ((x / 0.4) ** 2 + ((z + 0.55) / 0.42) ** 2 < 1)
    colour[face | muzzle] = FACE
    label = parts(data)
    for part in np.unique(label):
        own = label == part
        if own.sum() < len(points) / 4:  # an eye
            colour[own] = EYE
            front = points[own][points[own][:, 1].argmin()]
            colour[own & (np.linalg.norm(points - front, axis=1) < PUPIL_RADIUS)] = PUPIL
    layer = data.color_attributes.new("colour", "FLOAT_COLOR", "POINT")
    layer.data.foreach_set("color", np.c_[colour, np.ones(len(colour))].astype(np.float32).ravel())
    show(thing, "ShaderNodeVertexColor", layer_name="colour")


def show(thing: bpy.types.Object, kind: str, **options) -> None:
    """Give an object a material whose base colour is a node's."""
    material = bpy.data.materials.new(kind)
    material.use_nodes = True
    node = material.node_tree.nodes.new(kind)
    for name, value in options.items():
        setattr(node, name, value)
    surface = material.node_tree.nodes["Principled BSDF"]
    surface.inputs["Roughness"].default_value = 0.8
    material.node_tree.links.new(node.outputs["Color"], surface.inputs["Base Color"])
    thing.data.materials.clear()
    thing.data.materials.append(material)


def light_and_camera() -> None:
    scene = bpy.context.scene
    scene.world = bpy.data.worlds.new("grey")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.7, 0.7, 0.7, 1)
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy, sun.rotation_euler = 1.5, Euler((0.9, 0.2, 0.4))
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.data.type, camera.data.ortho_scale = "ORTHO", 3
    camera.location, camera.rotation_euler = (0, -6, 0), (np.pi / 2, 0, 0)
    for thing in (sun, camera):
        scene.collection.objects.link(thing)
    scene.camera = camera
    scene.render.resolution_x = scene.render.resolution_y = SIDE


def picture(thing: bpy.types.Object, turn: float) -> CutOut:
    thing.rotation_euler.z = np.radians(turn)
    bpy.context.view_layer.update()
    return render.ObjectRender(bpy.context.scene, [thing], samples=16).run()


def textured(thing: bpy.types.Object, reference: CutOut) -> None:
    """Texture it as the engine without a model does."""
    read = mesh.read([thing])
    engine, settings = EngineSettings(engine="projection"), TextureSettings(texture_size=1024)
    request = TextureRequest(**read.triangles._asdict(), reference=reference.pixels, engine=engine, settings=settings)
    chosen, others = frame.prepare(request)
    made = projection.project(chosen, others, reference.pixels, 512, 1024, lambda: None, completion.bundled)
    for uv in read.new_uv:
        mesh.add_uv(thing, read.uv_name, uv)
    thing.data.uv_layers[read.uv_name].active_render = True
    file = np.frombuffer(encode_image("texture.png", made.texture, "sRGB", bits=8), np.uint8)
    show(thing, "ShaderNodeTexImage", image=images.create_from_file("texture", file, "sRGB"))


def on_white(shown: CutOut) -> np.ndarray:
    image = oiio.ImageBuf(shown.pixels)
    small = oiio.ImageBufAlgo.resize(image, roi=oiio.ROI(0, SIDE, 0, SIDE)).get_pixels(oiio.FLOAT)
    return small[..., :3] * small[..., 3:] + 1 - small[..., 3:]


def main() -> None:
    bpy.ops.wm.read_homefile(use_empty=True)
    render.VIEW_SIDE_PX = 2 * SIDE
    light_and_camera()
    painted = suzanne()
    paint(painted)
    reference = picture(painted, 0)
    bpy.data.objects.remove(painted)
    bare = suzanne()
    textured(bare, reference)
    row = [on_white(reference), *(on_white(picture(bare, turn)) for turn in TURNS)]
    row[0] = np.pad(row[0][:, :-2], ((0, 0), (0, 2), (0, 0)))  # a line between what is given and what is made
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / OUT.name
        file.write_bytes(encode_image(OUT.name, np.concatenate(row, axis=1).astype(np.float32), "sRGB", bits=8))
        OUT.write_bytes(file.read_bytes())


main()
