"""Check an engine's model, adapters and device, reading headers only: no weight is read, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import torch

from ...shared.engines import EngineSettings
from ...shared.protocol.errors import PanoformError
from ..models import device, links, parts
from ..models.flux import checkpoints, stream_adapters, text_encoding
from ..models.flux import loader as flux_loader
from ..models.flux.memory import Need
from ..models.parts import Part
from ..models.sd21 import adapter, loader
from ..models.sd21 import checkpoints as sd21_checkpoints
from ..perception.job import MAPS_OF_TASK
from ..pipelines import multiview
from ..pipelines.omnix import TASKS

#: Tasks of the engine multiview: textures from a reference picture, and from a prompt.
MULTIVIEW_TASKS = ("ig2mv", "tg2mv")
#: What is needed by the height of the maps, or of the views, in pixels; and that height.
_Needed = tuple[Callable[[int], Need], int]
NO_ENCODERS = "There is neither an encoded prompt nor a text encoder; FLUX.1-dev's text encoders are needed once."


class AdapterLine(msgspec.Struct, kw_only=True):
    """One stream's adapter; `problem` is empty if it fills all modules and no others."""

    task: str
    #: "" where a task has one adapter.
    stream: str = ""
    file: str = ""
    #: Of MV-Adapter, tensors.
    filled: int = 0
    modules: int = 0
    #: 0 for an adapter that is not a LoRA.
    rank: int = 0
    dtype: str = ""
    bytes: int = 0
    problem: str = ""


class PartLine(msgspec.Struct, kw_only=True):
    """One network of the checkpoint."""

    name: str
    parameters: int
    dtype: str
    bytes: int


class Diagnosis(msgspec.Struct, kw_only=True):
    """The output of `panoform doctor --json`."""

    engine: str
    model: str = ""
    adapters: str = ""
    trained: bool = False
    parts: list[PartLine] = []
    #: Source of the prompt's embedding: "kept" (a file), "text encoders", or "" for none.
    prompt: str = ""
    streams: list[AdapterLine] = []
    device: str = ""
    dtype: str = ""
    #: In bytes.
    memory_free: int = 0
    memory_total: int = 0
    #: At least, with the offload mode of the settings, and with all weights on the device.
    memory_needed: int = 0
    memory_everything: int = 0
    #: Problems and their remedies; empty if the engine can run.
    problems: list[str] = []


def diagnose(settings: EngineSettings) -> Diagnosis:
    """Check everything, collecting all problems instead of stopping at the first."""
    found = Diagnosis(engine=settings.engine)
    if settings.spec.family == "projection":
        return found  # neither weights nor device
    try:
        torch_device = device.choose(settings)
        dtype = device.choose_dtype(settings, torch_device)
        found.device, found.dtype = device.name(torch_device), device.dtype_name(settings, dtype)
        found.memory_free, found.memory_total = device.memory(torch_device)
        inspect = {"flux": _inspect_flux, "sd21": _inspect_sd21}[settings.spec.family]
        needed, height = inspect(settings, found)
    except PanoformError as error:
        found.problems.append(str(error))
        return found
    need, offload = needed(height), settings.offload if links.exist(torch_device) else "none"
    found.memory_everything = need.everything
    # Blocks of FLUX stream in all modes; diffusers moves whole networks of the others.
    model = need.least if settings.spec.family == "flux" else need.denoising
    modes = {"none": need.everything, "model": model, "auto": need.least, "sequential": need.least}
    found.memory_needed = modes[offload]
    if found.memory_needed > found.memory_free:
        advice = ", or use --offload auto" if offload in ("none", "model") and links.exist(torch_device) else ""
        fits = flux_loader.fitting(needed, height, found.memory_free, whole=offload == "none")
        advice += f". A height of {fits} would fit" if fits else ""
        found.problems.append(
            f"This needs about {_size(found.memory_needed)}; {_size(found.memory_free)} are free on the device. "
            f"Close other programs, or lower the height{advice}."
        )
    elif settings.memory is not None and found.memory_needed > settings.memory * 2**30:
        found.problems.append(
            f"This needs about {_size(found.memory_needed)}; the budget is {settings.memory:g} GB. Give a larger one."
        )
    return found


def _part_lines(networks: dict[str, Part]) -> list[PartLine]:
    return [
        PartLine(name=name, parameters=part.parameters, dtype=", ".join(part.dtypes), bytes=part.bytes)
        for name, part in networks.items()
    ]


