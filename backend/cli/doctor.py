"""`panoform doctor`: what is installed, and whether an engine can run."""

from __future__ import annotations

import argparse
from typing import Any

from . import options as shared_options


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("doctor", help="show what is installed and whether an engine can run")
    shared_options.add_engine(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from .diagnosis import diagnose, lines

    found = diagnose(shared_options.engine_settings(options))
    if options.json:
        shared_options.print_json(found)
    else:
        print("\n".join(lines(found)))
    return 1 if found.problems else 0
