"""Read and build in this Blender, with the colour management that the environment names, and tell the values.

Run by a test in a process of its own: OCIO is read when Blender starts. Arguments: an HDRI of one colour, a folder of
maps, the file for what was seen.
"""

import json
import sys
from pathlib import Path

import bpy
import numpy as np

from panoform.blender_addon.capture import colour_management, pixels, sources
from panoform.blender_addon.scene import images, maps_folder
from panoform.blender_addon.scene.build import build

hdri, folder, out = sys.argv[1:]
bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
colour_management.check()
captured = sources.from_file(hdri)
image = captured.world_picture()
colour = captured.panorama.pixels[:2, :4]
maps = maps_folder.read(folder)
build(bpy.context.scene, maps.maps, image, "room")
seen = {
    "working": colour_management.rec709(np.eye(3, dtype=np.float32)).tolist(),
    "read": captured.panorama.pixels[0, 0].tolist(),
    "shown": pixels.read(image).pixels[0, 0].tolist(),
    "of image": sources.from_image(bpy.data.images.load(hdri)).panorama.pixels[0, 0].tolist(),
    "linear": pixels.read(images.create_float("a", colour, "Linear Rec.709")).pixels[0, 0].tolist(),
    "srgb": pixels.read(images.create_float("b", colour, "sRGB")).pixels[0, 0].tolist(),
    "data": pixels.raw(images.create_float("c", colour, "Non-Color"))[0, 0, :3].tolist(),
    "distance is data": maps.maps["distance"].colorspace_settings.is_data,
    "world": bpy.context.scene.world.name,
}
Path(out).write_text(json.dumps(seen), "utf-8")
