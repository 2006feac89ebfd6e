"""A model in memory, and who puts it there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch

from ...shared.engines import EngineSettings
from ..jobs.watch import Watch
from ..pipelines.omnix import OmniXPipeline
from .flux import checkpoints


@dataclass
class Loaded:
    """What a job works with."""

    settings: EngineSettings
    checkpoint: checkpoints.Checkpoint
    pipeline: OmniXPipeline
    prompt: dict[str, torch.Tensor]
    device: torch.device
    dtype: torch.dtype
    #: What generation has had encoded: text → its embeddings, named as `prompt`'s.
    words: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)


class Loader(Protocol):
    """Keeps one model in memory: engine.Engine."""

    def load(
        self,
        settings: EngineSettings,
        checkpoint: checkpoints.Checkpoint,
        where: torch.device,
        tasks: list[str],
        watch: Watch,
    ) -> Loaded:
        """The model with the adapters of `tasks`; what is in memory already stays there."""
        ...
