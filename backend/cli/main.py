"""The command line `panoform`: one module per command. Torch is imported only when it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from ...shared.file_errors import name_error
from ...shared.protocol.errors import Cancelled, PanoformError
from . import batch, doctor, edit, evaluate, generate, light, mesh, models, perceive, serve, texture

COMMANDS = (perceive, batch, mesh, light, generate, edit, texture, evaluate, doctor, models, serve)
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return 0 on success, 1 on failure (reported on stderr), 2 on wrong usage, 130 if interrupted."""
    # Suppress its warnings about packages that FLUX does not use.
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
    except (OSError, ValueError) as error:
        if (told := name_error(error)) is None:
            raise
        print(f"panoform: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("panoform: stopped", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="panoform",
        description="Estimate maps of panoramas (distance, normals, materials), and generate panoramas, with FLUX.",
    )
    parser.add_argument("--version", action="version", version=f"panoform {metadata.version('panoform')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
