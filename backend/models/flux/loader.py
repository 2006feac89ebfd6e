"""Find the FLUX model that a job requests on this computer, and load it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from ....shared.engines import EngineSettings
from ....shared.protocol.errors import AdapterError, DeviceMemoryError, WeightsError
from ...jobs.progress import ProgressReporter, report_loading
from ...pipelines import dit360, omnix
from ...pipelines.omnix import TASKS, OmniXPipeline
from ...pipelines.panorama_pipeline import latents_at_once
from .. import device, folders, hub, kernels, links, quantised
from ..cache import ModelCache
from ..residency import Streaming
from . import checkpoints, memory, stream_adapters, text_encoding

FILL_EDITS = "FLUX.1-Fill makes and edits panoramas, but perceives nothing and completes no picture."

#: Batches of perception's default maps, as `needs` takes them: five tasks of two streams each.
ALL_TASKS = (2,) * 5
#: Multiple of the heights of panoramas, in pixels.
_MULTIPLE = 16


@dataclass(frozen=True)
class Source:
    """A model on this computer that a job requests: its files, device and precision."""

    settings: EngineSettings
    checkpoint: checkpoints.Checkpoint
    device: torch.device
    dtype: torch.dtype

    @property
    def key(self) -> tuple[object, ...]:
        """Key of the model in the ModelCache; it changes when a file is replaced."""
        own = self.settings
        where = (str(self.device), self.dtype, quantised.ROUNDINGS.get(own.dtype), own.offload, own.memory)
        return (self.checkpoint.fingerprint(), self.checkpoint.config, *where, own.attention, own.compile)

    @property
    def budget(self) -> int | None:
        """Most bytes of the device's memory to take; None: what is free."""
        return None if self.settings.memory is None else int(self.settings.memory * 2**30)

    def free(self) -> int:
        """Return how many bytes of the device's memory could be taken now."""
        return device.free(self.device, self.budget)


@dataclass
class FluxModel:
    """A model in memory (`cache.Model`)."""

    source: Source
    base: checkpoints.Base
    pipeline: OmniXPipeline
    #: Text → its embeddings on the CPU, as `text_encoding.embeds` returns them; always includes perception's prompt.
    prompt_cache: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.source.settings.spec.label

    @property
    def device_label(self) -> str:
        return device.name(self.source.device)

    def device_memory(self) -> tuple[int, int, int]:
        return *device.memory(self.source.device), device.taken(self.source.device)

    def leave_device(self) -> bool:
        source, held = self.source, self.base.bytes_in(self.dtype)
        free = device.memory(torch.device("cpu"))[0]
        if source.settings.offload != "auto" or not links.exist(source.device) or self.streams or held > free:
            return False
        self.pipeline.to("cpu")
        self.pipeline.stream(links.to(source.device, source.budget))
        return True

    @property
    def streams(self) -> bool:
        """Whether its weights are in main memory, and reach the device while they are used."""
        return isinstance(self.pipeline.residency, Streaming)

    @property
    def config(self) -> checkpoints.ModelConfig:
        return self.source.checkpoint.config

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    @property
    def perception_prompt(self) -> dict[str, torch.Tensor]:
        """The embeddings of perception's prompt, as `text_encoding.embeds` returns them."""
        return self.prompt_cache[omnix.TRIGGER]


def find(settings: EngineSettings, reporter: ProgressReporter) -> Source:
    """Find the model that `settings` name, downloading its base checkpoint from the hub if needed.

    Raise SettingError for a missing device, WeightsError, and Cancelled from `reporter`.
    """
    where = device.choose(settings)
    return Source(settings, checkpoints.locate(settings, reporter), where, device.choose_dtype(settings, where))


def load(models: ModelCache, source: Source, tasks: list[str], reporter: ProgressReporter) -> FluxModel:
    """Return the model with the adapters of `tasks`, from the cache if it is loaded.

    Raise WeightsError, AdapterError, DeviceMemoryError, and Cancelled from `reporter`.
    """

    @functools.cache
    def base() -> checkpoints.Base:
        return checkpoints.inspect(source.checkpoint.path, dtype=source.settings.dtype)

    def fits() -> bool:
        found = need(source, base(), rows=(2,))
        if source.settings.offload != "none" and links.exist(source.device):
            # Another model may be on the device
            in_main = base().bytes_in(source.dtype) <= device.memory(torch.device("cpu"))[0]
            return in_main and found.least <= source.free()
        return found.everything <= source.free()

    def from_disk() -> FluxModel:
        _refuse_fill(base().is_fill, tasks)
        check_device(source, base())
        config = base().transformer.config
        _find_adapters(source.checkpoint.adapters, tasks, config, reporter)  # before gigabytes are read
        _refuse_too_large(source, base())
        return _read(source, base(), reporter)

    model = models.get(source.key, from_disk, fits)
    _refuse_fill(dit360.is_fill(model.pipeline), tasks)
    missing = [task for task in tasks if task not in model.pipeline.resident]
    _find_adapters(source.checkpoint.adapters, missing, model.pipeline.transformer.config, reporter)
    for task in missing:
        report_loading(reporter, "Loading adapters")
        model.pipeline.load_adapters(source.checkpoint.adapters, task)
    return model


