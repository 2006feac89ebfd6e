"""Options of batch on both command lines: `panoform` and `blender --command panoform`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..file_errors import display_name
from ..jobs.checks import check_range
from ..protocol.errors import SettingError
from . import farm, openjd
from .farm_job import FarmJob
from .panoramas import find, parse_part


def add(commands: Any) -> argparse.ArgumentParser:
    """Add the command to the subparsers, without the options of perception, and return its parser."""
    parser = commands.add_parser("batch", help="write maps of all panoramas in a folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of panoramas: EXR, HDR, PNG, JPEG …, 2:1")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="receives a result folder for each, and a summary"
    )
    parser.add_argument(
        "--ray",
        metavar="auto|HOST:PORT",
        help="share the work among workers of Ray, one for each GPU, of the cluster at this address (auto: at "
        "RAY_ADDRESS, else of this computer)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="with --ray: the number of workers")
    parser.add_argument(
        "--part",
        metavar="K/N",
        help="do only the K-th of N parts, and write no summary; the exit code is 0 where single panoramas fail: "
        "they are left to the run without --part",
    )
    parser.add_argument(
        "--job-template", choices=farm.KINDS, help="write a template of this work for a render farm, and do nothing"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="with --job-template: the file to write")
    parser.add_argument(
        "--per-task", type=int, metavar="N", help="with --job-template: panoramas for each task (default: 1)"
    )
    return parser


def check(options: argparse.Namespace) -> tuple[int, int] | None:
    """Return the part to do, None for all. Raise SettingError for options that don't go together."""
    for name, needed in (("workers", "ray"), ("to", "job_template"), ("per_task", "job_template")):
        if getattr(options, name) is not None and not getattr(options, needed):
            option, other = (f"--{text.replace('_', '-')}" for text in (name, needed))
            raise SettingError(f"{option} is for {other}.", f"Add {other}, or leave out {option}.")
    if options.job_template and options.to is None:
        raise SettingError("--job-template needs a file.", "Add --to FILE.")
    if options.job_template and (options.ray or options.part):
        raise SettingError("The tasks of a job template are parts, without Ray.", "Leave out --ray and --part.")
    check_range("The number of panoramas for each task", options.per_task, 1, 10**6)
    return parse_part(options.part) if options.part else None


def write_job_template(options: argparse.Namespace, command: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    """Write the template that `options` ask for, of `command` with these `arguments` (`FarmJob.options`).

    Raise InputError for a folder without panoramas, SettingError, OutputError.
    """
    # Without "..", which no template may hold; links stay, as other computers may have other ones.
    paths = (options.folder, options.out, options.to)
    panoramas, results, path = (Path(os.path.abspath(each)) for each in paths)  # noqa: PTH100
    sources = find(panoramas)
    count = len(sources)
    tasks = -(-count // (options.per_task or 1))
    job = FarmJob(command=command, options=arguments, panoramas=panoramas, results=results, tasks=tasks)
    farm.write(options.job_template, job, path, sources, overwrite=options.overwrite)
    print(f"Wrote {display_name(options.to)}: {job.tasks} tasks for {count} panoramas.", file=sys.stderr)
    if options.job_template == "openjd":
        folders = {"Panoramas": job.panoramas, "Results": job.results}
        given = [f"{name}={folder}" for name, folder in folders.items() if not openjd.is_below(folder, path)]
        if given:
            print(
                f"It is not beside these folders: submit it with {display_name(' and '.join(given))}.", file=sys.stderr
            )
