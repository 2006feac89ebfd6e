"""`panoform evaluate`: compare an engine's maps with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ...shared.jobs.perceive import PerceiveSettings, check_perceive
from ...shared.maps import check_names
from . import options as shared_options
from .perceive import add_maps
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
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N scenes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from ..evaluation.evaluate import evaluate, table

    engine = shared_options.engine_settings(options)
    settings = PerceiveSettings(
        maps=check_names(options.maps), height=options.height, num_inference_steps=options.steps
    )
    check_perceive(settings)
    with Terminal() as terminal:
        evaluation = evaluate(options.data, engine, settings, terminal, options.limit)
    if options.json:
        shared_options.print_json(evaluation)
    else:
        print(table(evaluation))
    return 0
