"""Weights that arrive over a slow link while they are used: `python bench/link.py`. Runs on a CPU, in half a minute.

A narrow transformer of FLUX's classes computes five tasks of two streams. The link is simulated: a thread that copies
as fast as all weights take the time of the pass's own arithmetic. Compared are all weights on the device; one pass,
with the next blocks on their way; and task by task, each block fetched when it is needed.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from panoform.backend.models.flux import stream_adapters
from panoform.backend.models.links import ThreadLink
from panoform.backend.models.residency import Residency, Streaming
from panoform.backend.pipelines.layers.denoiser import Batch, denoiser
from panoform.backend.pipelines.layers.latents import image_ids

CPU, TASKS, ROWS, COLUMNS, TEXT, STEPS = torch.device("cpu"), 5, 4, 8, 8, 3
CONFIG = {
    "num_layers": 4, "num_single_layers": 8, "attention_head_dim": 64, "num_attention_heads": 4,
    "axes_dims_rope": (8, 28, 28), "joint_attention_dim": 64, "pooled_projection_dim": 32, "guidance_embeds": True,
}  # fmt: skip


class OnDemand(ThreadLink):
    """Copies a block only when it is waited for, as without prefetching."""

    def fetch(self, pairs: list[tuple[Tensor, Tensor]], after: None) -> Any:
        return pairs

    def wait(self, ticket: Any) -> None:
        self._copy(ticket)

    def drain(self) -> None:
        pass


def steps(
    transformer: FluxTransformer2DModel, batches: list[Batch], residency: Residency
) -> tuple[float, list[Tensor]]:
    """Return the seconds of a step after the first, and the velocities."""
    tokens = torch.randn(2, ROWS * COLUMNS, 64, generator=torch.Generator().manual_seed(0))
    timesteps, found, times = torch.linspace(1000, 100, STEPS), [], []
    ids = image_ids(ROWS, COLUMNS, CPU)
    with denoiser(transformer, batches, timesteps, 3.5, ids, dtype=torch.float32, residency=residency) as predict:
        for step in range(STEPS):
            began = time.perf_counter()
            found += predict(step, [tokens] * len(batches))
            times.append(time.perf_counter() - began)
    return min(times[1:]), found


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(**CONFIG).eval().requires_grad_(False)
    pooled, embeds = torch.randn(1, 32).expand(2, -1), torch.randn(1, TEXT, 64)
    batches = [
        Batch(embeds, pooled, {
            name: (torch.randn(2, 4, inner) * 0.1, torch.randn(2, out, 4) * 0.1)
            for name, (out, inner) in stream_adapters.targets(transformer.config).items()
        })
        for _ in range(TASKS)
    ]  # fmt: skip
    resident, expected = steps(transformer, batches, Residency(CPU))
    link = ThreadLink()
    steps(transformer, batches, Streaming(link, resident=False))
    size = link.copied / (STEPS + 2 / 12)  # two blocks are ahead
    link = ThreadLink(size / resident)
    one_pass, found = steps(transformer, batches, Streaming(link, resident=False))
    equal = all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    apart = sum(
        steps(transformer, [batch], Streaming(OnDemand(size / resident), resident=False))[0] for batch in batches
    )
    print(f"A step of {TASKS} tasks, {size / 1e6:.0f} MB of weights and adapters, brought in {resident:.2f} s:")
    print(f"  all weights on the device        {resident:6.2f} s")
    print(f"  one pass, prefetched             {one_pass:6.2f} s, {one_pass / resident:.2f} × that; bit-equal: {equal}")
    print(f"  task by task, without prefetching{apart:6.2f} s, {apart / one_pass:.1f} × slower than one pass")


if __name__ == "__main__":
    main()
