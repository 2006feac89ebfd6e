"""The memory that FLUX needs on a device, by its config. Counts are in bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: Hidden states of a batch, (rows, tokens, width), that are alive at once at the peak of a single block: traced at
#: FLUX.1-dev's full size with fake tensors in bfloat16. Rotary embeddings are computed in float32, in two of them each.
_ALIVE = 17.3
#: The same that each batch keeps between its turns.
_WAITING = 1.05
#: For buffers of the device's libraries, memory lost between allocations, and other programs that may want some.
_MARGIN = 0.7 * 2**30


def activations(rows: Sequence[int], tokens: int, width: int, dtype: torch.dtype) -> int:
    """Return what a step needs beside weights and adapters, for batches of `rows` sequences of `tokens` each.

    `tokens` are those of text and image; `width` is the transformer's.
    """
    state = tokens * width * dtype.itemsize
    return int(state * (_ALIVE * max(rows) + _WAITING * sum(rows)) + _MARGIN)
