"""`panoform batch`: write maps of all panoramas in a folder, each to a result folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ....shared.batch import options as batch_options
from ....shared.batch.panoramas import find
from .. import options as shared_options
from .. import perceive
from .plan import Plan

_VALUES = (
    "engine", "model", "adapters", "device", "dtype", "offload", "memory", "attention", "steps", "guidance", "seed",
    "height", "cache", "turbo", "turbo_scale",
)  # fmt: skip
_FLAGS = ("record_paths", "compile", "overwrite", "repair")


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = batch_options.add(commands)
    perceive.add_settings(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Return 1 if a panorama failed, after all others are done; a part leaves that to the summary."""
    plan = _plan(options)
    if options.job_template:
        batch_options.write_job_template(options, ("panoform", "batch"), tuple(_arguments(options)))
        return 0
    from ...io import summary
    from .report import Report

    summary.check(plan.out, overwrite=plan.overwrite)
    report = Report(plan)
    try:
        if options.ray:
            from . import ray_workers

            ray_workers.run(plan, report, options.ray, options.workers)
        else:
            from . import one_process

            one_process.run(plan, report)
    finally:
        report.write()
    return report.exit_code


def _plan(options: argparse.Namespace) -> Plan:
    """Return what the options ask for, checked as far as that needs no torch. Raise SettingError, InputError."""
    part = batch_options.check(options)
    return Plan(
        panoramas=find(options.folder),
        part=part,
        out=options.out.absolute(),
        engine=shared_options.engine_settings(options),
        settings=perceive.settings_of(options),
        overwrite=options.overwrite,
    )


def _arguments(options: argparse.Namespace) -> list[str]:
    """Return the options of perception as arguments, all that are given or have a default."""
    values: dict[str, Any] = {name: getattr(options, name) for name in _VALUES} | {"maps": ",".join(options.maps)}
    for name in ("model", "adapters", "turbo"):  # the tasks run in other folders
        if values[name] and Path(values[name]).exists():
            values[name] = Path(values[name]).absolute()
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]
    return arguments + [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(options, name)]
