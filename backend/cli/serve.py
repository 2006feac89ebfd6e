"""`panoform serve`: the backend process, started by the add-on, or by a user for several Blenders or over SSH."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("serve", help="serve Blender (the add-on starts one of its own)")
    parser.add_argument(
        "--connection-file", type=Path, required=True, metavar="PATH", help="file to write the address and keys to"
    )
    parser.add_argument(
        "--port", type=int, default=0, metavar="N", help="port on 127.0.0.1, for a tunnel (default: any that is free)"
    )
    parser.add_argument("--parent-pipe", action="store_true", help="exit when stdin is closed")
    parser.add_argument("--warm-up", action="store_true", help="load what the first job needs while there is none")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from ..jobs import registry
    from ..server.server import serve

    warm_up = registry.WARM_UP if options.warm_up else ()
    return serve(options.connection_file, options.parent_pipe, warm_up=warm_up, port=options.port)
