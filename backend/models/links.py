"""Copies from main memory to a device beside the computation."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

#: Main memory that is left to others, in bytes.
_KEPT_FREE = 2 * 2**30


def exist(device: torch.device) -> bool:
    """Return whether a device has memory of its own, which weights reach over a link."""
    return device.type == "cuda"


def to(device: torch.device, budget: int | None = None) -> Link:
    """Return the link to a device with memory of its own, of which the process takes at most `budget` bytes."""
    return CudaLink(device, budget)


class Link(Protocol):
    """Carries tensors from main memory to a device. Buffers are one-dimensional, uint8."""

    device: torch.device

    def host_buffer(self, count: int) -> Tensor:
        """Return a buffer of `count` bytes in main memory that copies are fastest from, until `free`."""
        ...

    def host_memory(self) -> int:
        """Return how many bytes of main memory host buffers may take now."""
        ...

    def free(self, buffer: Tensor) -> None:
        """Return the buffer to the system, once nothing refers to it."""
        ...

    def fetch(self, pairs: list[tuple[Tensor, Tensor]], after: Any) -> Any:
        """Start copying each (host buffer, device buffer), in order, once the computation up to `after` has ended.

        Return a ticket for `wait`. `after` is a `mark`, or None.
        """
        ...

    def wait(self, ticket: Any) -> None:
        """Let what is computed from here on wait until the copies have arrived."""
        ...

    def mark(self) -> Any:
        """Mark what has been issued for computation so far."""
        ...

    def drain(self) -> None:
        """Return when no copy and no computation is under way."""
        ...

    def available(self) -> int:
        """Return how many bytes of the device's memory could be allocated now."""
        ...

    def release(self) -> None:
        """Give the device's memory that nothing uses back to it, for other programs."""
        ...


class CudaLink:
    """A CUDA or ROCm GPU: page-locked memory, and a stream of its own for copies."""

    def __init__(self, device: torch.device, budget: int | None = None) -> None:
        self._budget = budget
        self.device = torch.device(device.type, torch.cuda.current_device() if device.index is None else device.index)
        self._stream = torch.cuda.Stream(self.device)
        #: Addresses of the page-locked buffers.
        self._locked: set[int] = set()

    def host_buffer(self, count: int) -> Tensor:
        """Return a buffer that is page-locked where the system allows so much; else copies from it are slower."""
        # Tensor.pin_memory would round the size up to a power of two.
        buffer = torch.empty(count, dtype=torch.uint8)
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self.device):
            if int(runtime.cudaHostRegister(buffer.data_ptr(), count, 0)) == 0:
                self._locked.add(buffer.data_ptr())
            else:
                # CUDA keeps the error until a kernel has reported it.
                with suppress(RuntimeError):
                    torch.zeros(1, device=self.device)
        return buffer

    def host_memory(self) -> int:
        return psutil.virtual_memory().available - _KEPT_FREE

    def free(self, buffer: Tensor) -> None:
        if buffer.data_ptr() in self._locked:
            self._locked.remove(buffer.data_ptr())
            runtime: Any = torch.cuda.cudart()
            with torch.cuda.device(self.device):
                runtime.cudaHostUnregister(buffer.data_ptr())

    def fetch(self, pairs: list[tuple[Tensor, Tensor]], after: Any) -> Any:
        if after is not None:
            self._stream.wait_event(after)
        with torch.cuda.stream(self._stream):
            for source, target in pairs:
                target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def wait(self, ticket: Any) -> None:
        torch.cuda.current_stream(self.device).wait_event(ticket)

    def mark(self) -> Any:
        return torch.cuda.current_stream(self.device).record_event()

    def drain(self) -> None:
        torch.cuda.synchronize(self.device)

    def available(self) -> int:
        allocated = torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device) - allocated
        return free if self._budget is None else min(free, self._budget - allocated)

    def release(self) -> None:
        torch.cuda.empty_cache()


class ThreadLink:
    """Main memory as if it were a device's: a thread copies at `bytes_per_s`. For tests and simulations."""

    def __init__(self, bytes_per_s: float = float("inf"), memory: int = 2**62) -> None:
        self.device = torch.device("cpu")
        #: Bytes.
        self.memory, self.main_memory, self.copied = memory, 2**62, 0
        self._bytes_per_s = bytes_per_s
        self._thread = ThreadPoolExecutor(1)

    def host_buffer(self, count: int) -> Tensor:
        return torch.empty(count, dtype=torch.uint8)

    def host_memory(self) -> int:
        return self.main_memory

    def free(self, buffer: Tensor) -> None:
        pass

    def fetch(self, pairs: list[tuple[Tensor, Tensor]], after: None) -> Future[None]:
        return self._thread.submit(self._copy, pairs)

    def wait(self, ticket: Future[None]) -> None:
        ticket.result()

    def mark(self) -> None:
        return None

    def drain(self) -> None:
        self._thread.submit(lambda: None).result()

    def available(self) -> int:
        return self.memory

    def release(self) -> None:
        pass

    def _copy(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        for source, target in pairs:
            time.sleep(source.numel() / self._bytes_per_s)
            target.copy_(source)
            self.copied += source.numel()
