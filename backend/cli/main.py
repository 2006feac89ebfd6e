"""The command line `panoform`: one module a command. Torch is imported only once it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from ...shared.protocol.errors import Cancelled, PanoformError
from . import doctor, edit, evaluate, generate, perceive, serve

COMMANDS = (perceive, generate, edit, evaluate, doctor, serve)
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return 0 done, 1 refused or failed (reported on stderr), 2 wrong usage, 130 interrupted."""
    # Its warnings about packages that FLUX does not use would stand between our messages.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except Cancelled as error:
        print(f"panoform: {error}", file=sys.stderr)
        return INTERRUPTED
    except PanoformError as error:
        print(f"panoform: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("panoform: stopped", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="panoform", description="Maps of a panorama by FLUX: distance, normals, materials."
    )
    parser.add_argument("--version", action="version", version=f"panoform {metadata.version('panoform')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
