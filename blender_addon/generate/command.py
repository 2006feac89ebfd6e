"""`blender --background --command panoform generate …` and `… edit …`: the operators, with the backend's options."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import bpy

from ...shared.engines import ENGINES
from ...shared.jobs import options
from ...shared.jobs.generate import METHODS, GenerateSettings, View, check_view
from ...shared.panorama_file import check_path, with_seed
from ...shared.protocol.errors import PanoramaError, SettingError

MAX_BLENDER_INT = 2**31 - 1


def add(verbs: Any) -> None:
    """Adds the two to the subparsers."""
    for verb in (options.add_generate(verbs), options.add_edit(verbs)):
        verb.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .exr to write")
        verb.add_argument("--engine", choices=list(ENGINES), help="default: what the preferences have")
        verb.add_argument("--method", default=GenerateSettings().method, choices=list(METHODS))
        verb.add_argument(
            "--save", type=Path, metavar="BLEND", help="a scene lit by it (by the last), to be written too"
        )
        verb.add_argument("--sun-lamp", action="store_true", help="in that scene, make its sun a Sun lamp")


def check_seeds(*seeds: int) -> None:
    """Raises SettingError for a seed that Blender can't hold."""
    for seed in seeds:
        if not 0 <= seed <= MAX_BLENDER_INT:
            raise SettingError(f"The seed is {seed}.", f"In Blender it must lie between 0 and {MAX_BLENDER_INT}.")


def carry_out(options: argparse.Namespace) -> None:
    """Raises PanoformError, or RuntimeError out of the operators."""
    check_seeds(*options.seed)
    if options.sun_lamp and not options.save:
        raise SettingError("A lamp needs a scene to stand in.", "Name the .blend to be written (--save).")
    operator, asked = _generate(options) if options.verb == "generate" else _edit(options)
    asked |= {
        "prompt": options.prompt, "engine": (options.engine or "auto").upper(), "method": options.method,
        "lora": options.lora, "trigger": options.trigger, "negative_prompt": options.negative,
        "true_cfg_scale": options.true_cfg, "guidance_scale": options.guidance, "shift": options.shift,
        "height": options.height, "num_inference_steps": options.steps,
    }  # fmt: skip
    asked = {name: value for name, value in asked.items() if value is not None}
    out = options.out.resolve()
    check_path(out, options.seed, ())
    for seed in options.seed:
        path = with_seed(out, seed, options.seed)
        operator(**asked, seed=seed, out=str(path))
        print(f"panoform: wrote {path}")
    if options.sun_lamp:
        bpy.context.scene.panoform.generate.folder = str(out.parent)
        bpy.ops.panoform.split_sun()


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
