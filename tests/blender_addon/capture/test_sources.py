"""Panoramas from Blender, compared with images and scenes of known values."""

import math
from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import pytest
from captured import from_world
from mathutils import Matrix

from panoform.blender_addon.capture import pixels, render, sources
from panoform.blender_addon.generate import world_preview
from panoform.blender_addon.scene.build import build
from panoform.shared.imaging import sphere
from panoform.shared.protocol.errors import PanoramaError, SceneError

INTERIOR = Path(bpy.utils.system_resource("DATAFILES", path="studiolights/world")) / "interior.exr"


def gradient(height: int = 16) -> np.ndarray:
    """Return an image with a different colour in every direction, in (0, 1)."""
    return (0.5 + 0.45 * sphere.directions(height, 2 * height)).astype(np.float32)


def hdri_world(scene: bpy.types.Scene, image: bpy.types.Image) -> bpy.types.NodeTree:
    world = bpy.data.worlds.new("HDRI")
    cycles.use_nodes(world)
    tree = world.node_tree
    assert tree is not None
    environment = tree.nodes.new("ShaderNodeTexEnvironment")
    environment.image = image
    tree.links.new(environment.outputs["Color"], tree.nodes["Background"].inputs["Color"])
    scene.world = world
    return tree


def mapping(tree: bpy.types.NodeTree) -> bpy.types.Node:
    node = tree.nodes.new("ShaderNodeMapping")
    coordinates = tree.nodes.new("ShaderNodeTexCoord")
    environment = next(found for found in tree.nodes if found.bl_idname == "ShaderNodeTexEnvironment")
    tree.links.new(coordinates.outputs["Generated"], node.inputs["Vector"])
    tree.links.new(node.outputs["Vector"], environment.inputs["Vector"])
    return node


def test_preview_of_a_job_is_no_source(scene: bpy.types.Scene) -> None:
    world_preview.show(scene, np.zeros((8, 16, 3), np.uint8), Matrix.Identity(4))
    try:
        for read in (from_world, sources.world_image):
            with pytest.raises(SceneError, match="is a preview now"):
                read(scene)
    finally:
        world_preview.remove()


@pytest.mark.parametrize(
    ("suffix", "kind", "encoding", "tolerance"),
    [
        ("exr", "float", "linear", 0),
        ("hdr", "float", "linear", 0.01),
        ("png", "uint8", "srgb", 0.5 / 255 + 1e-6),
        ("png", "uint16", "srgb", 1.5 / 65535),
        ("jpg", "uint8", "srgb", 0.08),
        ("tif", "uint8", "srgb", 0.5 / 255 + 1e-6),
        ("tif", "uint16", "srgb", 1.5 / 65535),
        ("webp", "uint8", "srgb", 0.08),
    ],
)
def test_files_are_read_exactly(scene, tmp_path, suffix, kind, encoding, tolerance):
    path = tmp_path / f"Zimmer ü 1.{suffix}"
    cycles.write(path, gradient(), kind)
    before = len(bpy.data.images)
    found = sources.from_file(path)
    assert found.source == "Zimmer ü 1"
    assert found.panorama.encoding == encoding
    assert found.panorama.pixels.dtype == np.float32
    np.testing.assert_allclose(found.panorama.pixels, gradient(), atol=tolerance, rtol=0)
    assert len(bpy.data.images) == before


def test_missing_and_damaged_files_are_rejected(scene, tmp_path):
    with pytest.raises(PanoramaError, match="no file"):
        sources.from_file(tmp_path / "nothing.exr")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    with pytest.raises(PanoramaError, match="can't be read"):
        sources.from_file(tmp_path / "damaged.png")
    assert not bpy.data.images


def test_transparent_pixels_are_rejected(scene, tmp_path):
    rgba = np.concatenate([gradient(), np.full((16, 32, 1), 0.5, np.float32)], axis=-1)
    cycles.write(tmp_path / "alpha.png", rgba, "uint8")
    with pytest.raises(PanoramaError, match="transparent"):
        sources.from_file(tmp_path / "alpha.png")


