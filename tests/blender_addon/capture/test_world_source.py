"""The world as a source: whatever its nodes, a render of it equals one of the world built from what was captured.

Truth is Cycles: both worlds are rendered alone, 64 × 32.
"""

from __future__ import annotations

import math

import bpy
import cycles_truth as cycles
import numpy as np
import OpenImageIO as oiio
import picture_cases
import pytest
from captured import from_world

from panoform.blender_addon.capture import pixels, render, sources
from panoform.blender_addon.scene import images
from panoform.blender_addon.scene import world as worlds
from panoform.shared.imaging import sphere
from panoform.shared.imaging.shrink import block_means
from panoform.shared.protocol.errors import PanoramaError, SceneError


class Nodes:
    """A world with Texture Coordinate → Mapping (turned) → Environment Texture → Background → output."""

    def __init__(self, scene: bpy.types.Scene) -> None:
        world = bpy.data.worlds.new("HDRI")
        cycles.use_nodes(world)
        scene.world = world
        self.tree = world.node_tree
        self.tree.nodes.clear()
        self.texture = self.add("TexEnvironment")
        self.texture.image = picture("sky")
        self.background, self.output = self.add("Background"), self.add("OutputWorld")
        self.mapping, self.coordinates = self.add("Mapping"), self.add("TexCoord")
        self.mapping.inputs["Rotation"].default_value = (0, 0, 0.7)
        self.link(self.coordinates.outputs["Generated"], self.mapping.inputs["Vector"])
        self.link(self.mapping.outputs["Vector"], self.texture.inputs["Vector"])
        self.link(self.texture.outputs["Color"], self.background.inputs["Color"])
        self.link(self.background.outputs["Background"], self.output.inputs["Surface"])

    def add(self, kind: str) -> bpy.types.Node:
        return self.tree.nodes.new(kind if kind.startswith("Node") else f"ShaderNode{kind}")

    def link(self, source, target) -> None:
        self.tree.links.new(source, target)

    def reroute(self, target: bpy.types.NodeSocket) -> None:
        """Put a Reroute before a socket."""
        node, source = self.add("NodeReroute"), target.links[0].from_socket
        self.link(source, node.inputs[0])
        self.link(node.outputs[0], target)

    def by_light_path(self, image: bpy.types.Image) -> None:
        """Show the world to the camera, and light the scene with another texture node."""
        texture, background, mix = self.add("TexEnvironment"), self.add("Background"), self.add("MixShader")
        texture.image = image
        self.link(texture.outputs["Color"], background.inputs["Color"])
        self.link(self.add("LightPath").outputs["Is Camera Ray"], mix.inputs[0])
        self.link(background.outputs[0], mix.inputs[1])
        self.link(self.background.outputs[0], mix.inputs[2])
        self.link(mix.outputs[0], self.output.inputs["Surface"])


def picture(name: str, shift: float = 0.0) -> bpy.types.Image:
    values = 0.5 + 0.45 * sphere.directions(32, 64)
    return images.create_float(name, (values + shift).astype(np.float32), "Linear Rec.709")


def in_group(nodes: Nodes) -> None:
    group = bpy.data.node_groups.new("HDRI", "ShaderNodeTree")
    group.interface.new_socket("Color", in_out="OUTPUT", socket_type="NodeSocketColor")
    texture, output = group.nodes.new("ShaderNodeTexEnvironment"), group.nodes.new("NodeGroupOutput")
    texture.image = nodes.texture.image
    group.links.new(texture.outputs["Color"], output.inputs[0])
    nodes.tree.nodes.remove(nodes.texture)
    node = nodes.add("Group")
    node.node_tree = group
    nodes.link(node.outputs[0], nodes.background.inputs["Color"])


def reroutes(nodes: Nodes) -> None:
    for socket in (nodes.texture.inputs["Vector"], nodes.background.inputs["Color"], nodes.output.inputs["Surface"]):
        nodes.reroute(socket)


def muted_mapping(nodes: Nodes) -> None:
    nodes.mapping.mute = True


def muted_link(nodes: Nodes) -> None:
    nodes.texture.inputs["Vector"].links[0].is_muted = True


