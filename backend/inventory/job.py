"""List all weights and what this computer can run, by headers only: no weight is read, nothing is downloaded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch

from ...shared.engines import EngineSettings, check_engine
from ...shared.jobs.models import (
    DeviceState,
    ModelsReply,
    ModelsRequest,
    Precision,
    WeightsState,
)
from ...shared.protocol.errors import AdapterError, PanoformError, SettingError
from ...shared.weights import WEIGHTS
from ..generation import session
from ..jobs.progress import ProgressReporter
from ..models import device, links
from ..models.cache import ModelCache
from ..models.flux import checkpoints, stream_adapters, text_encoding
from ..models.flux import loader as flux_loader
from ..models.flux.memory import Need
from ..models.folders import models_folder
from ..models.sd21 import adapter
from ..models.sd21 import checkpoints as sd21_checkpoints
from ..models.sd21 import loader as sd21_loader
from ..pipelines import dit360
from . import comfyui
from .diagnosis import MULTIVIEW_TASKS, NO_ENCODERS, AdapterLine, flux_adapters, multiview_adapters, sd21_need
from .download import incomplete_folder

#: Parameters of Stable Diffusion 2.1's U-Net and VAE.
SD21_PARAMETERS = (865_910_724, 83_653_863)
#: FLUX on this computer, and its networks by their headers.
FluxBase = tuple[checkpoints.Checkpoint, checkpoints.Base]


def run(request: ModelsRequest, models: ModelCache, reporter: ProgressReporter) -> ModelsReply:
    """List the weights of the engines that `request` names. Raise SettingError for invalid settings."""
    began = time.monotonic()
    reporter.progress("Reading what is here", 0, 0, 0.0, None)
    states: dict[str, WeightsState] = {}
    precisions: dict[str, tuple[Precision, ...]] = {}
    chosen = problem = ""
    for settings in request.engines:
        check_engine(settings)
        inspect, needs = {"flux": (_flux, _flux_needs), "sd21": (_sd21, _sd21_needs)}[settings.spec.family]
        found, base = inspect(settings)
        states |= {state.name: state for state in found}
        try:
            where = device.choose(settings)
        except SettingError as error:
            problem = str(error)
            continue
        chosen = chosen or _name(where)
        listed = needs(settings, base, where)
        precisions[settings.engine] = tuple(_precision(name, need, where) for name, need in listed)
    folder = models_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return ModelsReply(
        id=request.id,
        weights=tuple(_with_incomplete(states[name]) for name in WEIGHTS if name in states),
        devices=tuple(_devices()),
        device=chosen,
        problem=problem,
        precisions=precisions,
        folder=str(folder),
        disk_free=shutil.disk_usage(existing).free,
        seconds=time.monotonic() - began,
    )


def _with_incomplete(state: WeightsState) -> WeightsState:
    files = incomplete_folder(WEIGHTS[state.name]).rglob("*")
    return msgspec.structs.replace(state, incomplete=sum(file.stat().st_size for file in files if file.is_file()))


# FLUX


def _flux(settings: EngineSettings) -> tuple[list[WeightsState], FluxBase | None]:
    """Return what there is for FLUX, and its base if it is complete."""
    found = comfyui.find(checkpoints.inspect)
    base = None
    try:
        checkpoint = checkpoints.locate(settings, None)
        base = checkpoint, checkpoints.inspect(checkpoint.path)
    except PanoformError as error:
        state = WeightsState(name="flux", problem=error.message, found=found)
        adapters = checkpoints.adapters_of(settings, None)
        shapes = stream_adapters.targets(checkpoints.planned().transformer.config)
    else:
        adapters, shapes = checkpoint.adapters, stream_adapters.targets(base[1].transformer.config)
        size = sum(file.stat().st_size for file in {*base[1].transformer.files, *base[1].vae.files})
        problem = "" if text_encoding.origin(checkpoint, base[1]) else NO_ENCODERS
        state = WeightsState(name="flux", place=str(checkpoint.path), bytes=size, problem=problem, found=found)
    return [state, _adapters("omnix", adapters, flux_adapters(adapters, shapes)), _dit360()], base


def _adapters(name: str, source: str, lines: Sequence[AdapterLine], *, one_is_enough: bool = False) -> WeightsState:
    """Return the state of adapters of which these were found."""
    here = [line for line in lines if line.file]
    if not here:
        return WeightsState(name=name, problem=f"{source} is not on this computer.")
    faulty = [line for line in lines if line.problem]
    problem = "" if not faulty or (one_is_enough and len(faulty) < len(lines)) else faulty[0].problem
    if len(faulty) > 1 and problem:
        problem = f"{len(faulty)} of {len(lines)} adapters can't be used. {problem}"
    return WeightsState(name=name, place=source, bytes=sum(line.bytes for line in here), problem=problem)


def _dit360() -> WeightsState:
    try:
        place = session.find_lora(dit360.ADAPTER, None)
    except AdapterError as error:
        return WeightsState(name="dit360", problem=error.message)
    assert place is not None
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    return WeightsState(name="dit360", place=str(place), bytes=sum(file.stat().st_size for file in files))


def _flux_needs(settings: EngineSettings, base: FluxBase | None, where: torch.device) -> list[tuple[str, Need]]:
    """Return what perception needs, by its precision: that of the device, and the roundings where they apply."""
    checkpoint, read = base or (
        checkpoints.Checkpoint(Path(checkpoints.FLUX_ID), "", checkpoints.FLUX_CONFIG, checkpoints.FLUX_ID, ""),
        checkpoints.planned(),
    )
    needs = []
    for name in ("auto",) if read.transformer.quantised else ("auto", "int8", "nf4"):
        own = msgspec.structs.replace(settings, dtype=name)
        dtype = device.choose_dtype(own, where)
        source = flux_loader.Source(own, checkpoint, where, dtype)
        needs.append((device.dtype_name(own, dtype), flux_loader.need(source, checkpoints.rounded(read, name))))
    return needs


# Stable Diffusion


def _sd21(settings: EngineSettings) -> tuple[list[WeightsState], sd21_checkpoints.Base | None]:
    """Return what there is for Stable Diffusion, and its base if it is complete."""
    found = comfyui.find(sd21_checkpoints.inspect)
    base, source = None, sd21_loader.adapter_source(settings)
    try:
        path, _, _ = sd21_checkpoints.locate(settings.model, None)
        base = sd21_checkpoints.inspect(path)
    except PanoformError as error:
        state = WeightsState(name="sd21", problem=error.message, found=found)
        lines = [_present(source, task) for task in MULTIVIEW_TASKS]
    else:
        files = {*base.unet.files, *base.vae.files, *base.text_encoder}
        problem = "" if base.text_encoder else "There is no text encoder: copy the folders text_encoder and tokenizer."
        size = sum(file.stat().st_size for file in files)
        state = WeightsState(name="sd21", place=str(path), bytes=size, problem=problem, found=found)
        lines = multiview_adapters(base, source)
    return [state, _adapters("mv-adapter", source, lines, one_is_enough=True)], base


def _present(source: str, task: str) -> AdapterLine:
    """Return whether there is a file for a task, whose base isn't here to compare it with."""
    try:
        file = adapter.find(source, task, local_files_only=True)
    except PanoformError as error:
        return AdapterLine(task=task, problem=str(error))
    return AdapterLine(task=task, file=str(file), bytes=file.stat().st_size)


