"""Report a batch: a line for each panorama, the summary, and the exit code."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from ....shared.file_errors import display_name
from ...io import summary
from .plan import Plan
from .work import Done, Failure


class Report:
    """What became of the panoramas of a batch, in whatever order they are done."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._rows: dict[Path, summary.Row] = {}
        self._stdout = sys.stdout  # whatever is written there meanwhile (ray_cluster)

    def add(self, source: Path, outcome: Done | Failure, seconds: float) -> None:
        """Print the line of a panorama, which took `seconds`, and the traceback of an unexpected error."""
        row = self._rows[source] = self._row(source, outcome)
        if isinstance(outcome, Failure) and outcome.details:
            print(outcome.details, end="", file=sys.stderr)
        if isinstance(outcome, Failure) and outcome.ends_batch:
            return  # the command ends with this error
        count = f"[{len(self._rows)}/{len(self._plan.sources)}]"
        print(f"{count} {display_name(source.name)}: {_line(row, seconds)}", file=self._stdout, flush=True)

    def write(self) -> None:
        """Write the summary, unless this is a part, and print how many panoramas were done. Raise OutputError."""
        rows = [self._rows[source] for source in self._plan.sources if source in self._rows]
        if not rows:
            return  # the error that stopped the batch is told
        if self._plan.part is None:  # parts may be done at the same time
            summary.write(self._plan.out, rows, overwrite=self._plan.overwrite)
        count = Counter(row.status for row in rows)
        print(", ".join(f"{number} {status}" for status, number in count.items()), file=sys.stderr)

    @property
    def exit_code(self) -> int:
        """1 if a panorama failed, else 0.

        0 for a part: a farm stops the job where a task fails, and the run for the summary tries that panorama again.
        """
        return int(self._plan.part is None and any(row.status == "failed" for row in self._rows.values()))

    def _row(self, source: Path, outcome: Done | Failure) -> summary.Row:
        row = summary.Row(
            panorama=display_name(source.name),
            status="failed",
            folder=display_name(self._plan.panoramas[source]),
            engine=self._plan.engine.engine,
        )
        if isinstance(outcome, Failure):
            row.error = " ".join(str(outcome.error).split())
        else:
            row.status = "finished earlier" if outcome.earlier else "written"
            row.maps, row.seconds = tuple(outcome.info.maps), outcome.info.seconds["all"]
        return row


def _line(row: summary.Row, seconds: float) -> str:
    match row.status:
        case "written":
            return f"{', '.join(row.maps)} in {seconds:.0f} s"
        case "finished earlier":
            return "skipped, finished earlier"
        case _:
            return f"failed: {row.error}"
