"""Train the starter model: `python -m panoform.backend.training COMMAND` (see --help of each).

render      render scenes and their ground truth into DATA/HEIGHT/train, …/heldout (both of the same generator) and
            …/second (of another one)
train       train the VAE, then transformer, adapters and prompt; an interrupted run resumes from DATA/checkpoints
export      write the latest checkpoints as a starter folder, with the mean maps for `panoform evaluate`
mean-maps   write these mean maps alone
look        write a contact sheet of a starter's maps of real panoramas
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
from . import output

if TYPE_CHECKING:
    from . import run

#: Split → first seed; the ranges of seeds don't overlap.
SPLITS = {"train": 0, "heldout": 1_000_000, "second": 2_000_000}


def _render(args: argparse.Namespace) -> None:
    from .scenes import catalogue, render, second

    # Cycles prints a line per sample.
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    build = second.build if args.split == "second" else catalogue.build
    start = time.monotonic()
    done = 0
    first = SPLITS[args.split] + args.first
    for seed in range(first + args.worker, first + args.count, args.workers):
        if render.render_scene(args.data / str(args.height) / args.split, build, seed, args.height, args.samples):
            done += 1
            print(f"{args.split} {seed}: {(time.monotonic() - start) / done:.1f} s/scene", file=sys.stderr, flush=True)


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

    output.check(args.out, overwrite=args.overwrite)
    made = run.prepare(_options(args), workers.Workers())
    export.export(made, args.out, trained=args.trained, overwrite=args.overwrite)


def _mean_maps(args: argparse.Namespace) -> None:
    from . import export

    output.check(args.out, overwrite=args.overwrite)
    export.write_mean_maps(args.data / str(args.height) / "train", args.height, args.out, overwrite=args.overwrite)


def _look(args: argparse.Namespace) -> None:
    from . import look

    output.check(args.out, overwrite=args.overwrite)
    look.look(args.starter, args.out, args.height, overwrite=args.overwrite)


def _add_run(parser: argparse.ArgumentParser, run) -> None:
    parser.add_argument("--minutes", type=float, default=1e6, help="time limit")
    parser.add_argument("--batch", type=int, default=8, help="panoramas per step and process")
    parser.add_argument("--every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--height", type=int, default=256, help="height of the panoramas that the model is trained on")
    parser.add_argument("--start", type=Path, help="starter folder to continue from; its VAE is kept")
    parser.add_argument("--device", help="default: cuda if available")
    parser.add_argument("--threads", type=int, default=1, help="threads on the CPU")
    parser.set_defaults(run=run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m panoform.backend.training", description="Train the starter model.")
    data = user_cache_path("panoform-training", appauthor=False)
    parser.add_argument("--data", type=Path, default=data, help=f"folder for scenes and checkpoints (default: {data})")
    commands = parser.add_subparsers(required=True)

    render = commands.add_parser("render", help="render scenes with Cycles (needs bpy); existing ones are skipped")
    render.add_argument("--split", choices=SPLITS, default="train")
    render.add_argument("--count", type=int, required=True, help="number of scenes")
    render.add_argument("--first", type=int, default=0, help="number of the first scene")
    render.add_argument("--height", type=int, default=256)
    render.add_argument("--samples", type=int, default=8)
    render.add_argument("--worker", type=int, default=0, help="index of this process, from 0")
    render.add_argument("--workers", type=int, default=1, help="number of processes that share the work")
    render.set_defaults(run=_render)

    train = commands.add_parser("train", help="train both stages; resumes from their checkpoints")
    train.add_argument(
        "--vae-steps",
        type=int,
        default=20_000,
        help="steps of the first stage, over which the learning rate decays to zero",
    )
    train.add_argument("--perceiver-steps", type=int, default=60_000, help="steps of the second stage")
    train.add_argument("--processes", type=int, default=1, help="number of processes, each with --batch")
    train.add_argument("--variants", type=int, default=2, help="augmentations per scene whose latents are cached")
    train.add_argument(
        "--pixels-every",
        type=int,
        default=8,
        help="interval of steps with new augmentations and the VAE's decoder; 1 on a GPU",
    )
    _add_run(train, _train)

    export = commands.add_parser("export", help="write a starter folder from the checkpoints")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--trained", action="store_true", help="mark the model as trained: no warning in its results")
    _add_run(export, _export)

    mean = commands.add_parser("mean-maps", help="write the mean maps of the training scenes, a baseline of evaluate")
    mean.add_argument("--out", type=Path, required=True)
    mean.add_argument("--height", type=int, default=256)
    mean.set_defaults(run=_mean_maps)

    look = commands.add_parser(
        "look", help="write a contact sheet of a starter's maps of the panoramas that ship with bpy"
    )
    look.add_argument("--starter", type=Path, help="starter folder (default: the built-in one)")
    look.add_argument("--out", type=Path, required=True, help="PNG file to write")
    look.add_argument("--height", type=int, default=256)
    look.set_defaults(run=_look)
    for command in (export, mean, look):
        output.add_overwrite(command)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except PanoformError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
