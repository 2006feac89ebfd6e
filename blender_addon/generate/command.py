"""`blender --background --command panoform generate …` and `… edit …`, with the options of `panoform`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import bpy

from ...shared.engines import engines_for
from ...shared.jobs import options
from ...shared.jobs.generate import METHODS, GenerateSettings, View, check_view
from ...shared.panorama_file import check_path, with_seed
from ...shared.protocol.errors import SettingError
from ..capture import image_limits

MAX_BLENDER_INT = 2**31 - 1


def add(verbs: Any) -> None:
    """Add the subparsers of generate and edit."""
    for verb in (options.add_generate(verbs), options.add_edit(verbs)):
        verb.add_argument("--out", required=True, type=Path, metavar="FILE", help="EXR file to write")
        verb.add_argument(
            "--engine",
            choices=engines_for("outpaint", "text_to_panorama", "edit"),
            help="default: as set in the preferences",
        )
        verb.add_argument("--method", default=GenerateSettings().method, choices=list(METHODS))
        verb.add_argument(
            "--save",
            type=Path,
            metavar="BLEND",
            help="also save a scene lit by the panorama (with several seeds, the last one)",
        )
        verb.add_argument("--sun-lamp", action="store_true", help="replace the sun in that scene by a Sun lamp")


def check_seeds(*seeds: int) -> None:
    """Raise SettingError for a seed out of Blender's range."""
    for seed in seeds:
        if not 0 <= seed <= MAX_BLENDER_INT:
            raise SettingError(f"The seed is {seed}.", f"In Blender it must lie between 0 and {MAX_BLENDER_INT}.")


def execute(options: argparse.Namespace) -> None:
    """Run generate or edit. Raise PanoformError, or RuntimeError from the operators."""
    check_seeds(*options.seed)
    if options.sun_lamp and not options.save:
        raise SettingError("--sun-lamp needs a scene.", "Also give the .blend to write (--save).")
    operator, properties = _generate(options) if options.verb == "generate" else _edit(options)
    properties |= {
        "prompt": options.prompt, "engine": (options.engine or "auto").upper(), "method": options.method,
        "lora": options.lora, "trigger": options.trigger, "negative_prompt": options.negative,
        "true_cfg_scale": options.true_cfg, "guidance_scale": options.guidance, "shift": options.shift,
        "height": options.height, "num_inference_steps": options.steps, "quality": getattr(options, "quality", None),
        "measure_light": options.measure_light,
    }  # fmt: skip
    properties = {name: value for name, value in properties.items() if value is not None}
    out = options.out.resolve()
    check_path(out, options.seed, ())
    for seed in options.seed:
        path = with_seed(out, seed, options.seed)
        operator(**properties, seed=seed, out=str(path))
        print(f"panoform: wrote {path}")
    if options.sun_lamp:
        bpy.ops.panoform.split_sun()


def _generate(options: argparse.Namespace) -> tuple[Any, dict]:
    properties: dict = {
        "hdr": not options.ldr, "sun_strength": options.sun_strength, "sun_threshold": options.sun_threshold,
    }  # fmt: skip
    if options.image:
        # Checked in degrees, so that an error quotes what was given.
        check_view(View(fov=options.fov, yaw=options.yaw, pitch=options.pitch, roll=options.roll))
        properties["image"] = _open(options.image)
        properties |= {name: math.radians(getattr(options, name) or 0) for name in ("fov", "yaw", "pitch", "roll")}
    return bpy.ops.panoform.generate, properties


def _edit(options: argparse.Namespace) -> tuple[Any, dict]:
    if options.extend and options.mask:
        raise SettingError("--mask and --extend are both given.", "Give only one of them.")
    properties: dict = {"image": _open(options.panorama), "strength": options.strength}
    properties["mode"] = "EXTEND" if options.extend else "INPAINT" if options.mask else "VARY"
    if options.mask:
        properties["mask"] = _open(options.mask)
    return bpy.ops.panoform.edit, properties


def _open(path: Path) -> str:
    """Load an image and return its name. Raise PanoramaError."""
    return image_limits.load(path.resolve()).name
