"""Train the model that completes views: `python -m panoform.backend.training.multiview COMMAND` (see --help of each).

train       train on objects that are rendered meanwhile; an interrupted run resumes
export      write the latest checkpoint as a model's folder
evaluate    compare completed views of unseen objects with the truth, and write a contact sheet
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from platformdirs import user_cache_path

from ....shared.protocol.errors import PanoformError
from .. import output


def _train(args: argparse.Namespace) -> None:
    import torch

    from . import fit

    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    fit.train(
        fit.Options(
            folder=args.data, device=device, size=args.size, batch=args.batch, pool=args.pool, fresh=args.fresh,
            every=args.every, minutes=args.minutes, every_minutes=args.save_every, compiled=device.type == "cuda",
            exact=args.exact,
        )
    )  # fmt: skip


def _export(args: argparse.Namespace) -> None:
    from . import fit

    output.check(args.out, overwrite=args.overwrite)
    fit.export(args.data, args.out, overwrite=args.overwrite)


def _evaluate(args: argparse.Namespace) -> None:
    from . import evaluate

    output.check(args.out, overwrite=args.overwrite)
    with output.file(args.out, overwrite=args.overwrite) as sheet:
        print(evaluate.evaluate(args.data, sheet, args.objects, args.size, exact=args.exact))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panoform.backend.training.multiview", description="Train the model that completes views."
    )
    data = user_cache_path("panoform-training", appauthor=False) / "multiview"
    parser.add_argument("--data", type=Path, default=data, help=f"folder for checkpoints (default: {data})")
    commands = parser.add_subparsers(required=True)

    train = commands.add_parser("train", help="train; resumes from the checkpoint")
    train.add_argument("--batch", type=int, default=32, help="objects per step")
    train.add_argument("--size", type=int, default=128, help="size of the views in pixels")
    train.add_argument("--pool", type=int, default=4096, help="objects that are kept")
    train.add_argument("--fresh", type=int, default=16, help="objects that are rendered together")
    train.add_argument("--every", type=int, default=8, help="steps between renderings")
    train.add_argument("--minutes", type=float, default=60, help="time limit, to which the learning rate falls")
    train.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints")
    train.add_argument("--device", help="default: cuda if available")
    _add_exact(train)
    train.add_argument("--threads", type=int, default=1, help="threads on the CPU")
    train.set_defaults(run=_train)

    export = commands.add_parser("export", help="write a model's folder from the checkpoints")
    export.add_argument("--out", type=Path, required=True)
    export.set_defaults(run=_export)

    evaluate = commands.add_parser("evaluate", help="compare views of unseen objects with the truth")
    evaluate.add_argument("--out", type=Path, required=True, help="PNG file to write: a contact sheet")
    evaluate.add_argument("--objects", type=int, default=64)
    evaluate.add_argument("--size", type=int, default=128)
    _add_exact(evaluate)
    evaluate.set_defaults(run=_evaluate)
    for command in (export, evaluate):
        output.add_overwrite(command)
    return parser


def _add_exact(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--exact", action="store_true", help="simpler objects, in closed form, which a CPU renders 30 times faster"
    )


def main(argv: list[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except PanoformError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
