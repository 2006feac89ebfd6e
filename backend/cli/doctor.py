"""`panoform doctor`: what is installed, and whether an engine can run."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...shared.engines import ENGINES
from . import options as shared_options

if TYPE_CHECKING:
    from ..inventory.diagnosis import Diagnosis


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("doctor", help="show what is installed and whether an engine can run")
    shared_options.add_engine(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from ..inventory.diagnosis import diagnose

    found = diagnose(shared_options.engine_settings(options))
    if options.json:
        shared_options.print_json(found)
    else:
        print("\n".join(lines(found)))
    return 1 if found.problems else 0


def lines(found: Diagnosis) -> Iterator[str]:
    """Yield the lines that `panoform doctor` prints."""
    yield f"Engine    {ENGINES[found.engine].label}"
    if found.model:
        yield f"Model     {found.model}{'' if found.trained else ' (untrained)'}"
    for part in found.parts:
        yield f"  {part.name:16} {part.parameters / 1e6:,.1f} M parameters, {part.dtype}, {_size(part.bytes)}"
    if found.parts:
        yield f"Prompt    {found.prompt or 'not encoded, and no text encoders'}"
        yield f"Adapters  {found.adapters}"
    for line in found.streams:
        what = f"modules, rank {line.rank}" if line.rank else "tensors"
        summary = f"{line.filled} of {line.modules} {what}, {line.dtype}, {_size(line.bytes)}"
        name = f"{line.task}/{line.stream}" if line.stream else line.task
        yield f"  {name:24} {summary if line.file else 'missing'}"
    if found.device:
        memory = f"{_size(found.memory_free)} of {_size(found.memory_total)} free"
        yield f"Device    {found.device}, {found.dtype}, {memory}"
    if found.memory_needed:
        less = found.memory_needed < found.memory_everything
        yield f"          needs {'at least ' if less else ''}about {_size(found.memory_needed)}" + (
            f"; {_size(found.memory_everything)} with all weights on the device" if less else ""
        )
    for problem in found.problems:
        yield f"Problem   {problem}"
    yield "This engine can't run." if found.problems else "This engine can run."


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"
