"""The options that generate and edit have on both command lines: `panoform` and `blender --command panoform`.

Those that may be left to the method are None where they are not given.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .generate import MAX_HEIGHT, MIN_HEIGHT, GenerateSettings

_DEFAULTS = GenerateSettings()


def add_generate(commands: Any) -> argparse.ArgumentParser:
    """The command generate, added to the subparsers."""
    parser = commands.add_parser("generate", help="make a panorama of words, or around a picture")
    parser.add_argument("prompt", nargs="?", default="", metavar="WORDS", help="what it shows")
    parser.add_argument("--image", type=Path, metavar="FILE", help="a picture to complete")
    parser.add_argument("--fov", type=float, metavar="DEG", help="its horizontal field of view (default: its EXIF's)")
    for name, what in (("yaw", "to the left"), ("pitch", "up"), ("roll", "clockwise")):
        parser.add_argument(f"--{name}", type=float, default=0.0, metavar="DEG", help=f"its camera was turned {what}")
    parser.add_argument("--ldr", action="store_true", help="leave the clipped lights as they are")
    parser.add_argument(
        "--sun-strength", type=float, default=_DEFAULTS.sun_strength, metavar="X", help="times the light of lamps"
    )
    parser.add_argument(
        "--sun-threshold", type=float, default=_DEFAULTS.sun_threshold, metavar="V", help="sRGB value that is clipped"
    )
    _add_drawing(parser)
    return parser


def add_edit(commands: Any) -> argparse.ArgumentParser:
    """The command edit, added to the subparsers."""
    parser = commands.add_parser("edit", help="change a panorama, or extend one")
    parser.add_argument(
        "panorama", type=Path, metavar="PANORAMA", help="EXR, HDR, PNG, JPEG, TIFF or WebP, exactly 2:1"
    )
    parser.add_argument("prompt", nargs="?", default="", metavar="WORDS", help="what is to be there")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="white where it is to change (default: everywhere)")
    parser.add_argument("--extend", action="store_true", help="fill in what is transparent")
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="S", help="how far it may go, up to 1; 0.3 is a variation"
    )
    _add_drawing(parser)
    return parser


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lora", metavar="P", help="file, folder or hub id of a FLUX LoRA (default: the method's)")
    parser.add_argument("--trigger", metavar="WORDS", help="put before the words (default: the method's)")
    parser.add_argument("--negative", default="", metavar="WORDS", help="what it shows not; with --true-cfg")
    parser.add_argument("--true-cfg", type=float, default=_DEFAULTS.true_cfg_scale, metavar="X", help="1: none")
    parser.add_argument(
        "--height", type=int, default=_DEFAULTS.height, metavar="H",
        help=f"in pixels, {MIN_HEIGHT} to {MAX_HEIGHT} (default: %(default)s); it is twice as wide",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: 28)")
    parser.add_argument("--guidance", type=float, metavar="G", help="FLUX's guidance (default: the method's)")
    parser.add_argument("--shift", type=float, metavar="X", help="the scheduler's (default: FLUX's, by size)")
    parser.add_argument("--seed", type=_seeds, default=(0,), metavar="N[,N…]", help="a panorama for each (default: 0)")


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
