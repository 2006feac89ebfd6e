"""Blocks of tensors that are used in turn, on a device as far as a budget allows; the others stream through it.

A block's tensors are in main memory. Within `present(i)` their `data` is on the device: either it stays there while the
blocks are `opened`, or it arrives in one of two buffers while the block before computes, and is replaced afterwards.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...shared.protocol.errors import DeviceMemoryError
from .links import Link

#: Bytes; CUDA's own allocations are aligned to this, and every dtype may begin there.
_ALIGNMENT = 256


class Residency:
    """Where weights are. This one leaves them where they are, on `device`, and copies other tensors there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @contextmanager
    def opened(self, blocks: Sequence[Sequence[Tensor]], need: int = 0) -> Iterator[None]:
        """Prepare `blocks` for use in their order, again and again, within the block.

        `need` bytes of the device's memory stay free. Raise DeviceMemoryError where that doesn't fit.
        """
        moved = [x for block in blocks for x in block if x.device != self.device and not x.is_meta]
        with _moved(moved, self.device):
            yield

    @contextmanager
    def present(self, index: int) -> Iterator[None]:
        """Have the tensors of block `index` on the device within the block."""
        yield

    @contextmanager
    def borrowed(self, module: nn.Module) -> Iterator[None]:
        """Have a module that is in no block on the device within the block."""
        yield

    def shrink(self) -> bool:
        """Use less of the device's memory from here on, where no block is present. Return False if there is no less."""
        return False


class Streaming(Residency):
    """Keeps as many blocks on the device as fit into its memory, and streams the others through two buffers."""

    def __init__(self, link: Link, limit: int | None = None, resident: bool = True) -> None:
        """Use at most `limit` bytes for blocks; None: what is free when they are opened.

        `resident`: whether any block stays on the device.
        """
        super().__init__(link.device)
        self._link, self._limit, self._keeps = link, limit, resident
        self._packs: list[_Pack] = []
        self._blocks: list[_Block] = []
        self._order: list[int] = []
        self._buffers: list[Tensor] = []
        #: What is on its way: (place in `_order`, number of the buffer, ticket).
        self._coming: deque[tuple[int, int, Any]] = deque()

    @property
    def streamed(self) -> int:
        """Number of bytes that are fetched each time that all blocks are used, while they are opened."""
        return sum(self._blocks[i].size for i in self._order)

    @contextmanager
    def opened(self, blocks: Sequence[Sequence[Tensor]], need: int = 0) -> Iterator[None]:
        sizes = [sum(_padded(x) for x in unique(block)) for block in blocks]
        self._link.release()
        available = self._link.available() - need
        budget = available if self._limit is None else min(self._limit, available)
        staying = choose(sizes, budget if self._keeps else min(budget, 2 * max(sizes)))
        try:
            self._pack(blocks, staying)
            self._order = [i for i in range(len(blocks)) if i not in staying]
            for i in staying:
                self._blocks[i].bind(
                    torch.empty(self._blocks[i].size, dtype=torch.uint8, device=self.device), copy=True
                )
            self._begin()
            yield
        finally:
            self._link.drain()
            for block in self._blocks:
                block.unbind()
            self._blocks, self._order, self._buffers = [], [], []
            self._coming.clear()
            self._link.release()

    @contextmanager
    def present(self, index: int) -> Iterator[None]:
        if self._blocks[index].bound:
            yield
            return
        if self._order[self._coming[0][0]] != index:  # a step was left before its end
            self._restart(self._order.index(index))
        place, number, ticket = self._coming.popleft()
        self._link.wait(ticket)
        block = self._blocks[index]
        block.bind(self._buffers[number])
        try:
            yield
        finally:
            block.unbind()
            self._fetch((place + 2) % len(self._order), number, self._link.mark())

    @contextmanager
    def borrowed(self, module: nn.Module) -> Iterator[None]:
        with _moved(unique([*module.parameters(), *module.buffers()]), self.device):
            yield

    def shrink(self) -> bool:
        while leaving := [i for i, block in enumerate(self._blocks) if block.bound][::2]:
            self._link.drain()
            self._coming.clear()
            for i in self._order:
                self._blocks[i].forget_buffers()
            self._buffers = []
            for i in leaving:
                self._packs += self._blocks[i].leave(self._link)
            self._order = sorted([*self._order, *leaving])
            self._link.release()
            try:
                self._begin()
            except torch.OutOfMemoryError:  # another program has taken what became free
                continue
            return True
        return False

    def _begin(self) -> None:
        """Make the buffers, and let the first two blocks come that are streamed."""
        if self._order:
            largest = max(self._blocks[i].size for i in self._order)
            self._buffers = [torch.empty(largest, dtype=torch.uint8, device=self.device) for _ in range(2)]
            self._restart(0)  # drains: the memory of the buffers may still be in use by what was issued before

    def _fetch(self, place: int, number: int, after: Any) -> None:
        block = self._blocks[self._order[place]]
        self._coming.append((place, number, self._link.fetch(block.copies(self._buffers[number]), after)))

    def _restart(self, place: int) -> None:
        self._link.drain()
        self._coming.clear()
        for number in range(2):
            self._fetch((place + number) % len(self._order), number, None)

    def _pack(self, blocks: Sequence[Sequence[Tensor]], staying: set[int]) -> None:
        """Bring the tensors that are streamed together in buffers of the link, unless they are already.

        Buffers of weights stay while any of them is used: they are never copied again for other adapters.
        """
        wanted = {id(x) for block in blocks for x in block}
        kept = [pack for pack in self._packs if pack.fits(wanted)]
        self._packs = kept  # the memory of the others is free from here on
        packed = {id(x): pack for pack in kept for x in pack.tensors}
        used: dict[int, _Pack] = {}
        for i, tensors in enumerate(blocks):
            tensors = unique(tensors)
            packs = list({id(packed[id(x)]): packed[id(x)] for x in tensors if id(x) in packed}.values())
            rest = [x for x in tensors if id(x) not in packed]
            if i not in staying:
                made, rest = _packed(rest, self._link)
                packs += made
            used |= {id(pack): pack for pack in packs}
            self._blocks.append(_Block(packs, rest))
        self._packs = list(used.values())


