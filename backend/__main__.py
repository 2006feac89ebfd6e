"""`python -m panoform.backend` is `panoform`."""

import os
import sys
from pathlib import Path

from . import interrupts
from .server import parent


def _guard(arguments: list[str]) -> None:
    """Start the guardian of a backend that Blender starts: before everything else is imported, which takes a second.

    Exit with 1, and a line that says why, if it can't be started.
    """
    if "--parent-pipe" in arguments and "--connection-file" in arguments[:-1]:
        file = arguments[arguments.index("--connection-file") + 1]
        try:
            parent.guard(exit_after_s=parent.EXIT_AFTER_S, connection_file=Path(file))
        except OSError as error:
            sys.exit(
                "panoform: The process that ends the backend with Blender can't be started: "
                f"{error.strerror or error}. Close other programs, and try again."
            )


def main() -> int:
    """Run the command line, and return its exit code, also where Ctrl+C comes while its modules are imported."""
    interrupts.stop_at_once()
    _guard(sys.argv)
    from .cli import main as cli

    code = cli.main()
    if code == interrupts.INTERRUPTED:
        sys.stdout.flush()
        os._exit(code)  # Python's own end takes a second, in which another Ctrl+C would change the code
    return code


if __name__ == "__main__":
    sys.exit(main())
