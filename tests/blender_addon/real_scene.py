"""Run in the Blender application, without pytest: build, measure, save, reload, capture. Exit with an error on failure.

blender --background --python real_scene.py -- FOLDER

FOLDER holds the maps of a box as files of a result folder, and their values in `maps.npz`.
"""

import sys
import types
import warnings
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix

root = Path(__file__).resolve().parents[2]
for name, folder in (("panoform", root), ("panoform.blender_addon", root / "blender_addon")):
    package = types.ModuleType(name)  # the add-on's own __init__ needs the whole extension
    package.__path__ = [str(folder)]
    sys.modules[name] = package

from panoform.blender_addon.capture import pixels, render, sources  # noqa: E402
from panoform.blender_addon.scene import dome, images, maps_folder  # noqa: E402
from panoform.blender_addon.scene.build import build  # noqa: E402
from panoform.shared.imaging import sphere  # noqa: E402
from panoform.shared.maps import MAPS  # noqa: E402

bpy.ops.wm.read_factory_settings(use_empty=True)
warnings.simplefilter("error")
folder = Path(sys.argv[sys.argv.index("--") + 1])
half = np.array([4.0, 3.0, 2.0])
rays = sphere.directions(64, 128)


def box(directions: np.ndarray) -> np.ndarray:
    return (half / np.maximum(np.abs(directions), 1e-9)).min(axis=-1, keepdims=True).astype(np.float32)


def vertices(body: bpy.types.Object) -> np.ndarray:
    bpy.context.view_layer.update()
    return np.array([v.co for v in body.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh().vertices])


maps = dict(np.load(folder / "maps.npz"))
sky = (1 + rays) * np.float32(2)

# The dome's vertices are on the box, and its controls work.
scene = bpy.context.scene
given = {
    kind: images.create_from_file(kind, np.fromfile(folder / MAPS[kind].filename, np.uint8), MAPS[kind].colorspace)
    for kind in maps
}
panorama = images.create_float("panorama", sky, "Linear Rec.709")
body = build(scene, given, panorama, "box", camera_height_m=2.0).objects["box dome"]
places = vertices(body)
radius = np.linalg.norm(places, axis=-1)
error = np.abs(radius - box(places / radius[:, None])[:, 0]) / radius
assert np.quantile(error, 0.95) < 0.01, error
for name, value in (("Amount", 0.0), ("Scale", 3.0)):
    owner, path = dome.controls(body.modifiers[dome.MODIFIER_NAME])[name]
    if path == "value":
        owner.value = value
    else:
        owner[path[2:-2]] = value
body.update_tag()
np.testing.assert_allclose(np.linalg.norm(vertices(body), axis=-1), 3.0, rtol=1e-4)

# A panoramic camera at the origin sees the world where the dome is hidden.
body.hide_render = True
seen = render.PanoramaRender(scene, Matrix.Identity(4), width=128, samples=4).run().panorama.pixels
np.testing.assert_allclose(seen[2:-2], sky[2:-2], atol=0.1)
assert [one.name for one in bpy.data.scenes] == ["Scene"]
body.hide_render = False
found = sources.from_plain_world(scene)
np.testing.assert_array_equal(found.panorama.pixels, sky)

# Nothing is lost by saving and reloading.
bpy.ops.wm.save_as_mainfile(filepath=str(folder / "box.blend"))
bpy.ops.wm.open_mainfile(filepath=str(folder / "box.blend"))
for kind, tolerance in (("distance", 0), ("normal", 0), ("albedo", 1.5 / 65535), ("roughness", 1.5 / 65535)):
    image = bpy.data.images[f"box {kind}"]
    assert image.packed_file, kind
    kept = pixels.read(image).pixels[..., : maps[kind].shape[-1]]
    np.testing.assert_allclose(kept, maps[kind], atol=tolerance, rtol=0)
assert bpy.data.images["box albedo"].colorspace_settings.name == "sRGB"
assert bpy.context.scene.world.name == "Panoform box"

# A second scene is added from files.
read = maps_folder.read(folder)
for kind, tolerance in (("distance", 0), ("normal", 0), ("albedo", 1.5 / 65535)):
    seen = pixels.read(read.maps[kind]).pixels[..., : maps[kind].shape[-1]]
    np.testing.assert_allclose(seen, maps[kind], atol=tolerance, rtol=0)
build(bpy.context.scene, read.maps, sources.from_plain_world(bpy.context.scene).world_picture(), "box")
assert bpy.data.objects["box dome"] != bpy.data.objects["box dome.001"]
print("PANOFORM SCENE OK", bpy.app.version_string)
