"""End-to-end demo with the built zip and a real panorama: `make demo`, or `python tests/demo.py`.

Builds the extension, installs the zip into bpy with a temporary user folder, sets a panorama as the world, calls the
add-on's operator, which starts the backend process, and writes to demo/: the .blend, the maps, a contact sheet of the
panorama and its maps, and a Cycles render of the rebuilt scene from a moved camera.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import OpenImageIO as oiio
from PIL import Image, ImageDraw, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parent.parent
#: Output folder; its content is deleted first.
OUT = ROOT / "demo"
MAPS = ("distance", "normal", "albedo", "roughness", "metallic")


def say(text: str) -> None:
    """Print a heading."""
    print(f"\n— {text}", flush=True)


def read(path: Path) -> np.ndarray:
    """Read an image as (H, W, C) float32, with its values as stored."""
    return np.atleast_3d(oiio.ImageBuf(str(path)).get_pixels(oiio.FLOAT))


def picture_of(name: str, pixels: np.ndarray) -> Image.Image:
    """Visualise a map: distance from near (light) to far (dark), normals as n / 2 + 1 / 2."""
    if name == "distance":
        near, far = np.log(np.percentile(pixels, [1, 99]))
        shade = (far - np.log(pixels[..., 0])) / max(far - near, 1e-6)
        grey = Image.fromarray((np.clip(shade, 0, 1) * 255).astype(np.uint8))
        return ImageOps.colorize(grey, black="#1b0c41", mid="#cf4446", white="#fcffa4")
    if name == "normal":
        pixels = pixels * 0.5 + 0.5
    return Image.fromarray(
        (np.clip(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)), 0, 1) * 255).astype(np.uint8)
    )


def contact_sheet(directory: Path, title: str, path: Path) -> None:
    """Write a contact sheet of the panorama and its maps, two per row, with their names."""
    pictures = [("panorama", picture_of("panorama", read(directory / "panorama.png")))]
    pictures += [(name, picture_of(name, read(next(directory.glob(f"{name}.*"))))) for name in MAPS]
    width, height, bar = 720, 360, 34
    rows = math.ceil(len(pictures) / 2)
    sheet = Image.new("RGB", (2 * width + 30, rows * (height + bar) + bar + 20), "#1d1d1d")
    draw = ImageDraw.Draw(sheet)
    draw.text((10, 10), title, fill="#c8c8c8", font=ImageFont.load_default(16))
    for i, (name, picture) in enumerate(pictures):
        x, y = 10 + (i % 2) * (width + 10), bar + 10 + (i // 2) * (height + bar)
        sheet.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (x, y))
        draw.text((x, y + height + 6), name, fill="#ffffff", font=ImageFont.load_default(18))
    sheet.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild a scene from a panorama with the built extension.")
    parser.add_argument("--panorama", type=Path, help="panorama to use (default: interior.exr, from bpy)")
    panorama = parser.parse_args().panorama
    if panorama is not None and not panorama.is_file():
        parser.error(f"There is no file {panorama}.")
    if panorama is not None and OUT in panorama.resolve().parents:
        parser.error(f"The content of {OUT} is deleted first: move {panorama.name} elsewhere.")
    started = time.monotonic()

    say("Building the extension")
    with tempfile.TemporaryDirectory(prefix="panoform demo ", ignore_cleanup_errors=True) as temporary:
        subprocess.run([sys.executable, str(ROOT / "build_addon.py"), "--out", temporary], check=True)
        (zip_path,) = Path(temporary).glob("*-blender-4.2.zip")
        # Blender reads this at startup, so set it before bpy is imported.
        os.environ["BLENDER_USER_RESOURCES"] = str(Path(temporary) / "user")
        os.environ["PANOFORM_BACKEND_PYTHON"] = sys.executable
        run(zip_path, panorama)
    say(f"Done in {time.monotonic() - started:.0f} s: {', '.join(sorted(path.name for path in OUT.iterdir()))}")


def run(zip_path: Path, panorama: Path | None) -> None:
    """Install the zip into bpy, perceive the panorama, and render the rebuilt scene."""
    import bpy

    say(f"Installing {zip_path.name} into Blender {bpy.app.version_string}")
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.extensions.package_install_files(filepath=str(zip_path), repo="user_default", enable_on_install=True)

    if panorama is None:
        panorama = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world" / "interior.exr"
    say(f"Setting {panorama.name} as the world")
    scene = bpy.context.scene
    world = bpy.data.worlds.new("World")
    world.use_nodes = True
    environment = world.node_tree.nodes.new("ShaderNodeTexEnvironment")
    environment.image = bpy.data.images.load(str(panorama.resolve()))
    world.node_tree.links.new(environment.outputs["Color"], world.node_tree.nodes["Background"].inputs["Color"])
    scene.world = world

    say("Perceiving")
    shutil.rmtree(OUT, ignore_errors=True)
    maps = OUT / "maps"
    bpy.ops.panoform.perceive(source="WORLD", maps=set(map(str.upper, MAPS)), out_directory=str(maps))

    info = msgspec.json.decode((maps / "maps.json").read_bytes())
    title = f"{info['source']} · {info['engine']} · {info['num_inference_steps']} step(s) · seed {info['seed']}"
    contact_sheet(maps, f"{title}   {info['notice']}", OUT / "contact_sheet.png")

    say("Rendering the rebuilt scene from a moved camera")
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    camera.data.lens = 14
    # The panorama's viewpoint is 1.6 m above the world origin, and the floor at z = 0.
    camera.location = (-0.9, 0.2, 1.7)
    camera.rotation_euler = (math.radians(66), 0, math.radians(-80))
    scene.camera = camera
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.max_bounces = 12, 5
    scene.render.resolution_x, scene.render.resolution_y = 640, 360
    scene.render.filepath = str(OUT / "render.png")
    bpy.ops.wm.save_as_mainfile(filepath=str(OUT / "scene.blend"))
    bpy.ops.render.render(write_still=True)
    bpy.ops.preferences.addon_disable(module="bl_ext.user_default.panoform")


if __name__ == "__main__":
    main()