def mapping_without_coordinates(nodes: Nodes) -> None:
    nodes.tree.links.remove(nodes.mapping.inputs["Vector"].links[0])


def own_texture_mapping(nodes: Nodes) -> None:
    nodes.texture.texture_mapping.rotation = (0, 0, 1)


def same_image_by_light_path(nodes: Nodes) -> None:
    nodes.by_light_path(nodes.texture.image)


def other_image_by_light_path(nodes: Nodes) -> None:
    nodes.by_light_path(picture("other", 2.0))


def strength(nodes: Nodes) -> None:
    nodes.background.inputs["Strength"].default_value = 2.5


def saturation(nodes: Nodes) -> None:
    node = nodes.add("HueSaturation")
    node.inputs["Saturation"].default_value = 0.2
    nodes.link(nodes.texture.outputs["Color"], node.inputs["Color"])
    nodes.link(node.outputs["Color"], nodes.background.inputs["Color"])


def mirror_ball(nodes: Nodes) -> None:
    nodes.texture.projection = "MIRROR_BALL"


def mirrored(nodes: Nodes) -> None:
    nodes.mapping.inputs["Scale"].default_value = (1, 1, -1)


def driven(nodes: Nodes) -> None:
    node = nodes.add("CombineXYZ")
    node.inputs["Z"].default_value = 1.2
    nodes.link(node.outputs[0], nodes.mapping.inputs["Rotation"])


def gradient(nodes: Nodes) -> None:
    node = nodes.add("TexGradient")
    nodes.link(nodes.coordinates.outputs["Generated"], node.inputs["Vector"])
    nodes.link(node.outputs["Color"], nodes.background.inputs["Color"])


def without_texture(nodes: Nodes) -> None:
    split = nodes.add("SeparateXYZ")
    nodes.link(nodes.coordinates.outputs["Generated"], split.inputs[0])
    raised = nodes.add("Math")
    raised.operation = "MULTIPLY_ADD"
    raised.inputs[1].default_value = raised.inputs[2].default_value = 0.5
    nodes.link(split.outputs["X"], raised.inputs[0])
    nodes.link(raised.outputs[0], nodes.background.inputs["Color"])


def sky(nodes: Nodes) -> None:
    node = nodes.add("TexSky")
    node.sky_type = "PREETHAM" if bpy.app.version >= (5, 0) else "HOSEK_WILKIE"  # without a sun's disc
    nodes.link(node.outputs["Color"], nodes.background.inputs["Color"])
    nodes.background.inputs["Strength"].default_value = 0.3


def output_of_cycles(nodes: Nodes) -> None:
    output, background = nodes.add("OutputWorld"), nodes.add("Background")
    background.inputs["Color"].default_value = (1, 0, 0, 1)
    nodes.link(background.outputs[0], output.inputs["Surface"])
    output.target, nodes.output.target = "CYCLES", "EEVEE"
    bpy.context.scene.render.engine = "CYCLES"


def colour_space(nodes: Nodes) -> None:
    nodes.texture.image.colorspace_settings.name = "Linear Rec.2020"


PLAIN = (reroutes, muted_mapping, muted_link, colour_space)
RENDERED = (in_group, same_image_by_light_path)
OTHERS = (
    own_texture_mapping,
    mirror_ball,
    mapping_without_coordinates,
    other_image_by_light_path,
    saturation,
    mirrored,
    driven,
    gradient,
    without_texture,
    sky,
    output_of_cycles,
)