def _packed(tensors: list[Tensor], link: Link) -> tuple[list[_Pack], list[Tensor]]:
    """Return packs of the tensors, and those that stay as they are.

    Where main memory is too small for a copy, all do: mapped from their file, they arrive more slowly. Weights and the
    factors of adapters, which are no parameters and change from job to job, are packed apart.
    """
    if not tensors or sum(_padded(x) for x in tensors) > link.host_memory():
        return [], tensors
    weights: list[Tensor] = [x for x in tensors if isinstance(x, nn.Parameter)]
    factors = [x for x in tensors if not isinstance(x, nn.Parameter)]
    return [_Pack(group, link) for group in (weights, factors) if group], []


class _Pack:
    """Tensors side by side in one buffer in main memory."""

    def __init__(self, tensors: list[Tensor], link: Link) -> None:
        self.tensors = tensors
        self.buffer = link.host_buffer(sum(_padded(x) for x in tensors))
        weakref.finalize(self, link.free, self.buffer)
        for x, view in views(self.tensors, self.buffer):
            view.copy_(x.data)
            x.data = view

    def fits(self, wanted: set[int]) -> bool:
        """Return whether the pack serves where tensors of these ids are wanted; factors, only if all of them are."""
        found = (id(x) in wanted for x in self.tensors)
        return any(found) if isinstance(self.tensors[0], nn.Parameter) else all(found)


