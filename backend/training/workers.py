"""Data-parallel training in several processes: each has its own batches, and gradients are averaged at every step.

On CPUs this uses the cores better than threads, as most of FLUX's operations at this size are too small to parallelise.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from ...shared.atomic_write import drafts


@dataclass(frozen=True)
class Workers:
    """The rank of a process among `count`; only the first prints and writes files."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients over all processes, which must have gradients of the same parameters."""
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        self.all_reduce(gradients)
        for gradient in gradients:
            gradient /= self.count

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; shapes must be equal in all of them."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, stop: bool) -> bool:
        """Return whether `stop` is true in any process."""
        if self.count == 1:
            return stop
        flag = torch.tensor(float(stop))
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            torch.distributed.barrier()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_worker(rank: int, count: int, rendezvous: str, work: Callable[[Workers, Any], None], argument: Any) -> None:
    # Exit with the parent, even if it is killed and can't terminate its children.
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.distributed.init_process_group("gloo", init_method=f"file:///{rendezvous}", rank=rank, world_size=count)
    try:
        work(Workers(rank, count), argument)
    finally:
        torch.distributed.destroy_process_group()


def run(count: int, work: Callable[[Workers, Any], None], argument: Any) -> None:
    """Call `work(workers, argument)`, both picklable, in `count` processes; for one, in this process."""
    if count == 1:
        return work(Workers(), argument)
    with drafts() as folder:
        rendezvous = (folder / "rendezvous").as_posix().lstrip("/")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        spawn(_run_worker, (count, rendezvous, work, argument), nprocs=count)
