"""`panoform evaluate`: compare an engine's maps with ground truth, or with those of the same seed at other settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...shared.batch import panoramas
from ...shared.engines import EngineSettings
from ...shared.jobs.perceive import PerceiveSettings, check_perceive
from ...shared.maps import check_names
from ...shared.protocol.errors import SettingError
from . import options as shared_options
from .perceive import add_approximations, add_maps
from .terminal import Terminal


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("evaluate", help="compare an engine and two baselines with ground truth")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder with a sub-folder per scene (docs/headless.md)"
    )
    add_maps(parser, "as for perceive")
    shared_options.add_engine(parser, "perceive")
    parser.add_argument("--height", type=int, metavar="N", help="height of the maps in pixels (default: the engine's)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the engine's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    add_approximations(parser)
    parser.add_argument(
        "--against", metavar="SETTINGS",
        help="compare with maps of the same seed at these settings, as steps=50, instead of with ground truth; what "
        "they don't name is off. DIR may be a folder of panoramas then",
    )  # fmt: skip
    parser.add_argument(
        "--compare", action="append", metavar="SETTINGS",
        help="with --against: what is compared, as steps=8,cache=0.1; may be repeated (default: --steps, --cache …)",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N scenes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    engine = shared_options.engine_settings(options)
    settings = PerceiveSettings(
        maps=check_names(options.maps), height=options.height, num_inference_steps=options.steps, seed=options.seed,
        cache=options.cache, turbo=options.turbo, turbo_scale=options.turbo_scale,
    )  # fmt: skip
    check_perceive(settings)
    if options.compare and not options.against:
        raise SettingError("--compare needs --against.", "Give what to compare with, as --against steps=50.")
    if options.compare and settings != PerceiveSettings(maps=settings.maps, height=settings.height, seed=settings.seed):
        raise SettingError(
            "With --compare, the options --steps, --cache, --turbo and --turbo-scale are not used.",
            "Name them in the settings, as --compare steps=8,cache=0.1.",
        )
    if options.limit is not None and options.limit < 1:
        raise SettingError(f"The limit is {options.limit}.", "Use 1 or more.")
    if options.against:
        return _compare(options, engine, settings)
    from ..evaluation.evaluate import evaluate, table

    with Terminal() as terminal:
        evaluation = evaluate(options.data, engine, settings, terminal, options.limit)
    if options.json:
        shared_options.print_json(evaluation)
    else:
        print(table(evaluation))
    return 0


def _compare(options: argparse.Namespace, engine: EngineSettings, settings: PerceiveSettings) -> int:
    from ..evaluation import against

    scenes = sorted(options.data.glob("*/panorama.exr"))
    files = (scenes or list(panoramas.find(options.data)))[: options.limit]
    variants = [against.changed(settings, text) for text in options.compare or []] or [settings]
    with Terminal() as terminal:
        comparison = against.compare(files, engine, against.changed(settings, options.against), variants, terminal)
    if options.json:
        shared_options.print_json(comparison)
    else:
        print(against.table(comparison))
    return 0