class _Block:
    """The tensors of a block: some packed, the others where they were."""

    def __init__(self, packs: list[_Pack], rest: list[Tensor]) -> None:
        self._packs, self._rest = packs, rest
        self._tensors = [x for pack in packs for x in pack.tensors] + rest
        self.size = sum(_padded(x) for x in self._tensors)
        self._homes = [x.data for x in self._tensors]
        self.bound = False
        #: Address of a buffer → the tensors' views of it.
        self._views: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def copies(self, buffer: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the copies that bring the block into a buffer on the device: (source, target)."""
        pairs, start = [], 0
        for pack in self._packs:
            pairs.append((pack.buffer, buffer[start : start + pack.buffer.numel()]))
            start += pack.buffer.numel()
        for home in self._homes[len(self._homes) - len(self._rest) :]:
            source = home.reshape(-1).view(torch.uint8)
            pairs.append((source, buffer[start : start + source.numel()]))
            start += _padded(home)
        return pairs

    def bind(self, buffer: Tensor, copy: bool = False) -> None:
        """Let the tensors be those in the buffer, copied there now or before."""
        if buffer.data_ptr() not in self._views:
            self._views[buffer.data_ptr()] = views(self._tensors, buffer)
        for x, view in self._views[buffer.data_ptr()]:
            if copy:
                view.copy_(x.data)
            x.data = view
        self.bound = True

    def leave(self, link: Link) -> list[_Pack]:
        """Leave the device, and bring all tensors into buffers of the link; return the packs made."""
        self.unbind()
        self.forget_buffers()
        made, self._rest = _packed(self._rest, link)
        self._packs = [*self._packs, *made]
        self._tensors = [x for pack in self._packs for x in pack.tensors] + self._rest
        self._homes = [x.data for x in self._tensors]
        return made

    def forget_buffers(self) -> None:
        """Let go of the buffers on the device that the block was bound to."""
        self._views.clear()

    def unbind(self) -> None:
        """Let the tensors be those in main memory again."""
        for x, home in zip(self._tensors, self._homes, strict=True):
            x.data = home
        self.bound = False


@contextmanager
def _moved(tensors: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Have copies of the tensors on the device within the block."""
    homes = [x.data for x in tensors]
    try:
        for x in tensors:
            x.data = x.data.to(device)
        yield
    finally:
        for x, home in zip(tensors, homes, strict=True):
            x.data = home


def of(module: nn.Module, device: torch.device) -> Residency:
    """Return the residency that `attach` gave a module; without one, that of a module which is on `device`."""
    return getattr(module, "_residency", None) or Residency(device)


def attach(module: nn.Module, residency: Residency) -> None:
    """Let `residency` say where the blocks of a module are, for all pipelines that share it."""
    module._residency = residency  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def detach(module: nn.Module) -> None:
    """Undo `attach`; the blocks stay in main memory."""
    module._residency = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]


def choose(sizes: Sequence[int], budget: int) -> set[int]:
    """Return which blocks stay on the device: all, or as many as fit beside the two largest, spread evenly.

    Spread, each streamed block has the time of the blocks before it to arrive. Raise DeviceMemoryError where two
    blocks don't fit.
    """
    if sum(sizes) <= budget:
        return set(range(len(sizes)))
    buffers = 2 * max(sizes)
    if budget < buffers:
        raise DeviceMemoryError(
            f"The memory for weights is {max(budget, 0) / 2**30:.2f} GiB, and two blocks of the model need "
            f"{buffers / 2**30:.2f} GiB.",
            "Close other programs on the device, or lower the height.",
        )
    share, credit, staying = (budget - buffers) / sum(sizes), 0.0, set()
    for i, size in enumerate(sizes):
        credit += share * size
        if credit >= size:
            credit -= size
            staying.add(i)
    return staying


def unique(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors without repetitions, in order."""
    return list({id(x): x for x in tensors}.values())


def views(tensors: Sequence[Tensor], buffer: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return each tensor with its part of a buffer, in its dtype and shape."""
    parts, start = [], 0
    for x in tensors:
        part = buffer[start : start + x.numel() * x.element_size()]
        parts.append((x, part.view(x.dtype).view(x.shape)))
        start += _padded(x)
    return parts


def _padded(x: Tensor) -> int:
    return -(-x.numel() * x.element_size() // _ALIGNMENT) * _ALIGNMENT
