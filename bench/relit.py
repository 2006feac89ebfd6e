"""Switch a lamp off in a room that is rebuilt from a clipped panorama, and compare with the room itself.

    python bench/relit.py [--exact] [--cache DIR]

Each of three generated rooms is rendered by Cycles as a panorama, with all lamps and without its strongest. The first
is exposed so that 3 % of its pixels clip, and clipped to 8 bits; from it and the starter's maps (256 × 128, kept in
--cache), or with --exact the exact ones, the room is rebuilt as a mesh with its lamps as lights. The light next to that
lamp is switched off, and Cycles renders the panorama again.

Columns: the angle between that lamp and the light, in degrees; and PSNR in dB of sRGB against the room without the
lamp, outside of what the picture clips. *lights*: the rebuilt room. *world*: the maps' albedo, lit from afar and
without shadows by the solved panorama, in which the lamp's region is black. *picture*: the clipped panorama, in which
nothing can be switched off. *all on*: the rebuilt room with all lights, against the room with all lamps.

Measured:                    angle   lights    world  picture   all on
    room 0, the starter's      0.8     17.4     16.9     19.0     18.6
    room 3, the starter's      2.2     15.6     14.7     36.6     16.1
    room 8, the starter's     25.3     19.5     12.5     38.3     22.9
    room 0, exact maps         0.6     14.6     15.9     19.0
By the starter's maps, the room is matched to the picture (15.0, 13.9 and 14.2 dB without). In rooms 3 and 8 the lamp
gives hardly any light, and in 8 it isn't found.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import bpy
import hdr
import light_data
import numpy as np
import OpenImageIO as oiio
import scene_truth
from mathutils import Matrix, Vector
from quiet import quiet

from panoform import blender_addon
from panoform.backend.io.maps import Maps
from panoform.backend.lighting import clipped_regions, inverse_tonemapping, solve
from panoform.backend.scene import job, light
from panoform.blender_addon.scene import build, lights
from panoform.shared.imaging.colour import linear_from_srgb, srgb_from_linear
from panoform.shared.jobs.scene import SceneRequest, SceneSettings

#: Rooms of scene_truth.SCENES, all with several lamps.
ROOMS = (0, 3, 8)
HEIGHT, EXPOSURE, SAMPLES = 128, "3 %", 16
METHODS = ("lights", "world", "picture", "all on")


def switch_off() -> np.ndarray:
    """Switch the lamp of the open file off that emits the most, by its area. Return the direction of its middle."""
    found = []
    for thing in bpy.context.scene.objects:
        strength = _strength(thing)
        if strength is not None and strength.default_value > 0:
            found.append((strength.default_value * sum(polygon.area for polygon in thing.data.polygons), thing))
    thing = max(found, key=lambda pair: pair[0])[1]
    thing.data.materials[0] = thing.data.materials[0].copy()  # others share it
    _strength(thing).default_value = 0
    middle = thing.matrix_world @ (sum((Vector(corner) for corner in thing.bound_box), Vector()) / 8)
    return np.array(middle.normalized())


def _strength(thing: bpy.types.Object) -> bpy.types.NodeSocket | None:
    material = thing.active_material if thing.type == "MESH" else None
    nodes = () if material is None else material.node_tree.nodes
    return next((node.inputs["Emission Strength"] for node in nodes if node.type == "BSDF_PRINCIPLED"), None)


def rebuild(picture: np.ndarray, maps: light_data.Maps, match: bool) -> tuple[list[bpy.types.Object], bpy.types.Object]:
    """Build the room in an empty file from its picture and maps, its lamps as lights. Return these and the camera.

    `match`: whether it is matched to the picture.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    named = {"distance": maps.distance[..., None], "normal": maps.normal, "albedo": srgb_from_linear(maps.albedo)}
    given = Maps({name: one.astype(np.float32) for name, one in named.items()}, (picture, "srgb"))
    request = SceneRequest(files={}, settings=SceneSettings(match_panorama=match))
    reply = job.build_scene(request, given, light_data.Silent())
    build.build_mesh(bpy.context.scene, reply, None, "room", Matrix.Identity(4))
    bpy.context.view_layer.update()
    made = lights.add(bpy.data.objects["room mesh"])
    bpy.context.view_layer.update()
    return made, bpy.data.objects["room camera"]


