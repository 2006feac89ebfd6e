"""Checkpoints: model, averaged weights, optimiser state and step in one safetensors file, written atomically."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...shared.protocol.errors import WeightsError
from ..io import atomic
from ..models import weights


class Average:
    """Exponential moving average of a module's weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Add the weights after `step` steps to the average."""
        # In early steps a shorter average, which forgets the random initialisation.
        decay = min(self.decay, step / (step + 10))
        state = module.state_dict()
        get_ema_multi_avg_fn(decay)(list(self.weights.values()), [state[key] for key in self.weights], None)


def save(path: Path, step: int, module: nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint at `path` atomically; if writing fails, the old one remains. Raise OutputError."""
    tensors: dict[str, Tensor] = {f"model.{key}": value for key, value in module.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in average.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    with atomic.writing(path.parent) as draft:
        kept = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        try:
            save_file(kept, draft / path.name, {"step": str(step)})
        except SafetensorError as error:  # safetensors reports failed writes as this too
            raise OSError(f"{path.name} could not be written ({error})") from error


def load(path: Path, module: nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> int:
    """Load a checkpoint in place; return its step, 0 where there is none. Raise WeightsError if it is damaged."""
    if not path.exists():
        return 0
    with weights.opened(path, WeightsError, "Delete it to start again.", "is damaged") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        step = int(file.metadata()["step"])

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    module.load_state_dict(part("model."))
    for key, value in part("average.").items():
        average.weights[key].copy_(value)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return step
