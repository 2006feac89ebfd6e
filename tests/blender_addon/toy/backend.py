"""`python backend.py [-m panoform.backend] ARGUMENTS`: the real command line and server, with the capability."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from panoform.backend.cli import main
from panoform.backend.jobs import registry
from toy import command
from toy.contract import AddRequest

if __name__ == "__main__":
    registry.register(AddRequest, "toy.job")
    main.COMMANDS = (*main.COMMANDS, command)
    arguments = sys.argv[1:]
    sys.exit(main.main(arguments[2:] if arguments[:1] == ["-m"] else arguments))
