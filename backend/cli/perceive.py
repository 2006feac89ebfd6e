"""`panoform perceive`: write maps of a panorama to a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ...shared.engines import EngineSettings
from ...shared.file_errors import display_name
from ...shared.jobs import options as job_options
from ...shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings, check_perceive
from ...shared.maps import DEFAULT_MAPS, MAPS, check_names
from . import options as shared_options


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("perceive", help="write maps of a panorama to a folder")
    parser.add_argument("panorama", type=Path, metavar="PANORAMA", help="EXR, HDR, PNG, JPEG, TIFF or WebP, 2:1")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="result folder")
    add_settings(parser)
    job_options.add_layer(parser)
    parser.add_argument("--json", action="store_true", help="print the record of the result as JSON on stdout")
    parser.set_defaults(run=run)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options of the engine and of perception."""
    add_maps(parser, f"any of {','.join(MAPS)} (default: the first five)")
    shared_options.add_engine(parser, "perceive")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the engine's)")
    parser.add_argument("--guidance", type=float, metavar="G", help="FLUX's guidance (default: the engine's)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed gives the same result (default: 0)"
    )
    parser.add_argument(
        "--height", type=int, metavar="H", help="height of the maps, a multiple of 16 (default: the engine's)"
    )
    add_approximations(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="also replace files that aren't Panoform's (never the source)"
    )
    parser.add_argument("--repair", action="store_true", help="replace NaN, infinite and negative pixels")


def add_approximations(parser: argparse.ArgumentParser) -> None:
    """Add the options of approximations, which are off by default."""
    parser.add_argument(
        "--cache", type=float, default=0.0, metavar="X",
        help="threshold of the first-block cache, as 0.1: faster, approximate (default: 0, off)",
    )  # fmt: skip
    parser.add_argument("--turbo", metavar="P", help="file, folder or hub id of a LoRA of FLUX for few steps")
    parser.add_argument("--turbo-scale", type=float, default=1.0, metavar="X", help="its scale (default: 1)")


def add_maps(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the option --maps."""
    parser.add_argument(
        "--maps", type=lambda text: tuple(text.split(",")), default=DEFAULT_MAPS, metavar="A,B", help=help
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    # First all checks that do not need torch.
    engine = shared_options.engine_settings(options)
    job = request(
        options.panorama, options.out, engine, settings_of(options),
        [options.panorama, *shared_options.weights(options)],
        overwrite=options.overwrite, layer=options.layer,
    )  # fmt: skip
    info = cast("PerceiveReply", shared_options.run(job)).info
    if options.json:
        shared_options.print_json(info)
    for notice in filter(None, (*info.source_notes, info.notice)):
        print(notice, file=sys.stderr)
    print(
        f"Wrote {', '.join(info.maps)} to {display_name(options.out)} in {info.seconds['all']:.0f} s.", file=sys.stderr
    )
    return 0


def settings_of(options: argparse.Namespace) -> PerceiveSettings:
    """Return the settings from the options. Raise SettingError if they are invalid."""
    settings = PerceiveSettings(
        maps=check_names(options.maps),
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        seed=options.seed,
        height=options.height,
        repair=options.repair,
        cache=options.cache,
        turbo=options.turbo,
        turbo_scale=options.turbo_scale,
    )
    check_perceive(settings)
    return settings


def request(
    source: Path,
    directory: Path,
    engine: EngineSettings,
    settings: PerceiveSettings,
    sources: Sequence[Path],
    *,
    overwrite: bool,
    layer: str = "",
) -> PerceiveRequest:
    """Return the request for a panorama file (of an EXR, `layer`) and a result folder, which replaces no `sources`.

    Raise PanoramaError, OutputError.
    """
    from ..io import panoramas, results

    height = settings.height or max(quality.height for quality in engine.spec.qualities.values())
    panorama, encoding, source_size, notes = panoramas.read_reduced(source, height, repair=settings.repair, layer=layer)
    results.check_folder(directory, settings.maps, sources, overwrite)
    return PerceiveRequest(
        panorama=panorama, encoding=encoding, source_size=source_size, source=display_name(source.name),
        source_notes=notes,
        engine=engine, settings=settings, directory=str(directory.absolute()), overwrite=overwrite,
    )  # fmt: skip
