"""Do a batch in the process of the command."""

from __future__ import annotations

import time

from ....shared.file_errors import display_name
from ..terminal import Terminal
from .plan import Plan
from .report import Report
from .work import Failure, Work


def run(plan: Plan, report: Report) -> None:
    """Do all panoramas, in order. Raise the error of one that all others would share, and Cancelled."""
    with Terminal(stages=False) as terminal:
        work = Work(plan, terminal)
    for source in plan.sources:
        began = time.monotonic()
        with Terminal(stages=False) as terminal:
            terminal.progress(display_name(source.name), 0, 0, 0.0, None)
            outcome = work.do(source, terminal)
        report.add(source, outcome, time.monotonic() - began)
        if isinstance(outcome, Failure) and outcome.ends_batch:
            raise outcome.error
