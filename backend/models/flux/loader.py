"""Find the FLUX model that a job requests on this computer, and load it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

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

#: Memory kept free for a job's activations, in bytes.
_HEADROOM = 2 * 2**30


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
        needed = base().bytes_in(source.dtype)
        if source.settings.offload != "none" and links.exist(source.device):
            least = need(source, base(), tasks=1).least  # another model may be on the device
            return needed <= device.memory(torch.device("cpu"))[0] and least <= source.free()
        return needed + _HEADROOM <= source.free()

    def from_disk() -> FluxModel:
        _refuse_fill(base().is_fill, tasks)
        check_device(source, base())
        _find_adapters(source.checkpoint.adapters, tasks, reporter)  # before gigabytes are read
        _refuse_too_large(source, base())
        return _read(source, base(), reporter)

    model = models.get(source.key, from_disk, fits)
    _refuse_fill(dit360.is_fill(model.pipeline), tasks)
    missing = [task for task in tasks if task not in model.pipeline.resident]
    _find_adapters(source.checkpoint.adapters, missing, reporter)
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


def need(source: Source, base: checkpoints.Base, height: int | None = None, tasks: int = len(TASKS) - 2) -> memory.Need:
    """Return what perception of `tasks` tasks needs on the device, for maps of `height` (None: the model's own)."""
    transformer, vae, dtype = base.transformer, base.vae, source.dtype
    vae_dtype = checkpoints.vae_dtype(dtype)
    height = height or source.checkpoint.config.height
    scale = 2 ** (len(vae.config["block_out_channels"]) - 1)
    decoded = latents_at_once(height // scale, 2 * height // scale) * scale**2
    return memory.perception(
        transformer.config, vae.config, transformer.bytes_in(dtype), vae.bytes_in(vae_dtype), [2] * tasks,
        height, decoded, dtype, vae_dtype, source.settings.compile,
    )  # fmt: skip


def make_room(model: FluxModel, height: int, tasks: int = 1) -> None:
    """Let the weights stream from here on, if the offload mode is auto and this job doesn't fit beside all of them."""
    source = model.source
    if source.settings.offload != "auto" or not links.exist(source.device):
        return
    beside = need(source, model.base, height, tasks).everything - model.base.bytes_in(source.dtype)
    if not isinstance(model.pipeline.residency, Streaming) and beside > source.free():
        model.pipeline.to("cpu")
        model.pipeline.stream(links.to(source.device, source.budget))


def advice(model: FluxModel, height: int, tasks: int) -> str:
    """Return a hint for perception that ran out of memory: what it needs; "" for devices that use main memory."""
    source = model.source
    if not links.exist(source.device):
        return ""
    found = need(source, model.base, height, tasks)
    instead = "" if source.settings.offload == "auto" else ", or use the offload mode auto"
    return (
        f"This needs at least {found.least / 2**30:.1f} GB of free memory, and {found.everything / 2**30:.1f} GB with "
        f"all weights on the device. Lower the height, close other programs on the device{instead}."
    )


def _fits(source: Source, base: checkpoints.Base) -> bool:
    return need(source, base).everything <= source.free()


def _refuse_too_large(source: Source, base: checkpoints.Base) -> None:
    """Raise DeviceMemoryError where not even one task fits, or more than the budget is wanted."""
    if not links.exist(source.device):
        return
    free, found, whole = source.free(), need(source, base, tasks=1), source.settings.offload == "none"
    least, name = (found.everything if whole else found.least), source.checkpoint.config.name
    where = device.name(source.device)
    if source.budget is not None and least > source.budget:
        raise DeviceMemoryError(
            f"{name} needs at least {least / 2**30:.1f} GB of memory on {where}{' with all weights' if whole else ''}, "
            f"and the budget is {source.budget / 2**30:.1f} GB.",
            f"Give a larger budget{', or use the offload mode auto' if whole else ''}.",
        )
    if not whole and least > free:
        raise DeviceMemoryError(
            f"{name} needs at least {least / 2**30:.1f} GB of memory on {where}, and {free / 2**30:.1f} GB are free.",
            "Close other programs on the device.",
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
    if where.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return FluxModel(source, base, pipeline, {omnix.TRIGGER: embeds})


def _find_adapters(source: str, tasks: list[str], reporter: ProgressReporter) -> None:
    """Download the adapters of `tasks` where they are missing. Raise AdapterError, Cancelled."""
    wanted = [(task, stream) for task in tasks for stream in TASKS[task].streams]
    if wanted and hub.is_id(source) and not Path(source).is_dir():
        files = [name for stream in wanted for name in stream_adapters.filenames(*stream)]
        hub.fetch(source, files, folders.models_folder() / "OmniX", reporter, AdapterError)
    for task, stream in wanted:
        stream_adapters.find(source, task, stream)
