"""What test_training_workers has each process do; spawned processes import it."""

import os
import sys
import threading
from pathlib import Path

import torch
from safetensors.torch import save_file

from panoform.backend.training.workers import Workers, run


def inputs() -> torch.Tensor:
    return torch.linspace(-1, 1, 12).reshape(4, 3)


def model() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def average(workers: Workers, folder: Path) -> None:
    """Half of the inputs each; what both have in the end is written to a file a process."""
    linear = model()
    linear(inputs().chunk(2)[workers.rank]).square().mean().backward()
    workers.average_gradients(linear)
    stop = workers.agree(workers.rank == 1)
    state = {name: parameter.grad for name, parameter in linear.named_parameters()} | {"stop": torch.tensor(stop)}
    save_file(state, folder / f"{workers.rank}.safetensors")


def wait(workers: Workers, folder: Path) -> None:
    """For ever, once the file tells that this process is there."""
    (folder / str(workers.rank)).write_text(str(os.getpid()), "utf-8")
    threading.Event().wait()


if __name__ == "__main__":
    run(2, wait, Path(sys.argv[1]))
