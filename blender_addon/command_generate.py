"""`blender --background --command panoform generate …` and `… edit …`: the operators, with the backend's options."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import bpy

from ..shared.engines import ENGINES
from ..shared.errors import PanoramaError, SettingError
from ..shared.generation import METHODS, GenerateSettings, View, check_view

VERBS = ("generate", "edit")


def add(verbs: Any) -> None:
    """Adds the two to the subparsers."""
    defaults = GenerateSettings()
    generate = verbs.add_parser("generate", help="make a panorama of words, or around a picture")
    generate.add_argument("prompt", nargs="?", default="", metavar="WORDS", help="what it shows")
    generate.add_argument("--image", type=Path, metavar="FILE", help="a picture to complete")
    generate.add_argument("--fov", type=float, metavar="DEG", help="its horizontal field of view (default: its EXIF's)")
    for name, what in (("yaw", "to the left"), ("pitch", "up"), ("roll", "clockwise")):
        generate.add_argument(f"--{name}", type=float, default=0.0, metavar="DEG", help=f"its camera was turned {what}")
    generate.add_argument("--ldr", action="store_true", help="leave the clipped lights as they are")
    generate.add_argument("--sun-strength", type=float, default=defaults.sun_strength, metavar="X", help="of lamps")
    generate.add_argument("--sun-threshold", type=float, default=defaults.sun_threshold, metavar="V", help="is clipped")

    edit = verbs.add_parser("edit", help="change a panorama, or extend one")
    edit.add_argument("panorama", type=Path, metavar="PANORAMA", help="any format that Blender reads, exactly 2:1")
    edit.add_argument("prompt", nargs="?", default="", metavar="WORDS", help="what is to be there")
    edit.add_argument("--mask", type=Path, metavar="FILE", help="white where it is to change (default: everywhere)")
    edit.add_argument("--extend", action="store_true", help="fill in what is transparent")
    edit.add_argument("--strength", type=float, default=1.0, metavar="S", help="how far it may go, up to 1")

    for verb in (generate, edit):
        verb.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .exr to write")
        verb.add_argument("--engine", choices=list(ENGINES), help="default: what the preferences have")
        verb.add_argument("--method", default=defaults.method, choices=list(METHODS))
        verb.add_argument("--lora", default="", metavar="P", help="file, folder or hub id (default: the method's)")
        verb.add_argument("--trigger", default="", metavar="WORDS", help="put before the words (default: the method's)")
        verb.add_argument("--negative", default="", metavar="WORDS", help="what it shows not; with --true-cfg")
        verb.add_argument("--true-cfg", type=float, default=defaults.true_cfg_scale, metavar="X", help="1: none")
        verb.add_argument("--height", type=int, default=defaults.height, metavar="H", help="it is twice as wide")
        verb.add_argument("--steps", type=int, default=28, metavar="N", help="denoising steps (default: %(default)s)")
        verb.add_argument("--guidance", type=float, default=0.0, metavar="G", help="default: the method's")
        verb.add_argument("--shift", type=float, default=0.0, metavar="X", help="default: FLUX's own, by size")
        verb.add_argument(
            "--seed", type=_seeds, default=(0,), metavar="N[,N…]", help="a panorama for each (default: 0)"
        )


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def carry_out(options: argparse.Namespace) -> None:
    """Raises PanoformError, or RuntimeError out of the operators."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    operator, asked = _generate(options) if options.verb == "generate" else _edit(options)
    asked |= {
        "prompt": options.prompt, "engine": (options.engine or "auto").upper(), "method": options.method,
        "lora": options.lora, "trigger": options.trigger, "negative_prompt": options.negative,
        "true_cfg_scale": options.true_cfg, "guidance_scale": options.guidance, "shift": options.shift,
        "height": options.height, "num_inference_steps": options.steps,
    }  # fmt: skip
    out = options.out.resolve()
    for seed in options.seed:
        path = out if len(options.seed) == 1 else out.with_stem(f"{out.stem}-{seed}")
        operator(**asked, seed=seed, out=str(path))
        print(f"panoform: wrote {path}")


def _generate(options: argparse.Namespace) -> tuple[Any, dict]:
    asked: dict = {"hdr": not options.ldr, "sun_strength": options.sun_strength, "sun_threshold": options.sun_threshold}
    if options.image:
        # Before radians: an error is to say what was given.
        check_view(View(fov=options.fov, yaw=options.yaw, pitch=options.pitch, roll=options.roll))
        asked["image"] = _open(options.image)
        asked |= {name: math.radians(getattr(options, name) or 0) for name in ("fov", "yaw", "pitch", "roll")}
    return bpy.ops.panoform.generate, asked


def _edit(options: argparse.Namespace) -> tuple[Any, dict]:
    if options.extend and options.mask:
        raise SettingError("Both a mask and --extend are given.", "Leave one out.")
    asked: dict = {"image": _open(options.panorama), "strength": options.strength}
    asked["mode"] = "EXTEND" if options.extend else "INPAINT" if options.mask else "VARY"
    if options.mask:
        asked["mask"] = _open(options.mask)
    return bpy.ops.panoform.edit, asked


def _open(path: Path) -> str:
    """Into this file; the image's name."""
    if not path.is_file():
        raise PanoramaError(f"There is no file {path}.", "Check the path.")
    return bpy.data.images.load(str(path.resolve())).name
