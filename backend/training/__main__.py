"""Makes the starter: `python -m panoform.backend.training COMMAND` (see --help of each).

render   scenes and their ground truth into DATA/HEIGHT/train, …/heldout (same generator) and …/second (another one)
train    the VAE, then transformer, adapters and prompt; goes on from DATA/checkpoints after any stop
export   the latest checkpoints as a starter folder, with mean-maps for `panoform evaluate`
look     a contact sheet of a starter's maps of real panoramas
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from ...shared.protocol.errors import PanoformError

if TYPE_CHECKING:
    from . import run

#: Split → first seed; seeds of different splits never meet.
SPLITS = {"train": 0, "heldout": 1_000_000, "second": 2_000_000}


def _render(args: argparse.Namespace) -> None:
    from .scenes import catalogue, render, second

    # Cycles writes a line a sample.
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    build = second.build if args.split == "second" else catalogue.build
    start = time.monotonic()
    done = 0
    first = SPLITS[args.split] + args.first
    for seed in range(first + args.worker, first + args.count, args.workers):
        if render.render_scene(args.data / str(args.height) / args.split, build, seed, args.height, args.samples):
            done += 1
            print(
                f"{args.split} {seed}: {(time.monotonic() - start) / done:.1f} s a scene", file=sys.stderr, flush=True
            )


def _options(args: argparse.Namespace, **more: int) -> run.Options:
    from . import run

    return run.Options(
        data=args.data, height=args.height, device=args.device, threads=args.threads, batch=args.batch,
        minutes=args.minutes, every_minutes=args.every, start=args.start, **more,
    )  # fmt: skip


def _train(args: argparse.Namespace) -> None:
    from . import fit, workers

    names = ("vae_steps", "perceiver_steps", "variants", "pixels_every")
    workers.run(args.processes, fit.train, _options(args, **{name: getattr(args, name) for name in names}))


def _export(args: argparse.Namespace) -> None:
    from . import export, run, workers

    export.export(run.prepare(_options(args), workers.Workers()), args.out, trained=args.trained)


def _mean_maps(args: argparse.Namespace) -> None:
    from . import export

    export.write_mean_maps(args.data / str(args.height) / "train", args.height, args.out)


def _look(args: argparse.Namespace) -> None:
    from . import look

    look.look(args.starter, args.out, args.height)


def _add_run(parser: argparse.ArgumentParser, run) -> None:
    parser.add_argument("--minutes", type=float, default=1e6, help="how long at most")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--height", type=int, default=256, help="of what the model is shown")
    parser.add_argument("--start", type=Path, help="a starter folder to go on from; its VAE is kept")
    parser.add_argument("--device", help="default: cuda where there is one")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.set_defaults(run=run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m panoform.backend.training", description="Makes the starter.")
    data = user_cache_path("panoform-training", appauthor=False)
    parser.add_argument("--data", type=Path, default=data, help=f"where scenes and checkpoints are kept ({data})")
    commands = parser.add_subparsers(required=True)

    render = commands.add_parser("render", help="render scenes with Cycles (needs bpy); skips what is there")
    render.add_argument("--split", choices=SPLITS, default="train")
    render.add_argument("--count", type=int, required=True, help="how many scenes")
    render.add_argument("--first", type=int, default=0, help="the first one's number; later ones are other scenes")
    render.add_argument("--height", type=int, default=256)
    render.add_argument("--samples", type=int, default=8)
    render.add_argument("--worker", type=int, default=0, help="this process's number, from 0")
    render.add_argument("--workers", type=int, default=1, help="how many processes share the work")
    render.set_defaults(run=_render)

    train = commands.add_parser("train", help="train both stages; goes on from their checkpoints")
    train.add_argument("--vae-steps", type=int, default=20_000, help="the learning rate falls to zero there")
    train.add_argument("--perceiver-steps", type=int, default=60_000, help="the same for the second stage")
    train.add_argument("--processes", type=int, default=1, help="how many train together, each with --batch")
    train.add_argument("--variants", type=int, default=2, help="how many augmentations of a scene are encoded")
    train.add_argument(
        "--pixels-every",
        type=int,
        default=8,
        help="every how many steps pictures are new, and the decoder draws; 1 on a GPU",
    )
    _add_run(train, _train)

    export = commands.add_parser("export", help="write a starter folder from the checkpoints")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--trained", action="store_true", help="only when the figures are good enough to say so")
    _add_run(export, _export)

    mean = commands.add_parser("mean-maps", help="write the mean maps of the training scenes (evaluate's baseline)")
    mean.add_argument("--out", type=Path, required=True)
    mean.add_argument("--height", type=int, default=256)
    mean.set_defaults(run=_mean_maps)

    look = commands.add_parser("look", help="a contact sheet of a starter's maps of the panoramas inside bpy")
    look.add_argument("--starter", type=Path, help="its folder (the built-in one)")
    look.add_argument("--out", type=Path, required=True, help="PNG")
    look.add_argument("--height", type=int, default=256)
    look.set_defaults(run=_look)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except PanoformError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