def pinned(source: Source, tasks: list[str]) -> EngineSettings:
    """Return the settings with hub ids pinned to the revisions that were used, so that a recipe stays repeatable."""
    settings, adapters = source.settings, source.checkpoint.adapters
    pinned_adapters = settings.adapters
    if tasks and hub.is_id(adapters) and not Path(adapters).is_dir():
        stream = TASKS[tasks[0]].streams[0]
        file = stream_adapters.find(adapters, tasks[0], stream, local_files_only=True)
        pinned_adapters = hub.pinned(adapters, file)
    return msgspec.structs.replace(settings, model=source.checkpoint.pinned_model, adapters=pinned_adapters)


def _refuse_fill(is_fill: bool, tasks: list[str]) -> None:
    if is_fill and tasks:
        raise WeightsError(FILL_EDITS, "Use FLUX.1-dev for this.")


def check_device(source: Source, base: checkpoints.Base) -> None:
    """Raise WeightsError where the device can't decode the weights, SettingError where it lacks the kernels named."""
    where = source.device
    if where.type == "mps" and set(base.transformer.quantised) & quantised.FLOAT8.keys():
        raise WeightsError(
            f"{base.path.name} has 8-bit floats, which {device.name(where)} can't decode.",
            "Use a GGUF file (Q8_0 to Q4_K_S) or flux1-dev.safetensors.",
        )
    kernels.check(source.settings, where, source.dtype)


