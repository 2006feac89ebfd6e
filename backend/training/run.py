"""Options of a training run, and the state that its stages share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from ...shared.protocol.errors import InputError
from . import dataset
from .workers import Workers


@dataclass(frozen=True)
class Options:
    """Options of the command line, passed to each process."""

    #: Folder of HEIGHT/train, HEIGHT/heldout and checkpoints.
    data: Path
    #: Height of the training panoramas in pixels; scenes of its divisors are upsampled.
    height: int
    #: None: CUDA if available.
    device: str | None
    threads: int
    #: Panoramas per step and process.
    batch: int
    #: Time limit, and interval between checkpoints.
    minutes: float
    every_minutes: float
    vae_steps: int = 0
    perceiver_steps: int = 0
    variants: int = 1
    pixels_every: int = 1
    #: Starter folder that the second stage continues from; its VAE is kept.
    start: Path | None = None


@dataclass
class Run:
    """State that both stages share."""

    height: int
    #: Training scenes by height, the smallest first.
    data: list[dataset.Scenes]
    heldout: dataset.Scenes
    checkpoints: Path
    device: torch.device
    batch: int
    #: When to stop, as a value of time.monotonic.
    until: float
    #: Seconds between checkpoints, each with a validation line and pictures.
    every_s: float
    workers: Workers
    start: Path | None

    def log(self, line: str) -> None:
        """Print a line with the time, in the first process only."""
        if self.workers.first:
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    @property
    def scenes(self) -> int:
        """Number of training scenes."""
        return sum(len(scenes) for scenes in self.data)

    def random_batch(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return a random batch of one height, each scene equally likely; `generator` is on `device`."""
        sizes = torch.tensor([float(len(scenes)) for scenes in self.data], device=generator.device)
        return self.data[int(torch.multinomial(sizes, 1, generator=generator))].random_batch(self.batch, generator)

    def generator(self, step: int) -> torch.Generator:
        """Return the generator of this process's batch in a step."""
        return torch.Generator(self.device).manual_seed(step * self.workers.count + self.workers.rank)


def prepare(options: Options, workers: Workers) -> Run:
    """Load the scenes and set up torch.

    Raise InputError as `ground_truth.scenes` does, and for a `start` that isn't a starter folder.
    """
    if options.start and not (options.start / "panoform.json").is_file():
        raise InputError(
            f"{options.start} is not a starter folder.", "It has no panoform.json; create one with `export`."
        )
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(options.threads)
    torch.set_float32_matmul_precision("high")
    return Run(
        height=options.height,
        data=dataset.find_scenes(options.data, "train", options.height, device),
        heldout=dataset.find_scenes(options.data, "heldout", options.height, device)[0],
        checkpoints=options.data / "checkpoints", device=device, batch=options.batch,
        until=time.monotonic() + options.minutes * 60, every_s=options.every_minutes * 60, workers=workers,
        start=options.start,
    )  # fmt: skip
