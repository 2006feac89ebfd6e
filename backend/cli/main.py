"""The command line `panoform`: one module per command. Torch is imported only when it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from ...shared.file_errors import system_error
from ...shared.protocol.errors import Cancelled, PanoformError
from ..interrupts import INTERRUPTED, stopping_in_order
from . import batch, doctor, edit, evaluate, generate, light, mesh, models, perceive, serve, texture

COMMANDS = (perceive, batch, mesh, light, generate, edit, texture, evaluate, doctor, models, serve)
#: What shells report of a program whose reader left, as of `panoform models | head -1`.
CLOSED = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return 0 on success, 1 on failure (reported on stderr), 2 on wrong usage, 130 if interrupted."""
    # Suppress its warnings about packages that FLUX does not use.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # torch's threads sleep while they wait for each other. By default they spin, which takes the processors from
    # Blender and from each other: where other programs compute, a job takes four times the processor time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _open_streams()
    try:
        options = _parser().parse_args(arguments)
        with stopping_in_order():
            code = options.run(options)
        sys.stdout.flush()  # here, where an error can be told
        return code
    except Cancelled as error:
        print(f"panoform: {error}", file=sys.stderr)
        return INTERRUPTED
    except PanoformError as error:
        print(f"panoform: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return CLOSED
    except (OSError, ValueError, MemoryError) as error:
        if (told := system_error(error)) is None:
            raise
        print(f"panoform: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("panoform: stopped", file=sys.stderr)
        return INTERRUPTED
    finally:
        _drop_unwritten()


def _open_streams() -> None:
    """Let all three streams exist, also where the caller closed them, and take any text."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = Path(os.devnull).open("r" if descriptor == 0 else "w")  # noqa: SIM115 (until the end)
            setattr(sys, name, opened)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # pyright: ignore[reportAttributeAccessIssue]


def _drop_unwritten() -> None:
    """Drop what stdout can't take, which Python would try to write again at its end, and print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = None


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
