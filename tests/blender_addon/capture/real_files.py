"""Run in the Blender application, in background mode: read the panoramas that a list names.

Started with -- LIST OUT. LIST is JSON, [[path, layer], …]. Writes OUT.npz, with the pixels of the files by their index,
and OUT.json, with the encoding, or the message and hint of the refusal, of each.
"""

import json
import sys
from pathlib import Path

import bpy
import numpy as np

EXTENSION = "bl_ext.user_default.panoform"
LIST, OUT = (Path(argument) for argument in sys.argv[sys.argv.index("--") + 1 :])
sources = sys.modules[f"{EXTENSION}.blender_addon.capture.sources"]
PanoramaError = sys.modules[f"{EXTENSION}.shared.protocol.errors"].PanoramaError

pixels, told = {}, []
before = len(bpy.data.images)
for index, (path, layer) in enumerate(json.loads(LIST.read_text("utf-8"))):
    try:
        read = sources.from_file(path, layer=layer).panorama
    except PanoramaError as error:
        told.append({"refusal": error.message, "hint": error.hint})
    else:
        told.append({"encoding": read.encoding})
        pixels[str(index)] = read.pixels
    assert len(bpy.data.images) == before, path
np.savez(OUT.with_suffix(".npz"), **pixels)
OUT.with_suffix(".json").write_text(json.dumps(told), "utf-8")
