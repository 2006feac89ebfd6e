"""What a training run is asked for, and what its stages share."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ...shared.protocol.errors import InputError
from . import dataset
from .workers import Workers


@dataclass(frozen=True)
class Options:
    """The command line, as processes are handed it."""

    #: Folder of HEIGHT/train, HEIGHT/heldout and checkpoints.
    data: Path
    #: Of what the model is shown; scenes of heights that it is a multiple of are enlarged.
    height: int
    #: None: CUDA where there is one.
    device: str | None
    threads: int
    #: Panoramas a step, of each process.
    batch: int
    #: How long at most, and between checkpoints.
    minutes: float
    every_minutes: float
    vae_steps: int = 0
    perceiver_steps: int = 0
    variants: int = 1
    pixels_every: int = 1
    #: Starter folder that the second stage starts from; its VAE is kept.
    start: Path | None = None


@dataclass
class Run:
    """What both stages share."""

    height: int
    #: By height, the smallest first.
    data: list[dataset.Scenes]
    heldout: dataset.Scenes
    checkpoints: Path
    device: torch.device
    batch: int
    #: When to stop, in the seconds of time.monotonic.
    until: float
    #: Seconds between checkpoints, each with a validation line and pictures.
    every_s: float
    workers: Workers
    start: Path | None

    def say(self, line: str) -> None:
        if self.workers.first:
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    @property
    def scenes(self) -> int:
        return sum(len(scenes) for scenes in self.data)

    def shuffled(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """A batch of scenes of one height, each scene as likely as any other; drawn by a generator on `device`."""
        sizes = torch.tensor([float(len(scenes)) for scenes in self.data], device=generator.device)
        return self.data[int(torch.multinomial(sizes, 1, generator=generator))].shuffled(self.batch, generator)

    def generator(self, step: int) -> torch.Generator:
        """What draws this process's batch of a step."""
        return torch.Generator(self.device).manual_seed(step * self.workers.count + self.workers.rank)

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()


def prepare(options: Options, workers: Workers) -> Run:
    """Raises InputError as `truth.scenes` does, and for a `start` that is no starter folder."""
    if options.start and not (options.start / "panoform.json").is_file():
        raise InputError(f"{options.start} is no starter folder.", "It holds no panoform.json; `export` writes one.")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    return Run(
        height=options.height,
        data=dataset.folders(options.data, "train", options.height, device),
        heldout=dataset.folders(options.data, "heldout", options.height, device)[0],
        checkpoints=options.data / "checkpoints", device=device, batch=options.batch,
        until=time.monotonic() + options.minutes * 60, every_s=options.every_minutes * 60, workers=workers,
        start=options.start,
    )  # fmt: skip