def needs(
    source: Source, base: checkpoints.Base, rows: Sequence[int] = ALL_TASKS, at_once: int | None = None
) -> Callable[[int], memory.Need]:
    """Return a function: height of a panorama in pixels → what a job needs on the device, in bytes.

    `rows`: the streams, or panoramas, of each batch that is denoised. `at_once`: most of the height that is denoised at
    once, of a panorama that is completed in windows.
    """
    transformer, vae, dtype = base.transformer, base.vae, source.dtype
    vae_dtype = checkpoints.vae_dtype(dtype)
    weights = transformer.bytes_in(dtype), vae.bytes_in(vae_dtype)
    scale = 2 ** (len(vae.config["block_out_channels"]) - 1)

    def of(height: int) -> memory.Need:
        decoded = latents_at_once(height // scale, 2 * height // scale) * scale**2
        return memory.perception(
            transformer.config, vae.config, *weights, rows, min(height, at_once or height), decoded, dtype, vae_dtype,
            source.settings.compile,
        )  # fmt: skip

    return of


def need(source: Source, base: checkpoints.Base, rows: Sequence[int] = ALL_TASKS) -> memory.Need:
    """Return what perception needs on the device for maps of the model's own height."""
    return needs(source, base, rows)(source.checkpoint.config.height)


def make_room(
    models: ModelCache, model: FluxModel, height: int, rows: Sequence[int], at_once: int | None = None
) -> None:
    """Let other models leave the device where a job doesn't fit beside them, then this one's weights stream.

    They stream only if the offload mode is auto. The arguments are those of `needs`.
    """
    source = model.source
    if not links.exist(source.device):
        return
    found = needs(source, model.base, rows, at_once)(height)
    beside = found.least if model.streams else found.everything - model.base.bytes_in(source.dtype)
    models.make_room(lambda: beside <= source.free())
    if beside > source.free():
        model.leave_device()


def advice(
    model: FluxModel, height: int, rows: Sequence[int], at_once: int | None = None, smallest: int = _MULTIPLE
) -> str:
    """Return a hint for a job that ran out of memory: what it needs, and a height that fits; "" if none is known.

    `smallest`: the least height that can be asked for; the other arguments are those of `needs`.
    """
    source, needed = model.source, needs(model.source, model.base, rows, at_once)
    if not links.exist(source.device):  # the weights are in main memory
        fits = fitting(needed, height, source.free() + model.base.bytes_in(source.dtype), True, smallest)
        return f"About {2 * fits} × {fits} would fit." if fits else ""
    found, whole = needed(height), source.settings.offload == "none"
    fits = fitting(needed, height, source.free() + device.held(source.device), whole, smallest)
    smaller = f"About {2 * fits} × {fits} would fit. Else close" if fits else "Lower the height, close"
    instead = "" if source.settings.offload == "auto" else ", or use the offload mode auto"
    return (
        f"This needs at least {found.least / 2**30:.1f} GB of free memory, and {found.everything / 2**30:.1f} GB with "
        f"all weights on the device. {smaller} other programs on the device{instead}."
    )


def fitting(
    needed: Callable[[int], memory.Need], height: int, free: int, whole: bool, smallest: int = _MULTIPLE
) -> int | None:
    """Return the largest height, from `smallest` to below `height`, that fits into `free` bytes.

    None where there is none, or `height` itself fits. `needed` is what `needs` returns. `whole`: whether all weights
    stay on the device.
    """

    def fits(height: int) -> bool:
        found = needed(height)
        return (found.everything if whole else found.least) <= free

    smaller = range((height - 1) // _MULTIPLE * _MULTIPLE, smallest - 1, -_MULTIPLE)
    return None if fits(height) else next(filter(fits, smaller), None)


def _fits(source: Source, base: checkpoints.Base) -> bool:
    return need(source, base).everything <= source.free()


def _refuse_too_large(source: Source, base: checkpoints.Base) -> None:
    """Raise DeviceMemoryError where not even one task fits, or more than the budget is wanted."""
    if not links.exist(source.device):
        return
    config, needed, whole = source.checkpoint.config, needs(source, base, rows=(2,)), source.settings.offload == "none"
    height, name, where = config.height, config.name, device.name(source.device)
    free, found = source.free(), needed(height)
    least = found.everything if whole else found.least
    if source.budget is not None and least > source.budget:
        raise DeviceMemoryError(
            f"{name} needs at least {least / 2**30:.1f} GB of memory on {where}{' with all weights' if whole else ''}, "
            f"and the budget is {source.budget / 2**30:.1f} GB.",
            f"Give a larger budget{', or use the offload mode auto' if whole else ''}.",
        )
    if not whole and least > free:
        fits = fitting(needed, height, free, whole)
        raise DeviceMemoryError(
            f"{name} needs at least {least / 2**30:.1f} GB of memory on {where}, and {free / 2**30:.1f} GB are free.",
            f"Close other programs on the device{f'. Maps of height {fits} would fit' if fits else ''}.",
        )


def _read(source: Source, base: checkpoints.Base, reporter: ProgressReporter) -> FluxModel:
    settings, checkpoint, where = source.settings, source.checkpoint, source.device
    report_loading(reporter, f"Loading {checkpoint.config.name}")
    embeds = text_encoding.embeds(checkpoint, base, reporter)
    with device.translate_out_of_memory(f"Loading {checkpoint.config.name}", where):
        pipeline = checkpoints.load(base, source.dtype)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.position_rows = checkpoint.config.position_rows
        whole = settings.offload == "none" or (settings.offload == "auto" and _fits(source, base))
        if whole or not links.exist(where):
            pipeline.to(where)
        else:
            pipeline.stream(links.to(where, source.budget), resident=settings.offload != "sequential")
        kernels.apply(settings, pipeline.transformer)
    if where.type == "cpu":
        pipeline.vae.to(memory_format=torch.channels_last)  # its convolutions take a fifth less time
    if where.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return FluxModel(source, base, pipeline, {omnix.TRIGGER: embeds})


def _find_adapters(source: str, tasks: list[str], config: Mapping[str, Any], reporter: ProgressReporter) -> None:
    """Download the adapters of `tasks` where they are missing.

    Raise AdapterError, also where their headers don't fit a transformer of that `config`, and Cancelled.
    """
    wanted = [(task, stream) for task in tasks for stream in TASKS[task].streams]
    if wanted and hub.is_id(source) and not Path(source).is_dir():
        files = [name for stream in wanted for name in stream_adapters.filenames(*stream)]
        hub.fetch(source, files, folders.models_folder() / "OmniX", reporter, AdapterError)
    shapes = stream_adapters.targets(config)
    for task, stream in wanted:
        stream_adapters.check(stream_adapters.find(source, task, stream), shapes)