def _inspect_flux(settings: EngineSettings, found: Diagnosis) -> _Needed:
    """Add what there is of FLUX, and return what perception needs. Raise WeightsError where there is no such base."""
    checkpoint = checkpoints.locate(settings, None)
    found.model, found.adapters = checkpoint.name, checkpoint.adapters
    found.trained = checkpoint.config.trained
    base = checkpoints.inspect(checkpoint.path, dtype=settings.dtype)
    found.parts = _part_lines({"transformer": base.transformer, "vae": base.vae})
    found.prompt = text_encoding.origin(checkpoint, base)
    if not found.prompt:
        found.problems.append(NO_ENCODERS)
    found.streams = flux_adapters(checkpoint.adapters, stream_adapters.targets(base.transformer.config))
    found.problems += [line.problem for line in found.streams if line.problem]
    where = device.choose(settings)
    source = flux_loader.Source(settings, checkpoint, where, device.choose_dtype(settings, where))
    flux_loader.check_device(source, base)
    return flux_loader.needs(source, base), checkpoint.config.height


def _inspect_sd21(settings: EngineSettings, found: Diagnosis) -> _Needed:
    """Add what there is of Stable Diffusion and MV-Adapter, and return what the weights of the base need.

    An adapter of one task is enough. Raise WeightsError where there is no such base.
    """
    path, found.model, _ = sd21_checkpoints.locate(settings.model, None)
    found.adapters, found.trained = loader.adapter_source(settings), True
    base = sd21_checkpoints.inspect(path)
    found.parts = _part_lines({"unet": base.unet, "vae": base.vae})
    found.prompt = "text encoders" if base.text_encoder else ""
    if not found.prompt:
        found.problems.append("There is no text encoder: copy the folders text_encoder and tokenizer.")
    found.streams = multiview_adapters(base, found.adapters)
    if all(line.problem for line in found.streams):
        found.problems += [line.problem for line in found.streams]
    dtype = device.choose_dtype(settings, device.choose(settings))
    need = sd21_need((base.unet.parameters, base.vae.parameters), dtype)
    return lambda _: need, settings.spec.qualities["standard"].height


def sd21_need(parameters: tuple[int, int], dtype: torch.dtype) -> Need:
    """Return what the weights of U-Net and VAE, of so many parameters, need."""
    loaded = [count * dtype.itemsize for count in parameters]
    return Need(everything=sum(loaded), denoising=max(loaded), least=0)


def multiview_adapters(base: sd21_checkpoints.Base, source: str) -> list[AdapterLine]:
    """Compare the files of MV-Adapter in `source` with the tensors that this base needs, a line for each task."""
    unet = parts.built(base.unet.cls, base.unet.config, base.unet.place)
    factor = 2 ** (len(base.vae.config["block_out_channels"]) - 1)
    lines = []
    for task in MULTIVIEW_TASKS:
        line = AdapterLine(task=task)
        lines.append(line)
        try:
            shapes = multiview.adapter_parts(unet, task, factor).shapes
            line.modules = len(shapes)
            file = adapter.find(source, task, local_files_only=True)
            line.filled, problem = adapter.inspect(file, shapes)
        except PanoformError as error:
            line.problem = str(error)
            continue
        header = parts.read_header(file)
        line.file, line.bytes = str(file), file.stat().st_size
        line.dtype = ", ".join(sorted({dtype for dtype, _ in header.values()}))
        line.problem = f"{file}: {problem}." if problem else ""
    return lines


def flux_adapters(source: str, shapes: stream_adapters.Shapes) -> list[AdapterLine]:
    """Compare the adapters of perception in `source` with the modules that they must fill, a line for each stream."""
    return [_inspect_adapter(source, task, stream, shapes) for task in MAPS_OF_TASK for stream in TASKS[task].streams]


def _inspect_adapter(source: str, task: str, stream: str, shapes: stream_adapters.Shapes) -> AdapterLine:
    line = AdapterLine(task=task, stream=stream)
    try:
        file = stream_adapters.find(source, task, stream, local_files_only=True)
        report = stream_adapters.inspect(file, shapes)
    except PanoformError as error:
        line.problem = str(error)
        return line
    problem = f"{file}: {report.problem}." if report.problem else ""
    return AdapterLine(
        task=task, stream=stream, file=str(file), filled=report.filled, modules=report.modules,
        rank=report.rank, dtype=report.dtype, bytes=report.bytes, problem=problem,
    )  # fmt: skip


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.1f} MB"
