"""`panoform serve`: the backend process that the add-on starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("serve", help="serve Blender (started by the add-on)")
    parser.add_argument(
        "--connection-file", type=Path, required=True, metavar="PATH", help="written with address and keys"
    )
    parser.add_argument("--parent-pipe", action="store_true", help="end when stdin ends")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from ..server.server import serve

    return serve(options.connection_file, options.parent_pipe)
