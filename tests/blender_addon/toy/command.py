import argparse
from typing import Any

import numpy as np

from panoform.backend.cli import options as shared_options
from toy.contract import AddRequest


def add(commands: Any) -> None:
    parser = commands.add_parser("add", help="add numbers")
    parser.add_argument("numbers", type=float, nargs="+")
    parser.add_argument("--limit", type=float, default=1e6)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    request = AddRequest(numbers=np.array(options.numbers, np.float32), limit=options.limit)
    print(shared_options.run(request).total)
    return 0