def test_too_wide_image_is_rejected(scene):
    image = bpy.data.images.new("wide", 16386, 2)
    with pytest.raises(PanoramaError, match="16386 × 2; at most 16384 × 8192"):
        sources.from_image(image)


@pytest.mark.parametrize("source", [sources.from_image, None], ids=["image", "file"])
def test_image_that_is_no_panorama_is_rejected(scene, tmp_path, source):
    image = bpy.data.images.new("square", 64, 64)
    image.filepath_raw, image.file_format = str(tmp_path / "square.png"), "PNG"
    image.save()
    with pytest.raises(PanoramaError, match="64 × 64, not 2:1"):
        source(image) if source else sources.from_file(tmp_path / "square.png")


def test_image_datablock_is_read(scene):
    image = bpy.data.images.new("painted", 32, 16, float_buffer=True, is_data=True)
    rgba = np.ones((16, 32, 4), np.float32)
    rgba[..., :3] = gradient()[::-1]
    image.pixels.foreach_set(rgba.ravel())
    found = sources.from_image(image)
    np.testing.assert_array_equal(found.panorama.pixels, gradient())
    kept = found.world_picture()  # not on disk: from the pixels
    assert kept != image
    assert kept.packed_file
    np.testing.assert_array_equal(pixels.read(kept).pixels, gradient())


def test_hdri_of_the_world_is_read(scene):
    image = bpy.data.images.load(str(INTERIOR))
    hdri_world(scene, image)
    found = from_world(scene)
    assert found.source == "interior"
    assert found.panorama.encoding == "linear"
    assert found.panorama.pixels.shape == (512, 1024, 3)
    assert found.panorama.pixels.max() > 5
    assert found.world_picture().packed_file.data == INTERIOR.read_bytes()
    assert not image.packed_file
    np.testing.assert_array_equal(np.array(found.world_from_panorama), np.eye(4))
    bpy.data.images.remove(image)
    np.testing.assert_array_equal(pixels.read(found.world_picture()).pixels, found.panorama.pixels)


def test_default_pose_is_at_camera_height(scene, tmp_path):
    cycles.write(tmp_path / "sky.exr", gradient())
    image = bpy.data.images.load(str(tmp_path / "sky.exr"))
    mapping(hdri_world(scene, image)).inputs["Rotation"].default_value = (0, 0, -0.7)
    up, turn = Matrix.Translation((0, 0, 1.3)), Matrix.Rotation(0.7, 4, "Z")
    np.testing.assert_allclose(np.array(from_world(scene).pose(1.3)), np.array(up @ turn), atol=1e-6)
    for found in (sources.from_image(image), sources.from_file(tmp_path / "sky.exr")):
        np.testing.assert_allclose(np.array(found.pose(1.3)), np.array(up), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["POINT", "TEXTURE", "VECTOR"])
@pytest.mark.parametrize("rotation", [(0, 0, 0.7), (0.2, -0.3, 2.0)])
def test_rotated_world_is_rebuilt_exactly(scene, tmp_path, kind, rotation):
    """Renders at the origin before and after are equal: picture and rotation are preserved."""
    cycles.write(tmp_path / "sky.exr", gradient(32))
    node = mapping(hdri_world(scene, bpy.data.images.load(str(tmp_path / "sky.exr"))))
    node.vector_type = kind
    node.inputs["Rotation"].default_value = rotation
    cycles.settings(scene, 64, 32, 1, sharp=True)
    cycles.camera(scene, Matrix.Identity(4), panorama=True)
    scene.view_layers[0].name = "ViewLayer"
    before = cycles.combined(cycles.render(scene, tmp_path / "before.exr"))
    found = from_world(scene)
    build(scene, {}, found.world_picture(), found.source, world_from_panorama=found.world_from_panorama)
    assert scene.world.name == "Panoform sky"
    after = cycles.combined(cycles.render(scene, tmp_path / "after.exr"))
    np.testing.assert_allclose(after, before, atol=1e-3)
    assert np.abs(before - gradient(32)).max() > 0.1
    again = from_world(scene)  # a world made by Panoform is a source too
    np.testing.assert_allclose(np.array(again.world_from_panorama), np.array(found.world_from_panorama), atol=1e-6)