def panorama(camera: bpy.types.Object) -> np.ndarray:
    """Render the rebuilt room, (HEIGHT, 2 · HEIGHT, 3) linear."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", SAMPLES, True
    scene.cycles.max_bounces = scene.cycles.diffuse_bounces = 6
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 2 * HEIGHT, HEIGHT, 100
    scene.render.image_settings.file_format, scene.render.image_settings.color_depth = "OPEN_EXR", "32"
    camera.data.type, camera.data.panorama_type = "PANO", "EQUIRECTANGULAR"
    scene.camera = camera
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "room.exr")
        bpy.ops.render.render(write_still=True)
        return np.asarray(oiio.ImageBuf(scene.render.filepath).get_pixels(oiio.FLOAT))[..., :3]


def world(picture: np.ndarray, maps: light_data.Maps, towards: np.ndarray) -> np.ndarray:
    """Return the albedo (H, W, 3) lit by the solved panorama without the clipped region nearest to a direction."""
    solved = solve.reconstruct(picture, light_data.with_sky(maps)).light
    linear, mask = inverse_tonemapping.clipped(picture, 1.0, inverse_tonemapping.THRESHOLD)
    found = clipped_regions.find(linear, mask)
    shining = np.where(mask)
    off = found.region == found.region[(found.ray @ towards).argmax()]
    solved[shining[0][off], shining[1][off]] = 0
    return maps.albedo / np.pi * light.irradiance(solved, maps.normal)


def measure(index: int, cache: Path, exact: bool) -> tuple[str, float, list[float]]:
    """Return a room's name, the angle between its lamp and the light in degrees, and the PSNR of METHODS."""
    name = f"{index:02d}-{scene_truth.SCENES[index][0].__name__}"
    shown = light_data.render(index, HEIGHT)
    towards = switch_off()
    on, picture = hdr.expose(shown["light"], EXPOSURE)
    true = scene_truth.render(2 * HEIGHT, HEIGHT)["Combined"] * (on.sum() / shown["light"].sum())
    maps = light_data.Maps(shown["albedo"], shown["distance"], shown["normal"])
    if not exact:
        maps = light_data.perceived(picture, cache, f"relit {name} {EXPOSURE}")
    found, camera = rebuild(picture, maps, not exact)
    cosine = [float(one.matrix_world.translation.normalized() @ Vector(towards)) for one in found]
    with_all = panorama(camera)
    found[int(np.argmax(cosine))].hide_render = True
    dark = panorama(camera), world(picture, maps, towards), linear_from_srgb(picture)
    counted = ~(picture >= np.float32(inverse_tonemapping.THRESHOLD)).all(-1)
    pairs = [*((one, true) for one in dark), (with_all, on)]
    error = [(srgb_from_linear(a.clip(0, 1)) - srgb_from_linear(b.clip(0, 1)))[counted] for a, b in pairs]
    return name, float(np.degrees(np.arccos(max(cosine)))), [-10 * float(np.log10((e**2).mean())) for e in error]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exact", action="store_true", help="exact maps instead of the starter's")
    parser.add_argument("--cache", type=Path, default=Path(".cache/light"), help="folder of maps")
    options = parser.parse_args()
    blender_addon.register()
    print(f"{'':12}{'angle':>7}" + "".join(f"{method:>9}" for method in METHODS))
    for index in ROOMS:
        with quiet():
            name, angle, decibels = measure(index, options.cache, options.exact)
        print(f"{name:12}{angle:7.1f}" + "".join(f"{one:9.1f}" for one in decibels), flush=True)


if __name__ == "__main__":
    main()