def shown(scene: bpy.types.Scene, path) -> np.ndarray:
    """Render the world alone, (32, 64, 3), as values of the working space."""
    alone = bpy.data.scenes.new("world alone")
    alone.world, alone.render.engine = scene.world, "CYCLES"
    alone.world.cycles.sampling_method = "NONE"  # nothing is lit
    alone.cycles.samples, alone.cycles.use_denoising = 64, False
    data = bpy.data.cameras.new("world alone")
    data.type, data.panorama_type = "PANO", "EQUIRECTANGULAR"
    alone.camera = bpy.data.objects.new("world alone", data)
    alone.camera.rotation_euler = (math.pi / 2, 0, -math.pi / 2)
    alone.collection.objects.link(alone.camera)
    settings = alone.render
    settings.resolution_x, settings.resolution_y, settings.resolution_percentage = 64, 32, 100
    if bpy.app.version >= (5, 0):
        settings.image_settings.media_type = "IMAGE"
    settings.image_settings.file_format, settings.image_settings.color_depth = "OPEN_EXR", "32"
    settings.filepath = str(path)
    bpy.ops.render.render(scene=alone.name, write_still=True)
    image = bpy.data.images.load(str(path))
    image.colorspace_settings.is_data = True
    values = pixels.raw(image)[..., :3].copy()
    bpy.data.images.remove(image)
    bpy.data.scenes.remove(alone)
    return values


@pytest.mark.parametrize(
    "change",
    [*PLAIN, strength, *RENDERED, *(pytest.param(change, marks=pytest.mark.slow) for change in OTHERS)],
    ids=lambda change: change.__name__,
)
def test_built_world_shows_what_the_world_showed(scene, tmp_path, change, monkeypatch):
    if change is not mirror_ball:  # whose outermost pixels are narrow
        monkeypatch.setattr(render, "_WORLD_WIDTHS", (512, 1024))
    change(Nodes(scene))
    before = shown(scene, tmp_path / "before.exr")
    scenes, own = len(bpy.data.scenes), len(bpy.data.worlds)
    found = from_world(scene)
    assert (len(bpy.data.scenes), len(bpy.data.worlds)) == (scenes, own)
    assert bool(found.notes) == (change not in (*PLAIN, strength)), "rendered only where it must be"
    assert found.is_plain == (change in PLAIN)
    scene.world = worlds.create("built", found.world_picture(), found.world_from_panorama)
    np.testing.assert_allclose(shown(scene, tmp_path / "after.exr"), before, atol=0.01)
    assert np.ptp(before) > 0.1 or change is mapping_without_coordinates


@pytest.mark.parametrize("colorspace", ["Non-Color", "Linear Rec.2020", "AgX Base sRGB", "Display P3", "Rec.1886"])
def test_image_of_any_colour_space_is_read_as_it_is_displayed(scene, tmp_path, colorspace):
    """Of 8-bit files, whose values Blender keeps as they are stored."""
    nodes = Nodes(scene)
    image = bpy.data.images.new("bytes", 64, 32)
    values = np.ones((32, 64, 4), np.float32)
    values[..., :3] = picture_values()
    image.pixels.foreach_set(values[::-1].ravel())
    image.pack()
    nodes.texture.image = image
    image.colorspace_settings.name = colorspace
    nodes.mapping.mute = True
    before = shown(scene, tmp_path / "before.exr")
    found, read = from_world(scene), sources.from_image(image)
    np.testing.assert_array_equal(found.panorama.pixels, read.panorama.pixels)
    assert found.panorama.encoding == "linear"
    np.testing.assert_allclose(
        read.panorama.pixels[2:-2], before[2:-2], atol=0.06 if "AgX" in colorspace else 0.02, rtol=0.04
    )  # AgX is steep


def picture_values() -> np.ndarray:
    return (0.5 + 0.4 * sphere.directions(32, 64)).astype(np.float32)


def test_world_is_rendered_where_blender_shows_more_than_the_pixels(scene, tmp_path):
    nodes = Nodes(scene)
    assert sources.from_plain_world(scene) is not None
    nodes.texture.interpolation = "Closest"
    assert sources.from_plain_world(scene) is None
    nodes.texture.interpolation = "Linear"
    nodes.texture.image = bpy.data.images.new("square", 32, 32, float_buffer=True)
    assert sources.from_plain_world(scene) is None
    layered = [("", [f"View Layer.{n}.{c}" for n in ("Combined", "Normal") for c in "RGB"], np.full((16, 32, 6), 0.5))]
    nodes.texture.image = bpy.data.images.load(str(picture_cases.write_exr(tmp_path / "a.exr", layered)))
    assert sources.from_plain_world(scene) is None


