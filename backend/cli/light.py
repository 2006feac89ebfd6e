"""`panoform light`: reconstruct the light of an 8-bit panorama by its maps."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from ...shared import json_file, overwriting
from ...shared.engines import EngineSettings
from ...shared.file_errors import display_name
from ...shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings
from ...shared.protocol.errors import OutputError, PanoramaError
from . import options as shared_options


class _Record(msgspec.Struct, kw_only=True):
    """The record beside the light."""

    source: str
    maps: str
    #: As in solve.Solution.
    confidence: float
    points: int
    spread: float
    #: Largest value of the light; 1 is the picture's white.
    brightest: float
    #: Name → SHA-256 of the files' content.
    files: dict[str, str]


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("light", help="reconstruct the light that an 8-bit panorama clipped")
    parser.add_argument("panorama", type=Path, metavar="PANORAMA", help="sRGB: PNG, JPEG, TIFF or WebP, 2:1")
    parser.add_argument(
        "--maps", type=Path, metavar="DIR", help="its maps: distance, normal and albedo (default: the starter's)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".exr: linear light; 1 is white")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help=".png: balls under the light, and where it can be trusted"
    )
    parser.add_argument(
        "--sun-strength", type=float, default=1.0, metavar="S", help="multiplies suns and lamps (default: 1)"
    )
    parser.add_argument(
        "--sun-threshold", type=float, default=0.98, metavar="T", help="sRGB value from which light is clipped (0.98)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files (never a source)")
    parser.add_argument("--json", action="store_true", help="print the record as JSON on stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from ...shared.atomic_write import atomic_write_all
    from ..io import panoramas
    from ..io.encoding import encode_image
    from ..io.maps import find_in
    from ..io.maps import read as read_maps
    from ..lighting import probe, solve
    from ..lighting.maps import NAMES, light_maps

    record = options.out.with_suffix(".json")
    sources = [options.panorama, *(find_in(options.maps).values() if options.maps else ())]
    _check_paths(options, record, sources)
    picture, encoding = panoramas.read(options.panorama)
    if encoding != "srgb":
        raise PanoramaError(
            f"{options.panorama.name} is linear light, not a clipped picture.", "Use it as it is, or give an 8-bit one."
        )
    name = display_name(options.panorama.name)
    maps = light_maps(read_maps(options.maps).maps if options.maps else _perceived(picture, name))
    if maps is None:
        raise PanoramaError(f"{options.maps} lacks a map of {', '.join(NAMES)}.", "Perceive all three.")
    solution = solve.reconstruct(picture, maps, sun_strength=options.sun_strength, threshold=options.sun_threshold)
    files = {options.out: encode_image("light.exr", solution.light, "Linear", bits=32)}
    if options.sheet:
        files[options.sheet] = encode_image("sheet.png", probe.sheet(picture, solution), "sRGB", bits=8)
    info = _Record(
        source=name,
        maps=display_name(options.maps.resolve().name) if options.maps else "starter",
        confidence=round(solution.confidence, 3),
        points=solution.points,
        spread=round(solution.spread, 3),
        brightest=float(solution.light.max()),
        files={display_name(path.name): hashlib.sha256(content).hexdigest() for path, content in files.items()},
    )
    files[record] = msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n"
    _check_paths(options, record, sources)  # again: perceiving takes a while
    atomic_write_all(files, make_folders=True)
    if options.json:
        shared_options.print_json(info)
    if solution.confidence == 0:
        print("The maps show nothing that can be measured: the light is an estimate from the picture.", file=sys.stderr)
    names = ", ".join(map(display_name, files))
    print(f"Wrote {names} (confidence {100 * solution.confidence:.0f} %).", file=sys.stderr)
    return 0


def _perceived(picture: Any, name: str) -> dict[str, Any]:
    """Return the starter's maps of a picture: name → (H, W, channels)."""
    from ...shared.atomic_write import drafts
    from ..io.maps import read as read_maps
    from ..lighting.maps import HEIGHT, NAMES

    with drafts() as folder:
        request = PerceiveRequest(
            panorama=picture, encoding="srgb", source=name, engine=EngineSettings(engine="starter"),
            settings=PerceiveSettings(maps=NAMES, height=HEIGHT), directory=str(folder),
        )  # fmt: skip
        cast("PerceiveReply", shared_options.run(request))
        return read_maps(folder).maps


def _check_paths(options: argparse.Namespace, record: Path, sources: Sequence[Path]) -> None:
    """Raise OutputError for another format, or where a source or a file that isn't Panoform's would be replaced."""
    if options.out.suffix.lower() != ".exr":
        raise OutputError(f"{options.out.name} is not an EXR.", "Name it .exr: other files can't store light.")
    if options.sheet and options.sheet.suffix.lower() != ".png":
        raise OutputError(f"{options.sheet.name} is not a PNG.", "Name it .png.")

    def is_own(path: Path) -> bool:
        try:
            earlier = json_file.read(record, _Record)
        except (OSError, ValueError):  # none, or another program's
            earlier = None
        if earlier is None or path == record:
            return earlier is not None
        return earlier.files.get(display_name(path.name)) == overwriting.sha256(path)

    targets = [options.out, record, *([options.sheet] if options.sheet else [])]
    overwriting.check(targets, is_own, sources, options.overwrite)
