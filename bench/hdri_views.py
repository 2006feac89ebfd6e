"""Show what is built from real HDRIs, seen from the panorama's place and from beside it.

    python bench/hdri_views.py --maps DIR [--names interior,courtyard,forest] [--out FILE.png] [--size 480]

The HDRIs are those that ship with Blender. DIR has a result folder for each; what is missing is perceived with the
starter first, about a minute each. Each HDRI has two rows, the dome and the mesh, and four columns: the HDRI itself,
and what is built of it, from cameras at the panorama's place, and 0.5 m and 1 m to its right, looking forward and a
little down. Cycles renders them under the light of their own world, all exposed for the mean of the HDRI. The PSNR of
the second column against the first is printed.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from pathlib import Path
from typing import cast

import bpy
import numpy as np
import OpenImageIO as oiio
from mathutils import Matrix
from quiet import quiet

from panoform import blender_addon
from panoform.backend.cli import main as command_line
from panoform.backend.cli import options
from panoform.backend.io import panoramas
from panoform.backend.lighting import exposure
from panoform.blender_addon.scene import spec
from panoform.shared.jobs.scene import SceneReply, SceneSettings

NAMES = ("interior", "courtyard", "forest")
BESIDE_M = (0.0, 0.5, 1.0)
CAMERA_M, SAMPLES = 1.6, 8
#: Angle of view and pitch of the cameras.
FOV_RAD, PITCH_RAD = math.radians(90), math.radians(-10)


def perceive(name: str, folder: Path) -> None:
    """Perceive an HDRI that ships with Blender, unless `folder` has its maps, and put it beside them with its light."""
    if folder.is_dir():
        return
    world = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world" / f"{name}.exr"
    if command_line.main(["perceive", str(world), "--out", str(folder)]):
        raise SystemExit(1)
    (folder / "panorama.png").unlink()
    shutil.copyfile(world, folder / "panorama.exr")


def _build(folder: Path, kind: str) -> None:
    """Build maps in the open file."""
    found = spec.from_folder(
        folder, bpy.context.scene.session_uid, SceneSettings(camera_height_m=CAMERA_M, match_panorama=True)
    )
    if kind == "DOME":
        found.build_dome(bpy.context.scene)
    else:
        found.build(cast("SceneReply", options.run(found.request)), bpy.context.scene)


def views(folder: Path, kind: str, width: int) -> np.ndarray:
    """Build maps and render the cameras side by side, (H, W, 3) as shown on a screen."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    _build(folder, kind)
    scene.render.engine = "CYCLES"
    scene.cycles.device, scene.cycles.samples, scene.cycles.use_denoising = "CPU", SAMPLES, True
    scene.render.resolution_x, scene.render.resolution_y = width, width * 9 // 16
    scene.render.resolution_percentage = 100
    scene.render.image_settings.file_format = "PNG"
    _, record = exposure.expose(panoramas.read(folder / "panorama.exr")[0], "linear")
    assert record is not None
    scene.view_settings.exposure = math.log2(float(record["exposure"]))
    lens = bpy.data.cameras.new("view")
    lens.angle, lens.clip_start = FOV_RAD, 0.01
    camera = bpy.data.objects.new("view", lens)
    scene.collection.objects.link(camera)
    scene.camera = camera
    turn = Matrix.Rotation(-math.pi / 2, 4, "Z") @ Matrix.Rotation(math.pi / 2 + PITCH_RAD, 4, "X")
    pictures = []
    with tempfile.TemporaryDirectory() as temporary:
        for built, beside in ((False, 0.0), *((True, beside) for beside in BESIDE_M)):
            scene.collection.children[0].hide_render = not built
            camera.matrix_world = Matrix.Translation((0, -beside, CAMERA_M)) @ turn
            scene.render.filepath = str(Path(temporary) / f"{built}_{beside}.png")
            bpy.ops.render.render(write_still=True)
            pictures.append(oiio.ImageBuf(scene.render.filepath).get_pixels(oiio.FLOAT)[..., :3])
    return np.concatenate(pictures, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=Path, required=True, metavar="DIR")
    parser.add_argument("--names", default=",".join(NAMES))
    parser.add_argument("--kinds", default="DOME,MESH")
    parser.add_argument("--out", type=Path, default=Path("hdri_views.png"), metavar="FILE")
    parser.add_argument("--size", type=int, default=480, help="width of a picture in pixels")
    arguments = parser.parse_args()
    blender_addon.register()
    try:
        _measure(arguments)
    finally:
        blender_addon.unregister()


def _measure(arguments: argparse.Namespace) -> None:
    rows = []
    for name in arguments.names.split(","):
        folder = arguments.maps / name
        perceive(name, folder)
        for kind in arguments.kinds.split(","):
            with quiet():
                rows.append(views(folder, kind, arguments.size))
            shown, built = rows[-1][:, : arguments.size], rows[-1][:, arguments.size : 2 * arguments.size]
            psnr = -10 * math.log10(float(((shown - built) ** 2).mean()))
            print(f"{name}, {kind.lower()}: {psnr:.1f} dB at the panorama's place", flush=True)
    sheet = oiio.ImageBuf(np.ascontiguousarray(np.concatenate(rows), np.float32))
    sheet.set_write_format("uint8")
    if not sheet.write(str(arguments.out)):
        raise SystemExit(sheet.geterror())


if __name__ == "__main__":
    main()
