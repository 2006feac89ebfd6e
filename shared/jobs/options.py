"""Options of generate and edit on both command lines: `panoform` and `blender --command panoform`.

Options whose default depends on the method are None where they are not given.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .generate import MAX_HEIGHT, MIN_HEIGHT, GenerateSettings

_DEFAULTS = GenerateSettings()


def add_generate(commands: Any) -> argparse.ArgumentParser:
    """Add the command `generate` to the subparsers, and return its parser."""
    parser = commands.add_parser("generate", help="generate a panorama from a prompt or around a picture")
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="what the panorama shows")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a picture to complete")
    parser.add_argument(
        "--fov", type=float, metavar="DEG", help="its horizontal field of view (default: from its EXIF)"
    )
    for name, what in (("yaw", "left"), ("pitch", "up"), ("roll", "clockwise")):
        parser.add_argument(
            f"--{name}", type=float, default=0.0, metavar="DEG", help=f"rotation of its camera, positive {what}"
        )
    parser.add_argument(
        "--ldr", action=argparse.BooleanOptionalAction, default=False, help="do not rebuild clipped lights"
    )
    parser.add_argument(
        "--sun-strength",
        type=float,
        default=_DEFAULTS.sun_strength,
        metavar="X",
        help="factor on the rebuilt light of lamps",
    )
    parser.add_argument(
        "--sun-threshold",
        type=float,
        default=_DEFAULTS.sun_threshold,
        metavar="V",
        help="sRGB value that counts as clipped",
    )
    _add_sampling(parser)
    return parser


def add_edit(commands: Any) -> argparse.ArgumentParser:
    """Add the command `edit` to the subparsers, and return its parser."""
    parser = commands.add_parser("edit", help="change a panorama, or extend one")
    parser.add_argument(
        "panorama", type=Path, metavar="PANORAMA", help="EXR, HDR, PNG, JPEG, TIFF or WebP, exactly 2:1"
    )
    parser.add_argument("prompt", nargs="?", default="", metavar="PROMPT", help="what the changed area shows")
    add_layer(parser)
    parser.add_argument("--mask", type=Path, metavar="FILE", help="white where it changes (default: everywhere)")
    parser.add_argument("--extend", action="store_true", help="fill the transparent area")
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="S", help="how much it changes, up to 1; 0.3 gives a variation"
    )
    _add_sampling(parser)
    return parser


def add_layer(parser: argparse.ArgumentParser) -> None:
    """Add the option --layer."""
    parser.add_argument(
        "--layer", default="", metavar="NAME", help="layer or part of an EXR (default: the one that shows light)"
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lora", metavar="P", help="file, folder or hub id of a FLUX LoRA (default: the method's)")
    parser.add_argument("--trigger", metavar="TEXT", help="text put before the prompt (default: the method's)")
    parser.add_argument("--negative", default="", metavar="PROMPT", help="negative prompt; needs --true-cfg above 1")
    parser.add_argument(
        "--true-cfg",
        type=float,
        default=_DEFAULTS.true_cfg_scale,
        metavar="X",
        help="true guidance scale (default: 1, off)",
    )
    parser.add_argument(
        "--height", type=int, default=_DEFAULTS.height, metavar="H",
        help=f"height in pixels, {MIN_HEIGHT} to {MAX_HEIGHT} (default: %(default)s); the width is twice that",
    )  # fmt: skip
    parser.add_argument(
        "--measure-light", action=argparse.BooleanOptionalAction, default=True,
        help="measure clipped lights by maps of the panorama; else estimate them from the picture alone, which is some "
        "seconds faster",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: 28)")
    parser.add_argument("--guidance", type=float, metavar="G", help="FLUX's guidance (default: the method's)")
    parser.add_argument(
        "--shift", type=float, metavar="X", help="time shift of the scheduler (default: FLUX's for the size)"
    )
    parser.add_argument(
        "--seed", type=_seeds, default=(0,), metavar="N[,N…]", help="one panorama for each seed (default: 0)"
    )


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
