"""Keep models in memory between jobs, as many as fit; the least recently used make room first.

On a device of little memory they leave that first, for main memory, and are not read again when they are used next.

Nothing here imports torch, so that the server can hold the cache before any model is loaded.
"""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol, TypeVar, cast


class Model(Protocol):
    """A model in memory."""

    @property
    def label(self) -> str:
        """Name of the model for display: "FLUX + OmniX"."""
        ...

    @property
    def device_label(self) -> str:
        """Name of its device for display: "NVIDIA GeForce RTX 4070"."""
        ...

    def device_memory(self) -> tuple[int, int, int]:
        """Return (free, total, held by this process) memory of its device in bytes."""
        ...

    def leave_device(self) -> bool:
        """Move from a device with memory of its own to main memory, until it is used again.

        Return False, and change nothing, where that can't be: it is there already, or does not fit there.
        """
        ...


M = TypeVar("M", bound=Model)


class ModelCache:
    """Loaded models by key. Not thread-safe."""

    def __init__(self) -> None:
        #: In order of use, the most recently used last.
        self._models: dict[Hashable, Model] = {}
        self._keeps_all = False

    @property
    def latest(self) -> Model | None:
        """The model that was used last."""
        return next(reversed(self._models.values()), None)

    def get(self, key: Hashable, load: Callable[[], M], fits: Callable[[], bool]) -> M:
        """Return the model of `key`, loading it if needed.

        `key` identifies the weights and their place: files, precision, device, offload mode. Before loading, the others
        make room until `fits` returns True; none within `keeping`.
        """
        model = self._models.pop(key, None)
        if model is None:
            self._make_room(fits)
            model = load()
        self._models[key] = model
        return cast("M", model)

    def make_room(self, fits: Callable[[], bool]) -> None:
        """Let all models but the one used last make room until `fits` returns True; none within `keeping`."""
        key, latest = self._models.popitem()
        try:
            self._make_room(fits)
        finally:
            self._models[key] = latest

    def _make_room(self, fits: Callable[[], bool]) -> None:
        """Let the least recently used models leave their device, or release those that can't, until `fits`."""
        while self._models and not self._keeps_all and not fits():
            key, oldest = next(iter(self._models.items()))
            if not oldest.leave_device():
                self._release(key)

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Release and move no model within the block, where a job that holds one needs another for a moment.

        After it, the models from before count as used last, in their order.
        """
        before, self._keeps_all = list(self._models), True
        try:
            yield
        finally:
            self._keeps_all = False
            for key in before:
                self._models[key] = self._models.pop(key)

    def release_unused(self) -> None:
        """Release all models except the one used last, after a job ran out of memory."""
        for key in list(self._models)[:-1]:
            self._release(key)

    def clear(self) -> None:
        """Release all models."""
        for key in list(self._models):
            self._release(key)

    def _release(self, key: Hashable) -> None:
        del self._models[key]
        gc.collect()
        torch = sys.modules.get("torch")
        for module in () if torch is None else (torch.cuda, torch.xpu):
            if module.is_available():
                module.empty_cache()
