"""Several processes that train one model: each takes batches of its own, their gradients are averaged at every step.

On CPUs this uses the cores better than threads do: most of FLUX's operations at this size are too small to be shared.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn


@dataclass(frozen=True)
class Workers:
    """One process's place among `count`; the first speaks and writes for all."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Every process must have gradients of the same parameters."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        self.add_up(gradients)
        for gradient in gradients:
            gradient /= self.count

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in which they have the same shapes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, stop: bool) -> bool:
        """Whether any process wants to stop."""
        if self.count == 1:
            return stop
        flag = torch.tensor(float(stop))
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _enter(rank: int, count: int, meeting: str, work: Callable[[Workers, Any], None], argument: Any) -> None:
    # A process that is killed can't end its children.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.distributed.init_process_group("gloo", init_method=f"file:///{meeting}", rank=rank, world_size=count)
    try:
        work(Workers(rank, count), argument)
    finally:
        torch.distributed.destroy_process_group()


def run(count: int, work: Callable[[Workers, Any], None], argument: Any) -> None:
    """Call `work(workers, argument)`, both importable, in `count` processes; in this one if there is but one."""
    if count == 1:
        return work(Workers(), argument)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        meeting = (Path(folder) / "meeting").as_posix().lstrip("/")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        spawn(_enter, (count, meeting, work, argument), nprocs=count)
