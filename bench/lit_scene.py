"""Compare renders of a grey sphere on a plane under true, reconstructed and plain 8-bit environments.

    python bench/lit_scene.py [--sheet docs/hdr.png] [--size 64] [--samples 256] [--cache DIR] [FILE.exr …]

Each of the eight CC0 HDRIs that ship with bpy (or each FILE) is exposed so that 10 % of its pixels clip, and clipped to
8 bits. Cycles renders the scene under the original light, under the light that `solve.reconstruct` measures by the
starter's maps of the clipped picture ("measured"; the maps are kept in --cache), and under its plain linearisation
("plain").

Columns, for measured and plain: the mean difference of the renders' linear luminance, relative to the true mean; the
angle between the shadow's direction and the true one; the factors by which the shadow's depth (the largest share of
light that it blocks from the plane) and the brightness of the sphere differ.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
import OpenImageIO as oiio
from mathutils import Vector
from scipy import ndimage

from panoform.backend.lighting import solve
from panoform.shared.imaging.colour import linear_from_srgb, srgb_from_linear
from panoform.shared.imaging.sun import Sun

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
#: Reflectance of sphere and plane.
GREY = 0.5
#: Width of the view in metres; the sphere's radius is 1.
VIEW_M = 8.0


class Shading(NamedTuple):
    """Measurements of a render from above."""

    #: Direction of the shadow on the plane, (2,) unit vector (right, up in the picture); 0 where there is none.
    shadow: np.ndarray
    #: Share of light that the shadow blocks at its darkest point beside the sphere, 0 to 1.
    depth: float
    #: Luminance of the sphere and of the open plane.
    sphere: float
    plane: float


def render(panorama: np.ndarray, size: int = 64, samples: int = 64, sun: Sun | None = None) -> np.ndarray:
    """Render the scene from above, lit by `panorama` (H, W, 3) linear and a Sun lamp; (size, size, 3) linear, +Y up."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.image_settings.file_format, scene.render.image_settings.color_depth = "OPEN_EXR", "32"
    scene.view_settings.view_transform = "Raw"
    scene.cycles.device, scene.cycles.samples, scene.cycles.seed = "CPU", samples, 1
    scene.cycles.use_denoising = False

    material = bpy.data.materials.new("grey")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    diffuse = nodes.new("ShaderNodeBsdfDiffuse")
    diffuse.inputs["Color"].default_value = (GREY, GREY, GREY, 1)
    links.new(diffuse.outputs[0], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
    bpy.ops.mesh.primitive_plane_add(size=100)
    bpy.context.object.data.materials.append(material)
    bpy.ops.mesh.primitive_uv_sphere_add(radius=1, location=(0, 0, 1), segments=48, ring_count=24)
    bpy.context.object.data.materials.append(material)
    bpy.ops.object.shade_smooth()

    camera = bpy.data.cameras.new("above")
    camera.type, camera.ortho_scale = "ORTHO", VIEW_M
    scene.camera = bpy.data.objects.new("above", camera)
    scene.camera.location = (0, 0, 10)
    scene.collection.objects.link(scene.camera)

    if sun is not None:
        lamp = bpy.data.lights.new("sun", "SUN")
        lamp.energy, lamp.color, lamp.angle = sun.irradiance, sun.colour, sun.diameter_rad
        sun_object = bpy.data.objects.new("sun", lamp)
        sun_object.rotation_mode = "QUATERNION"
        sun_object.rotation_quaternion = Vector(sun.direction).to_track_quat("Z", "Y")
        scene.collection.objects.link(sun_object)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.exr"
        buffer = oiio.ImageBuf(np.ascontiguousarray(panorama, np.float32))
        if not buffer.write(str(path)):
            raise RuntimeError(buffer.geterror())
        world = bpy.data.worlds.new("world")
        scene.world, world.use_nodes = world, True
        texture = world.node_tree.nodes.new("ShaderNodeTexEnvironment")
        texture.image = bpy.data.images.load(str(path))
        world.node_tree.links.new(texture.outputs["Color"], world.node_tree.nodes["Background"].inputs["Color"])
        scene.render.filepath = str(Path(folder) / "render.exr")
        bpy.ops.render.render(write_still=True)
        image = oiio.ImageInput.open(scene.render.filepath)
        pixels = image.read_image("float")[..., :3]
        image.close()
    return pixels


def measure(picture: np.ndarray) -> Shading:
    """Measure a picture returned by `render`."""
    luminance = picture @ LUMINANCE
    size = len(luminance)
    position = ((np.arange(size) + 0.5) / size - 0.5) * VIEW_M
    x, y = np.meshgrid(position, -position)
    radius = np.hypot(x, y)
    sphere, rim = radius < 0.9, radius > 3.5
    plane = float(np.median(luminance[rim]))
    beside = (radius > 1.1) & (radius < 3)
    blocked = np.where(beside, np.maximum(1 - ndimage.gaussian_filter(luminance, size / 64) / plane, 0), 0)
    # The sphere darkens the plane on all sides; the shadow is the excess on one side.
    direction = np.array([(blocked * x / radius).sum(), (blocked * y / radius).sum()])
    length = np.linalg.norm(direction)
    return Shading(
        direction / length if length > 0 else direction, float(blocked.max()), float(luminance[sphere].mean()), plane
    )


def difference(true: np.ndarray, picture: np.ndarray) -> float:
    """Return the mean difference of two renders' luminance, relative to the true mean."""
    return float(np.abs(picture @ LUMINANCE - true @ LUMINANCE).mean() / (true @ LUMINANCE).mean())


def shadow_angle(true: Shading, other: Shading) -> float:
    """Return the angle between two shadows' directions in degrees."""
    return float(np.degrees(np.arccos(np.clip(true.shadow @ other.shadow, -1, 1))))


def clipped(light: np.ndarray, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return the light in units of the picture's white, and the 8-bit picture, with `share` of the pixels clipped."""
    light = light / np.quantile(light.max(-1), 1 - share)
    return light, (np.round(srgb_from_linear(np.clip(light, 0, 1)) * 255) / 255).astype(np.float32)


def bundled() -> list[Path]:
    """Return the HDRIs that ship with bpy."""
    return sorted((Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world").glob("*.exr"))


def load(path: Path) -> np.ndarray:
    """Read a panorama as (H, W, 3) linear light."""
    return np.maximum(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT)[..., :3], 0)


def titles(size: int) -> np.ndarray:
    """Render the titles of the sheet's columns, as wide as its rows: (size // 6, 5 · size, 3)."""
    strip = oiio.ImageBuf(oiio.ImageSpec(5 * size, size // 6, 3, oiio.FLOAT))
    for column, title in ((0, "8-bit panorama"), (2, "true HDRI"), (3, "measured"), (4, "plain")):
        position = column * size + size // 20, size // 8
        if not oiio.ImageBufAlgo.render_text(strip, *position, title, size // 9, "", (1.0, 1.0, 1.0)):
            raise RuntimeError(strip.geterror())
    return np.asarray(strip.get_pixels(oiio.FLOAT))


def main() -> None:
    import light_data  # in this folder; the tests import this file alone

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--sheet", type=Path, help="write a contact sheet: panorama, true, measured, plain")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--cache", type=Path, default=Path(".cache/light"), help="folder of maps")
    options = parser.parse_args()
    rows = []
    print(
        f"{'':16}" + "".join(f"{method:>12}{'shadow':>9}{'depth':>7}{'sphere':>8}" for method in ("measured", "plain"))
    )
    for path in options.files or bundled():
        light, picture = clipped(load(path))
        maps = light_data.perceived(picture, options.cache, f"{path.stem} 10 %")
        measured = solve.reconstruct(picture, light_data.with_sky(maps)).light
        lights = light, measured, linear_from_srgb(picture)
        renders = [render(panorama, options.size, options.samples) for panorama in lights]
        true, *others = [measure(image) for image in renders]
        line = f"{path.stem:16}"
        for image, other in zip(renders[1:], others, strict=True):
            depth, sphere = other.depth / max(true.depth, 1e-3), other.sphere / true.sphere
            angle = shadow_angle(true, other)
            line += f"{100 * difference(renders[0], image):10.0f} %{angle:8.0f}°{depth:6.2f}×{sphere:7.2f}×"
        print(line, flush=True)
        exposed = [srgb_from_linear(np.clip(0.6 * image / true.plane, 0, 1)) for image in renders]
        step = max(picture.shape[0] // options.size, 1)
        rows.append(np.concatenate([picture[::step, ::step], *exposed], axis=1))
    if options.sheet:
        heading = titles(options.size)
        half = (len(rows) + 1) // 2
        columns = [np.concatenate([heading, *part]) for part in (rows[:half], rows[half:]) if part]
        if len(rows) % 2 and len(rows) > 1:
            columns[1] = np.pad(columns[1], ((0, columns[0].shape[0] - columns[1].shape[0]), (0, 0), (0, 0)))
        sheet = oiio.ImageBuf(np.ascontiguousarray(np.concatenate(columns, axis=1), np.float32))
        sheet.set_write_format("uint8")
        if not sheet.write(str(options.sheet)):
            raise SystemExit(sheet.geterror())


if __name__ == "__main__":
    main()
