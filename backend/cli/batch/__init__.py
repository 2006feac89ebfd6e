"""`panoform batch`: write maps of all panoramas in a folder, each to a result folder of its own."""

from __future__ import annotations

import argparse
from typing import Any

from ....shared.jobs import options as job_options
from ....shared.protocol.errors import SettingError
from .. import options as shared_options
from .. import perceive
from .plan import Plan, find


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = job_options.add_batch(commands)
    perceive.add_settings(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Return 1 if a panorama failed, after all others are done."""
    plan = _plan(options)
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
    if options.workers is not None and not options.ray:
        raise SettingError("--workers is for --ray.", "Add --ray auto, or leave out --workers.")
    return Plan(
        panoramas=find(options.folder),
        out=options.out.absolute(),
        engine=shared_options.engine_settings(options),
        settings=perceive.settings_of(options),
        overwrite=options.overwrite,
    )
