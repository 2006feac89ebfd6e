"""What FLUX costs on cards of several sizes, calculated by the estimate: `python bench/cards.py`. Needs no GPU.

The weights that do not fit arrive from main memory in each step. This costs no time where the link brings them while
the maps are computed.
"""

from __future__ import annotations

import torch

from panoform.backend.models.flux import checkpoints, memory
from panoform.backend.models.residency import choose
from panoform.shared.protocol.errors import DeviceMemoryError

GIB, BF16 = 2**30, torch.bfloat16
CARDS = (24, 16, 12, 8)
#: Weights → bytes for a parameter: GGUF's Q4_K_S is a file of 6.8 GB.
WEIGHTS = {"bfloat16": 2.0, "8 bit": 1.0, "GGUF Q4_K_S": 6.8 / 11.9}
#: Bytes of CUDA's own on a card.
CONTEXT = 0.6 * GIB
TASKS, HEIGHT = 5, 512
#: 10^12 products and sums of a step of a task at 512 × 1024, without what the last block and the text save; and in a
#: second on an RTX 4090.
STEP, SPEED = 86.0, 89.0


def arriving(card: int, per_parameter: float) -> float | None:
    """Return the gigabytes that arrive in each step on a card of so many gigabytes; None: it does not fit."""
    base = checkpoints.planned()
    transformer, vae = base.transformer, base.vae
    width = transformer.config["num_attention_heads"] * transformer.config["attention_head_dim"]
    need = memory.perception(
        transformer.config, vae.config, int(transformer.parameters * per_parameter), vae.bytes_in(BF16), [2] * TASKS,
        HEIGHT, 2 * HEIGHT**2, BF16, BF16,
    )  # fmt: skip
    factors = TASKS * 2 * 64 * width * BF16.itemsize  # of rank 64
    double = int(24 * width**2 * per_parameter + 18 * factors)
    single = int(12 * width**2 * per_parameter + 6 * factors)
    sizes = [double] * transformer.config["num_layers"] + [single] * transformer.config["num_single_layers"]
    try:
        staying = choose(sizes, int(card * GIB - CONTEXT - (need.denoising - sum(sizes))))
    except DeviceMemoryError:
        return None
    return sum(size for i, size in enumerate(sizes) if i not in staying) / 1e9


def main() -> None:
    step_s = TASKS * STEP / SPEED
    print(f"{'':14}" + "".join(f"{f'{card} GB':>24}" for card in CARDS))
    for name, per_parameter in WEIGHTS.items():
        cells = []
        for card in CARDS:
            gigabytes = arriving(card, per_parameter)
            cells.append("-" if gigabytes is None else f"{gigabytes:.1f} GB, {gigabytes / step_s:.1f} GB/s")
        print(f"{name:14}" + "".join(f"{cell:>24}" for cell in cells))
    print(f"What arrives in each step of {TASKS} maps at {HEIGHT} × {2 * HEIGHT}, and the link that hides it beside")
    print(f"{SPEED:.0f} TFLOPS, a step of {step_s:.1f} s; a slower card needs a slower link.")


if __name__ == "__main__":
    main()
