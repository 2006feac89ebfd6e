"""Train the model that completes the six views of a mesh, on random objects that are rendered on the device.

First a pool of objects is rendered; some are replaced while it trains. The run resumes from its checkpoint, and
computes in bfloat16 on CUDA, in float32 on the CPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import checkpoint, output
from ..muon import Muon
from ..precision import autocast
from . import architecture, model, spread
from .model import Views
from .render import Renderer

#: First seeds of training objects; those below are for evaluation.
FIRST_SEED = 1_000_000
_WARM_UP = 50
#: Squared error that counts as small, that of 27 dB: each object's error is weighed by that of its spread colours, so
#: that a plain object, where little is to gain, counts as much as a patterned one.
_SMALL = 0.002
_RATE = 2e-3


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    #: Folder of the checkpoint.
    folder: Path
    device: torch.device
    #: Size of the views in pixels.
    size: int
    #: Objects per step, in the pool, rendered together, and steps between renderings.
    batch: int
    pool: int
    fresh: int
    every: int
    #: Time limit of the run, of which the rate falls to zero; and interval of checkpoints.
    minutes: float
    every_minutes: float
    #: Whether kernels are compiled.
    compiled: bool
    #: Whether objects are simpler, and rendered in closed form.
    exact: bool


class Pool:
    """Rendered objects on a device, with what the engine projection makes of them."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._renderer = Renderer(options.device, compiled=options.compiled, exact=options.exact)
        self._seed, self._next = FIRST_SEED, 0

        def stored(channels: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(
                options.pool, 6, channels, options.size, options.size, dtype=dtype, device=options.device
            )

        self._truth, self._views = stored(3, torch.uint8), stored(3, torch.uint8)
        self._seen, self._control = stored(1, torch.bool), stored(6, torch.float16)
        for _ in range(options.pool // options.fresh):
            self.refresh()

    def refresh(self) -> None:
        """Replace the oldest objects."""
        count = self._options.fresh
        made = self._renderer.render(count, self._seed, self._options.size)
        views, seen = spread.project(made)
        at = slice(self._next, self._next + count)
        self._truth[at], self._views[at] = _bytes(made.views), _bytes(views)
        self._seen[at], self._control[at] = seen.bool(), made.control.half()
        self._seed, self._next = self._seed + count, (self._next + count) % (self._options.pool // count * count)

    def batch(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (truth, views, seen, control) of random objects with their colours changed."""
        count, device = self._options.batch, self._options.device
        whole = self._options.pool // self._options.fresh * self._options.fresh
        chosen = torch.randint(whole, (count,), generator=generator, device=device)
        order = torch.rand(count, 3, generator=generator, device=device).argsort(-1)
        gamma = 2 ** (torch.rand(count, 1, 3, 1, 1, generator=generator, device=device) - 0.5)
        control = self._control[chosen].float()
        mask = model.object_mask(control) > 0
        index = torch.arange(count, device=device)[:, None]

        def changed(stored: Tensor) -> Tensor:
            colours = stored[chosen].float() / 255
            return torch.where(mask, colours[index, :, order].transpose(1, 2) ** gamma, colours)

        return changed(self._truth), changed(self._views), self._seen[chosen].float(), control


def _bytes(picture: Tensor) -> Tensor:
    return (picture.clamp(0, 1) * 255 + 0.5).byte()


def train(options: Options) -> None:
    """Train until the time limit, resuming the checkpoint."""
    began = time.monotonic()
    pool = Pool(options)
    _log(f"{options.pool} objects rendered in {time.monotonic() - began:.0f} s on {options.device}")
    path = options.folder / "views.safetensors"
    views = Views().to(options.device)
    ends = ("unet.conv_in", "unet.conv_out", "prompt")
    optimizer = Muon(views, [name for name, _ in views.named_parameters() if name.startswith(ends)])
    average = checkpoint.Average(views, 0.998)
    step = checkpoint.load(path, views, average, optimizer)
    _log(f"from step {step}")
    limit = options.minutes * 60
    saved, counted, history = time.monotonic(), 0, list[Tensor]()
    while (past := time.monotonic() - began) < limit:
        for group in optimizer.param_groups:
            # Linear decay to zero (Bergsma et al., arXiv 2502.15938)
            group["lr"] = _RATE * min((step + 1) / _WARM_UP, 1 - past / limit)
        optimizer.zero_grad(set_to_none=True)
        truth, shown, seen, control = pool.batch(torch.Generator(options.device).manual_seed(step))
        with autocast(options.device):
            made = views(shown, seen, control)
        before, after = (model.errors(x.float(), truth, seen, control) for x in (shown, made))
        loss = (after / (before + _SMALL)).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(views.parameters(), 1.0)
        optimizer.step()
        if step % options.every == 0:
            pool.refresh()
        step, counted = step + 1, counted + 1
        average.update(views, step)
        history.append(torch.stack([loss.detach(), before.mean(), after.detach().mean()]))
        if time.monotonic() > saved + options.every_minutes * 60:
            _report(step, history, (time.monotonic() - saved) / counted)
            checkpoint.save(path, step, views, average, optimizer)
            saved, counted, history = time.monotonic(), 0, []
    if history:
        _report(step, history, (time.monotonic() - saved) / counted)
    checkpoint.save(path, step, views, average, optimizer)


def _report(step: int, history: list[Tensor], seconds: float) -> None:
    share, before, after = torch.stack(history).mean(0).tolist()
    _log(f"{step}: error {share:.3f} of the spread colours', mean {before:.5f} -> {after:.5f} ({seconds:.3f} s/step)")


def _log(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def load_average(checkpoints: Path) -> Views:
    """Load the averaged weights. Raise FileNotFoundError without a checkpoint."""
    views = Views()
    average = checkpoint.Average(views, 0)
    if checkpoint.load(checkpoints / "views.safetensors", views, average, Muon(views)) == 0:
        raise FileNotFoundError(checkpoints / "views.safetensors")
    views.load_state_dict(average.weights)
    return views


def export(checkpoints: Path, folder: Path, *, overwrite: bool = False) -> None:
    """Write the model's folder from the checkpoint. Raise FileNotFoundError if it is missing.

    Existing files are replaced only if `overwrite` is set. Raise OutputError.
    """
    views = load_average(checkpoints)
    with output.folder(folder, overwrite=overwrite) as draft:
        architecture.save(draft, *views.parts(), views.prompt)