def _sd21_needs(
    settings: EngineSettings, base: sd21_checkpoints.Base | None, where: torch.device
) -> list[tuple[str, Need]]:
    dtype = device.choose_dtype(settings, where)
    parameters = SD21_PARAMETERS if base is None else (base.unet.parameters, base.vae.parameters)
    need = sd21_need(parameters, dtype)
    return [(device.dtype_name(settings, dtype), Need(need.everything, need.denoising, need.denoising))]


# Devices


def _precision(name: str, need: Need, where: torch.device) -> Precision:
    free = device.memory(where)[0]
    least = need.least if links.exist(where) else need.everything
    runs = "whole" if need.everything <= free else "streams" if least <= free else "no"
    return Precision(dtype=name, least=least, everything=need.everything, runs=runs)


def _devices() -> list[DeviceState]:
    names = ["cpu", *(f"cuda:{index}" for index in range(device.usable(torch.cuda)))]
    if torch.backends.mps.is_available():
        names.append("mps")
    states = []
    for name in names:
        free, total = device.memory(torch.device(name))
        states.append(
            DeviceState(name=name, label=device.name(torch.device(name)), memory_free=free, memory_total=total)
        )
    return states


def _name(where: torch.device) -> str:
    """Return the name of a device among those of `_devices`."""
    return f"cuda:{where.index or 0}" if where.type == "cuda" else where.type