def test_world_without_an_hdri_is_rejected(scene):
    with pytest.raises(SceneError, match="no HDRI"):
        from_world(scene)
    tree = hdri_world(scene, None)
    with pytest.raises(SceneError, match="no HDRI") as error:
        from_world(scene)
    assert "World tab" in error.value.hint
    tree.links.remove(tree.nodes["Background"].inputs["Color"].links[0])
    with pytest.raises(SceneError, match="no HDRI"):
        from_world(scene)


def test_missing_hdri_file_is_rejected(scene, tmp_path):
    cycles.write(tmp_path / "sky.exr", gradient())
    image = bpy.data.images.load(str(tmp_path / "sky.exr"))
    hdri_world(scene, image)
    (tmp_path / "sky.exr").unlink()
    image.reload()
    with pytest.raises(PanoramaError, match=r"sky\.exr"):
        from_world(scene)


@pytest.mark.parametrize("node", ["Scale", "Location", "driven", "Normal", "MIRROR_BALL", "two"])
def test_world_with_other_nodes_has_no_image_to_edit(scene, node):
    image = bpy.data.images.new("sky", 8, 4)
    tree = hdri_world(scene, image)
    environment = next(node for node in tree.nodes if node.bl_idname == "ShaderNodeTexEnvironment")
    if node in {"Scale", "Location"}:
        mapping(tree).inputs[node].default_value = (1, 1, -1)
    elif node == "driven":
        value = tree.nodes.new("ShaderNodeCombineXYZ")
        tree.links.new(value.outputs[0], mapping(tree).inputs["Rotation"])
    elif node == "Normal":
        coordinates = tree.nodes.new("ShaderNodeTexCoord")
        tree.links.new(coordinates.outputs["Normal"], environment.inputs["Vector"])
    elif node == "MIRROR_BALL":
        environment.projection = node
    else:
        other = tree.nodes.new("ShaderNodeTexEnvironment")
        other.image = image
        tree.links.new(other.outputs["Color"], tree.nodes["Background"].inputs["Strength"])
    with pytest.raises(SceneError):
        sources.world_image(scene)


def state(scene: bpy.types.Scene) -> dict[str, object]:
    """Return the state that a render must not change."""
    kinds = ("scenes", "objects", "cameras", "images", "worlds", "collections", "materials", "meshes")
    return {
        "active": bpy.context.scene.name, "camera": scene.camera, "world": scene.world, "frame": scene.frame_current,
        "engine": scene.render.engine, "size": (scene.render.resolution_x, scene.render.resolution_y),
        "samples": scene.cycles.samples, "path": scene.render.filepath,
        "format": scene.render.image_settings.file_format,
        "layers": [(layer.name, layer.use) for layer in scene.view_layers],
        "objects": [thing.name for thing in scene.objects],
        "selected": [thing.name for thing in scene.objects if thing.select_get()],
        **{kind: [one.name for one in getattr(bpy.data, kind) if one.name != "Render Result"] for kind in kinds},
    }  # fmt: skip


def emissive_room(scene: bpy.types.Scene) -> None:
    """Build the room with emissive walls."""
    cycles.room()
    for material in bpy.data.materials:
        principled = next(n for n in material.node_tree.nodes if n.bl_idname == "ShaderNodeBsdfPrincipled")
        colour = tuple(principled.inputs["Base Color"].default_value)
        principled.inputs["Base Color"].default_value = (0, 0, 0, 1)
        principled.inputs["Specular IOR Level"].default_value = 0
        principled.inputs["Metallic"].default_value = 0
        principled.inputs["Emission Color"].default_value = colour
        principled.inputs["Emission Strength"].default_value = 1


def wall(colour: np.ndarray) -> str:
    return min(cycles.COLOURS, key=lambda name: np.abs(np.array(cycles.COLOURS[name]) - colour).max())