def suns(width: int) -> tuple[bpy.types.Image, np.ndarray]:
    """Return a dark HDRI with suns of one pixel, and its pixels, (H, W, 3)."""
    values = np.full((width // 2, width, 3), 0.1, np.float32)
    rows, columns = width // 8 + np.arange(12) * width // 48, (np.arange(12) * (width // 12 + 7)) % width
    values[rows, columns] = 5e4
    return images.create_float("suns", values, "Linear Rec.709"), values


def flux(values: np.ndarray) -> float:
    """Return the integral of a panorama's light over all directions."""
    height, width = values.shape[:2]
    elevations = (0.5 - (np.arange(height) + 0.5) / height) * np.pi
    weights = np.cos(elevations) * (np.pi / height) * (2 * np.pi / width)
    return float((values[..., 0].astype(np.float64) * weights[:, None]).sum())


def test_world_of_images_pixels_is_rendered_without_change(scene, monkeypatch):
    monkeypatch.setattr(render, "_WORLD_WIDTHS", (512, 1024))
    nodes = Nodes(scene)
    nodes.texture.image, values = suns(512)
    saturation(nodes)
    found = from_world(scene)
    assert found.world_from_panorama != bpy.data.objects.new("identity", None).matrix_world
    np.testing.assert_allclose(found.panorama.pixels, values, rtol=1e-3, atol=5)  # 1e-4 of a sun


@pytest.mark.parametrize("kind", ["sequence", "multilayer"])
def test_files_to_which_blender_gives_no_size_are_rendered_without_change(scene, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(render, "_WORLD_WIDTHS", (256, 1024))
    nodes = Nodes(scene)
    _, values = suns(512)
    layers = ["Combined", "Normal"] if kind == "multilayer" else [""]
    channels = [f"{layer}.{channel}".strip(".") for layer in layers for channel in "RGB"]
    path = picture_cases.write_exr(tmp_path / "a0001.exr", [("", channels, np.tile(values, len(layers)))])
    image = nodes.texture.image = bpy.data.images.load(str(path))
    if kind == "sequence":
        image.source = "SEQUENCE"
    saturation(nodes)
    found = from_world(scene)
    assert image.size[:] == (0, 0)
    np.testing.assert_allclose(found.panorama.pixels, values, rtol=1e-3, atol=5)


def test_render_of_limited_height_shows_means_of_the_images_pixels(scene, monkeypatch):
    monkeypatch.setattr(render, "_WORLD_WIDTHS", (512, 1024))
    nodes = Nodes(scene)
    nodes.texture.image, values = suns(1024)
    saturation(nodes)
    found = from_world(scene, 256)
    np.testing.assert_allclose(found.panorama.pixels, block_means(values, 2), rtol=1e-3, atol=5)


@pytest.mark.parametrize("change", [saturation, mirror_ball, gradient, sky], ids=lambda change: change.__name__)
def test_render_of_limited_height_takes_one_sample_for_each_pixel(scene, change):
    change(Nodes(scene))
    rendering = render.WorldRender(scene, 64)
    settings = bpy.data.scenes["Panoform Render"].render
    assert (settings.resolution_x, settings.resolution_y) == (128, 64)
    assert rendering.run().panorama.pixels.shape == (64, 128, 3)


def test_sun_of_an_image_narrower_than_the_render_keeps_its_light(scene, monkeypatch):
    monkeypatch.setattr(render, "_WORLD_WIDTHS", (512, 1024))
    nodes = Nodes(scene)
    values = np.zeros((180, 360, 3), np.float32)
    values[90, 9] = 5e4  # the samples of a render 512 px wide show 12 % more light
    nodes.texture.image = images.create_float("sun", values, "Linear Rec.709")
    saturation(nodes)
    assert flux(from_world(scene).panorama.pixels) == pytest.approx(flux(values), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("change", [own_texture_mapping, other_image_by_light_path], ids=lambda change: change.__name__)
def test_light_of_suns_of_one_pixel_is_kept(scene, monkeypatch, change):
    monkeypatch.setattr(render, "_WORLD_WIDTHS", (512, 1024))
    nodes = Nodes(scene)
    image, values = suns(512)
    change(nodes)
    for node in nodes.tree.nodes:
        if node.bl_idname == "ShaderNodeTexEnvironment":
            node.image = image
    found = from_world(scene)
    assert found.panorama.pixels.shape == (256, 512, 3)
    assert flux(found.panorama.pixels) == pytest.approx(flux(values), rel=0.01)


@pytest.mark.slow
def test_frame_of_an_image_sequence_is_shown(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "_WORLD_WIDTHS", (512, 512))
    for number, grey in ((7, 0.25), (8, 0.75)):
        picture_cases.write_exr(tmp_path / f"a{number:04}.exr", [("", "RGB", np.full((16, 32, 3), grey))])
    nodes = Nodes(scene)
    image = bpy.data.images.load(str(tmp_path / "a0007.exr"))
    image.source = "SEQUENCE"
    nodes.texture.image = image
    user = nodes.texture.image_user
    user.frame_duration, user.frame_start, user.frame_offset = 2, 1, 6
    for frame, grey in ((1, 0.25), (2, 0.75)):
        scene.frame_set(frame)
        np.testing.assert_allclose(from_world(scene).panorama.pixels, grey, atol=1e-3)
    (tmp_path / "a0008.exr").write_bytes(b"v/1\x01")
    with pytest.raises(PanoramaError, match="a0008"):
        from_world(scene)


def test_cropped_files_of_a_sequence_count_by_their_pixels(scene, tmp_path):
    """Blender shows the data window of an EXR as the whole picture: for a single file its size says so."""
    spec = oiio.ImageSpec(64, 32, 3, "half")
    spec.x, spec.y, spec.full_width, spec.full_height = 100, 50, 1024, 512
    output = oiio.ImageOutput.create(str(tmp_path / "a0001.exr"))
    assert output.open(str(tmp_path / "a0001.exr"), spec)
    output.write_image(np.full((32, 64, 3), 0.5, np.float32))
    output.close()
    nodes = Nodes(scene)
    image = nodes.texture.image = bpy.data.images.load(str(tmp_path / "a0001.exr"))
    assert sources.shown_sizes(scene) == [image.size[:]] == [(64, 32)]
    image.source = "SEQUENCE"
    assert sources.shown_sizes(scene) == [(64, 32)]


def test_file_before_an_image_sequence_is_that_of_frame_0(scene, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "_WORLD_WIDTHS", (512, 512))
    nodes = Nodes(scene)
    path = picture_cases.write_exr(tmp_path / "a0001.exr", [("", "RGB", np.full((16, 32, 3), 0.25))])
    nodes.texture.image = bpy.data.images.load(str(path))
    nodes.texture.image.source = "SEQUENCE"
    for frame in (0, -3):
        scene.frame_set(frame)
        with pytest.raises(PanoramaError, match="a0000"):
            from_world(scene)
    picture_cases.write_exr(tmp_path / "a0000.exr", [("", "RGB", np.full((16, 32, 3), 0.75))])
    np.testing.assert_allclose(from_world(scene).panorama.pixels, 0.75, atol=1e-3)
    path.unlink()
    user = nodes.texture.image_user
    user.frame_offset = -7  # Blender's names have no negative numbers
    np.testing.assert_allclose(from_world(scene).panorama.pixels, 0.75, atol=1e-3)
    user.frame_offset, user.frame_duration = 1, 0
    np.testing.assert_allclose(from_world(scene).panorama.pixels, 0.75, atol=1e-3)


def test_users_world_with_the_name_of_the_copy_stays(scene, tmp_path):
    gradient(Nodes(scene))
    rendering = render.WorldRender(scene)
    name = next(world.name for world in bpy.data.worlds if world != scene.world)
    rendering.close()
    bpy.data.worlds.new(name).use_fake_user = True
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "other.blend"), copy=True)
    bpy.data.worlds.remove(bpy.data.worlds[name])
    rendering = render.WorldRender(scene)
    assert name in bpy.data.worlds
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "other.blend"))
    rendering.close()
    assert name in bpy.data.worlds


def test_world_that_shows_no_texture_is_refused(scene):
    nodes = Nodes(scene)
    nodes.tree.links.remove(nodes.background.inputs["Color"].links[0])
    with pytest.raises(SceneError, match="no HDRI"):
        from_world(scene)
