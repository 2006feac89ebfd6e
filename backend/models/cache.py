"""Models in memory: kept from job to job, several where they fit, the least recently used leaving first.

Nothing here imports torch, so that the server can hold the cache before any model is loaded.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar, cast


class Model(Protocol):
    """A model in memory."""

    @property
    def label(self) -> str:
        """What the user knows it as: "FLUX + OmniX"."""
        ...

    @property
    def device_label(self) -> str:
        """What the user knows its device as: "NVIDIA GeForce RTX 4070"."""
        ...

    def device_memory(self) -> tuple[int, int]:
        """Free and total bytes of its device."""
        ...


M = TypeVar("M", bound=Model)


class ModelCache:
    """Models by what was really loaded. Not to be shared between threads."""

    def __init__(self) -> None:
        #: The most recently used one last.
        self._models: dict[Hashable, Model] = {}

    @property
    def latest(self) -> Model | None:
        """The model that was used last."""
        return next(reversed(self._models.values()), None)

    def get(self, key: Hashable, load: Callable[[], M], fits: Callable[[], bool]) -> M:
        """Return the model of `key`, loading it where it isn't here.

        `key` names all that decides which weights lie where: files, precision, device, offload mode. Before loading,
        the least recently used models are released until `fits` says that there is room, or none is left.
        """
        model = self._models.pop(key, None)
        if model is None:
            while self._models and not fits():
                self._release(next(iter(self._models)))
            model = load()
        self._models[key] = model
        return cast("M", model)

    def release_unused(self) -> None:
        """Release all but the model that was used last: after a job ran out of memory."""
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
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
