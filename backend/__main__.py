"""`python -m panoform.backend` is `panoform`."""

import sys
from pathlib import Path

from .server import parent


def _guard(arguments: list[str]) -> None:
    """Start the guardian of a backend that Blender starts: before everything else is imported, which takes a second."""
    if "--parent-pipe" in arguments and "--connection-file" in arguments[:-1]:
        file = arguments[arguments.index("--connection-file") + 1]
        parent.guard(exit_after_s=parent.EXIT_AFTER_S, connection_file=Path(file))


if __name__ == "__main__":
    _guard(sys.argv)
    from .cli.main import main

    sys.exit(main())