def test_render_from_the_cursor_matches_the_room(scene):
    emissive_room(scene)
    scene.view_layers.new("unused").use = False
    scene.cursor.location = (-0.5, 0.2, 0.1)
    scene.render.film_transparent = True
    before = state(scene)
    found = render.PanoramaRender(scene, sources.cursor_pose(scene), width=64, samples=4).run()
    assert state(scene) == before
    assert found.panorama.encoding == "linear"
    picture = found.panorama.pixels
    assert picture.shape == (32, 64, 3)
    at = {"+X": (15, 35), "+Y": (16, 16), "-Y": (16, 48), "-X": (16, 1), "+Z": (1, 20), "-Z": (30, 50)}
    for name, pixel in at.items():
        assert wall(picture[pixel]) == name
        np.testing.assert_allclose(picture[pixel], cycles.COLOURS[name], atol=0.05)  # a little is reflected
    np.testing.assert_allclose(np.array(found.world_from_panorama.translation), (-0.5, 0.2, 0.1), atol=1e-6)
    assert found.pose(1.3) == found.world_from_panorama, "a render has the position of its camera"


@pytest.mark.slow
def test_render_from_the_camera_keeps_its_yaw_and_position(scene):
    emissive_room(scene)
    with pytest.raises(SceneError, match="no camera"):
        sources.camera_pose(scene)
    pose = Matrix.Translation((0.3, -0.4, 0.2)) @ Matrix.Rotation(math.pi / 2, 4, "Z") @ Matrix.Rotation(0.3, 4, "Y")
    cycles.camera(scene, pose, panorama=False)
    found = render.PanoramaRender(scene, sources.camera_pose(scene), width=64, samples=4).run()
    assert wall(found.panorama.pixels[16, 32]) == "+Y"
    assert wall(found.panorama.pixels[16, 16]) == "-X"
    level = Matrix.Translation((0.3, -0.4, 0.2)) @ Matrix.Rotation(math.pi / 2, 4, "Z")
    np.testing.assert_allclose(np.array(found.world_from_panorama), np.array(level), atol=1e-6)


@pytest.mark.slow
def test_render_of_the_world_equals_its_hdri(scene, tmp_path):
    cycles.write(tmp_path / "sky.exr", gradient(32))
    hdri_world(scene, bpy.data.images.load(str(tmp_path / "sky.exr")))
    found = render.PanoramaRender(scene, sources.cursor_pose(scene), width=64, samples=16).run()
    # Blender's environment texture blends zenith and nadir in the outermost rows.
    np.testing.assert_allclose(found.panorama.pixels[1:-1], gradient(32)[1:-1], atol=0.06)


def test_hidden_collections_stay_hidden(scene):
    emissive_room(scene)
    hidden = bpy.data.collections.new("hidden")
    scene.collection.children.link(hidden)
    blocker = bpy.data.objects["box"].copy()
    blocker.scale = (9, 9, 9)
    hidden.objects.link(blocker)
    bpy.context.view_layer.layer_collection.children["hidden"].exclude = True
    found = render.PanoramaRender(scene, sources.cursor_pose(scene), width=32, samples=1).run()
    assert wall(found.panorama.pixels[8, 1]) == "-X"


def test_failed_render_removes_its_copy(scene):
    before = state(scene)
    with pytest.raises(PanoramaError):
        render.PanoramaRender(scene, Matrix.Identity(4), width=20000, samples=1)
    assert state(scene) == before


def test_hdri_with_a_deleted_file_is_kept_as_pixels(scene, tmp_path):
    path = tmp_path / "sky.exr"
    cycles.write(path, gradient())
    image = bpy.data.images.load(str(path))
    hdri_world(scene, image)
    captured = from_world(scene)
    assert captured.world_picture().packed_file.data == path.read_bytes()
    path.unlink()
    collection = build(scene, {}, captured.world_picture(), "sky")
    assert collection.name in scene.collection.children
    (kept,) = [found for found in bpy.data.images if found.name == "sky panorama"]
    assert kept.packed_file
    np.testing.assert_allclose(pixels.read(kept).pixels, gradient(), atol=1e-6)
