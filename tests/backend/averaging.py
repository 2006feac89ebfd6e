"""Functions of the processes in training/test_workers.py, in a module that spawned processes can import."""

import os
import sys
import threading
from pathlib import Path

import torch
from safetensors.torch import save_file

from panoform.backend.training.muon import Muon
from panoform.backend.training.workers import Workers, run


def inputs() -> torch.Tensor:
    return torch.linspace(-1, 1, 12).reshape(4, 3)


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))


def parameters_after_step(module: torch.nn.Module, workers: Workers) -> dict[str, torch.Tensor]:
    """Return the parameters after one optimiser step."""
    optimizer = Muon(module, workers=workers)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def average(workers: Workers, folder: Path) -> None:
    """Train on half of the inputs per process; write each one's gradients and parameters to a file."""
    module = model()
    module(inputs().chunk(2)[workers.rank]).square().mean().backward()
    workers.average_gradients(module)
    stop = workers.agree(workers.rank == 1)
    state = {f"gradient {name}": parameter.grad for name, parameter in module.named_parameters()}
    save_file(
        state | parameters_after_step(module, workers) | {"stop": torch.tensor(stop)},
        folder / f"{workers.rank}.safetensors",
    )


def wait(workers: Workers, folder: Path) -> None:
    """Write this process's id to a file, then wait for ever."""
    (folder / str(workers.rank)).write_text(str(os.getpid()), "utf-8")
    threading.Event().wait()


if __name__ == "__main__":
    run(2, wait, Path(sys.argv[1]))
