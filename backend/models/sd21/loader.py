"""Find the multi-view model that a job requests on this computer, and load it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from ....shared.engines import EngineSettings
from ....shared.protocol.errors import AdapterError, SettingError
from ....shared.weights import WEIGHTS
from ...jobs.progress import ProgressReporter, report_loading
from ...pipelines.multiview import MultiViewPipeline
from .. import device, folders, hub, links, parts
from ..cache import ModelCache
from . import adapter, checkpoints

_WEIGHTS = WEIGHTS["mv-adapter"]
#: Memory kept free for a job's activations, in bytes.
_HEADROOM = 2 * 2**30


@dataclass(frozen=True)
class Source:
    """A model on this computer that a job requests: its files, task, device and precision."""

    settings: EngineSettings
    #: Folder or file of the base, and its name.
    base: Path
    name: str
    #: File of the adapter, and the name of where it is from.
    adapter: Path
    adapter_name: str
    task: str
    device: torch.device
    dtype: torch.dtype
    #: As `settings`, with hub ids pinned to the revisions on this computer.
    pinned: EngineSettings

    @property
    def key(self) -> tuple[object, ...]:
        """Key of the model in the ModelCache; it changes when a file is replaced."""
        files = (str(self.base), parts.fingerprint(self.base), parts.fingerprint(self.adapter))
        return ("sd21", *files, self.task, str(self.device), self.dtype, self.settings.offload)


@dataclass
class MultiViewModel:
    """A model in memory (`cache.Model`)."""

    source: Source
    pipeline: MultiViewPipeline
    #: Whether its networks are in main memory while they are not in use.
    offloaded: bool

    @property
    def label(self) -> str:
        return self.source.settings.spec.short_label

    @property
    def device_label(self) -> str:
        return device.name(self.source.device)

    def device_memory(self) -> tuple[int, int, int]:
        return *device.memory(self.source.device), device.taken(self.source.device)

    def leave_device(self) -> bool:
        where = self.source.device
        if self.source.settings.offload != "auto" or not links.exist(where) or self.offloaded:
            return False
        # Main memory is not asked: these weights are a tenth of FLUX's.
        self.pipeline.enable_model_cpu_offload(device=where)
        self.offloaded = True
        return True


def adapter_source(settings: EngineSettings) -> str:
    """Return the file, folder or hub id of the adapters that `settings` name."""
    local = folders.models_folder() / _WEIGHTS.folder
    return settings.adapters or (str(local) if local.is_dir() else _WEIGHTS.repository)


def find(settings: EngineSettings, task: str, reporter: ProgressReporter) -> Source:
    """Find base and adapter for `task`, downloading them from the hub if needed.

    Raise SettingError for a missing device or an engine of another kind, WeightsError, AdapterError, and Cancelled
    from `reporter`.
    """
    if settings.spec.family != "sd21":
        raise SettingError(f"{settings.spec.short_label} can't draw views of an object.", "Use the engine multiview.")
    where = device.choose(settings)
    base, name, pinned_model = checkpoints.locate(settings.model, reporter)
    source = adapter_source(settings)
    pinned_adapters = settings.adapters
    if hub.is_id(source) and not folders.expanded(source).exists():
        instead = folders.models_folder() / _WEIGHTS.folder
        folder = hub.fetch(source, [adapter.filename(task)], instead, reporter, AdapterError)
        file, pinned_adapters = adapter.find(folder, task), hub.pinned(source, folder)
    else:
        file = adapter.find(source, task)
    pinned = msgspec.structs.replace(settings, model=pinned_model, adapters=pinned_adapters)
    dtype = device.choose_dtype(settings, where)
    return Source(settings, base, name, file, source, task, where, dtype, pinned)


def load(models: ModelCache, source: Source, reporter: ProgressReporter) -> MultiViewModel:
    """Return the model with its adapter, from the cache if it is loaded.

    Raise WeightsError, AdapterError, DeviceMemoryError, and Cancelled from `reporter`.
    """
    base = checkpoints.inspect(source.base)

    def fits() -> bool:
        needed = base.bytes_in(source.dtype) + source.adapter.stat().st_size
        if source.settings.offload in ("model", "sequential"):
            return needed <= device.memory(torch.device("cpu"))[0]
        return needed + _HEADROOM <= device.memory(source.device)[0]

    return models.get(source.key, lambda: _read(source, base, reporter), fits)


def _read(source: Source, base: checkpoints.Base, reporter: ProgressReporter) -> MultiViewModel:
    label, where, offload = source.settings.spec.short_label, source.device, source.settings.offload
    if offload == "auto":
        needed = base.bytes_in(source.dtype) + source.adapter.stat().st_size
        offload = "none" if where.type != "cuda" or needed + _HEADROOM <= device.memory(where)[0] else "model"
    report_loading(reporter, f"Loading {label}")
    with device.translate_out_of_memory(f"Loading {label}", where):
        pipeline = checkpoints.load(base, source.dtype, reporter)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.load_adapter(source.adapter, source.task)
        if offload == "model":
            pipeline.enable_model_cpu_offload(device=where)
        elif offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=where)
        else:
            pipeline.to(where)
    if where.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return MultiViewModel(source, pipeline, offload != "none")
