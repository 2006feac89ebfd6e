"""Compare the estimate of memory with a trace at FLUX.1-dev's full size: `python bench/memory.py`. Runs on a CPU.

The transformer and the VAE compute with fake tensors, which have shapes but no contents. The trace is the largest sum
of all storages that are alive at once beside the weights. The estimate's margin (`memory._MARGIN`) is left out here, as
nothing is traced of what it stands for. Three blocks suffice: every double block needs the same, and every single block
but the last.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from panoform.backend.models.flux import checkpoints, memory, stream_adapters
from panoform.backend.models.residency import Residency
from panoform.backend.pipelines.layers import circular_padding, modulation
from panoform.backend.pipelines.layers.denoiser import Batch, denoiser
from panoform.backend.pipelines.layers.latents import image_ids

GIB, CPU, BF16 = 2**30, torch.device("cpu"), torch.bfloat16
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


class Peak(TorchDispatchMode):
    """The largest number of bytes alive at once in storages that operations made, except those of `weights`."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.bytes = 0
        self._weights = {x.untyped_storage()._cdata for x in weights}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, made)
        self._alive = {key: value for key, value in self._alive.items() if not value[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._alive.values()))
        return made

    def _add(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self._weights:
            self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())


@contextmanager
def fake() -> Iterator[None]:
    """Make all tensors fake, and new weights bfloat16, within the block."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        torch.set_default_dtype(BF16)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def _no_tables(transformer: FluxTransformer2DModel, embeddings: Sequence[Any], _: Any) -> list[modulation.Table]:
    """Take the place of `modulation.tabulate`, which compares contents. The table is counted apart."""
    sizes = {"norm1": 6, "norm1_context": 6, "norm": 3, "norm_out": 2}
    rows = {name: sizes[name.split(".")[-1]] * transformer.inner_dim for name in modulation.norms(transformer)}
    return [{name: torch.empty(1, 1, size) for name, size in rows.items()} for _ in embeddings]


def trace_step(tasks: int, streams: int, height: int, text: int = 512) -> tuple[int, int]:
    """Return (traced, estimated) bytes of a step's activations at a panorama's height in pixels."""
    rows, columns = height // 16, height // 8 + 3
    with fake():
        transformer = FluxTransformer2DModel(num_layers=1, num_single_layers=2, guidance_embeds=True)
        shapes = stream_adapters.targets(transformer.config)
        layers = [
            {name: (torch.empty(streams, 64, i), torch.empty(streams, o, 64)) for name, (o, i) in shapes.items()}
            for _ in range(tasks)
        ]
        embeds, pooled = torch.empty(1, text, 4096), torch.empty(streams, 768)
        factors = [x for each in layers for pair in each.values() for x in pair]
        peak = Peak([*transformer.parameters(), *factors])
        tokens = [torch.empty(streams, rows * columns, 64) for _ in range(tasks)]
        batches = [Batch(embeds, pooled, each) for each in layers]
        with (
            mock.patch.object(modulation, "tabulate", _no_tables),
            denoiser(
                transformer, batches, torch.tensor([1000.0]), 3.5, image_ids(rows, columns, CPU),
                dtype=BF16, residency=Residency(CPU),
            ) as predict,
            peak,
        ):  # fmt: skip
            predict(0, tokens)
    estimated = memory.activations([streams] * tasks, rows * columns + text, transformer.inner_dim, BF16)
    return peak.bytes, int(estimated - memory._MARGIN)


def trace_vae(height: int, width: int) -> tuple[int, int, int]:
    """Return bytes (traced encoding, traced decoding, estimated decoding) of a panorama in one piece."""
    peaks = []
    with fake():
        vae: Any = AutoencoderKL(**VAE).eval()
        for run, x in (
            (lambda x: vae.encode(x).latent_dist.mode(), torch.empty(1, 3, height, width)),
            (lambda x: vae.decode(x).sample, torch.empty(1, 16, height // 8, width // 8)),
        ):
            with circular_padding.circular(vae), Peak(list(vae.parameters())) as peak:
                run(x)
            peaks.append(peak.bytes)
    return peaks[0], peaks[1], int(memory.decoding(VAE, height * width, BF16) - memory._MARGIN)


def sums(tasks: int, height: int, traced: int) -> dict[str, tuple[int, int]]:
    """Return mode → (counted, estimated) bytes of a job of OmniX's tasks, two streams each, in bfloat16.

    Counted tensor by tensor, with adapters of OmniX's rank, and the `traced` activations of a step.
    """
    base = checkpoints.planned()
    config, width = base.transformer.config, 24 * 128
    modulated = [f"{name}.linear" for name in modulation.norms(base.transformer.network())]
    weights: dict[str, int] = {}  # part → bytes
    for name, (_, shape) in base.transformer.tensors.items():
        part = ".".join(name.split(".")[:2]) if "blocks." in name else "rest"
        part = "modulation" if name.removesuffix(".bias").removesuffix(".weight") in modulated else part
        weights[part] = weights.get(part, 0) + torch.Size(shape).numel() * BF16.itemsize
    vae = sum(torch.Size(shape).numel() for _, shape in base.vae.tensors.values()) * BF16.itemsize
    factors: dict[str, int] = {}  # block → bytes
    for name, (out, inner) in stream_adapters.targets(config).items():
        block = ".".join(name.split(".")[:2])
        factors[block] = factors.get(block, 0) + tasks * 2 * 64 * (out + inner) * BF16.itemsize
    blocks = {name: size + factors[name] for name, size in weights.items() if name in factors}
    table = 50 * (12 * config["num_layers"] + 3 * config["num_single_layers"] + 2) * width * BF16.itemsize
    step = traced + table + vae + weights["rest"]
    counted = {
        "everything": step + sum(blocks.values()) + weights["modulation"],
        "denoising": step + sum(blocks.values()),
        "least": step + 2 * max(blocks.values()),
    }
    need = memory.perception(
        config, base.vae.config, base.transformer.bytes_in(BF16), vae, [2] * tasks, height, 2 * height**2, BF16, BF16
    )
    return {name: (size, int(getattr(need, name) - memory._MARGIN)) for name, size in counted.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    print("Activations of a step, GiB:        traced  estimated")
    for tasks, streams in ((1, 2), (1, 3), (5, 2)):
        for height in (512, 720, 1024):
            traced, estimated = trace_step(tasks, streams, height)
            name = f"{tasks} × {streams} streams, {height} × {2 * height}"
            print(f"  {name:30} {traced / GIB:8.3f} {estimated / GIB:9.3f}  {estimated / traced - 1:+.1%}")
            if streams == 2 and height == 512:
                for mode, (counted, estimated) in sums(tasks, height, traced).items():
                    name = f"  with weights: {mode}"
                    print(f"  {name:30} {counted / GIB:8.3f} {estimated / GIB:9.3f}  {estimated / counted - 1:+.1%}")
    print("VAE, GiB:                      encoding  decoding  estimated")
    for height, width in ((512, 1024), (720, 1440), (1024, 1024), (1024, 2048)):
        encoding, decoding, estimated = trace_vae(height, width)
        print(
            f"  {f'{height} × {width}':30} {encoding / GIB:6.3f} {decoding / GIB:9.3f} {estimated / GIB:9.3f}  "
            f"{estimated / decoding - 1:+.1%}"
        )


if __name__ == "__main__":
    main()
