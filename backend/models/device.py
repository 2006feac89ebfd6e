"""The device a model runs on: its choice, its memory, and errors for running out of it."""

from __future__ import annotations

import gc
import platform
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import psutil
import torch

from ...shared.engines import ROUNDINGS, EngineSettings
from ...shared.protocol.errors import DeviceMemoryError, SettingError
from . import links

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
#: Messages of PyTorch's allocators on CPU (Linux, Windows) and MPS; CUDA's has an exception class of its own.
_EXHAUSTED = re.compile(r"not enough memory|can't allocate memory|out of memory", re.IGNORECASE)
_REQUESTED = re.compile(r"tried to allocate ([\d.]+)\s*(GiB|MiB|KiB|GB|MB|KB|bytes)", re.IGNORECASE)
_UNITS = {"gib": 2**30, "mib": 2**20, "kib": 2**10, "gb": 2**30, "mb": 2**20, "kb": 2**10, "bytes": 1}


def choose(settings: EngineSettings) -> torch.device:
    """Return the device that the settings name, or the best available. Raise SettingError for a missing one."""
    counts = _counts()
    name = next(kind for kind, count in counts.items() if count) if settings.device == "auto" else settings.device
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingError(f"There is no device called {name!r}.", "Use auto, cpu, cuda, cuda:1, xpu or mps.") from None
    if (device.index or 0) >= counts.get(device.type, 0):
        found = ", ".join(kind for kind, count in counts.items() if count)
        raise SettingError(f"The device {name} is not on this computer.", f"Use auto, or one of {found}.")
    if not links.exist(device) and (settings.offload not in ("auto", "none") or settings.memory is not None):
        where = {"cpu": "the model runs on the CPU", "xpu": "on Intel's GPUs that is not built in"}.get(
            device.type, f"{name} uses the computer's memory"
        )
        if settings.memory is not None:
            raise SettingError(f"A memory budget is for a GPU with its own memory, but {where}.", "Leave it out.")
        raise SettingError(f"Offloading moves weights off a GPU, but {where}.", "Use the offload mode auto.")
    return device


def _counts() -> dict[str, int]:
    """Return the number of devices of each kind, the best kind first. ROCm's are of the kind cuda."""
    return {
        "cuda": usable(torch.cuda),
        "xpu": usable(torch.xpu),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }


def usable(kind: ModuleType) -> int:
    """Return the number of devices of `kind`, torch.cuda or torch.xpu, that can be used.

    `device_count` alone asks the driver, and also counts those whose driver is too old for PyTorch.
    """
    return kind.device_count() if kind.is_available() else 0


def choose_dtype(settings: EngineSettings, device: torch.device) -> torch.dtype:
    """Return the precision of the products, and of weights that are not quantised.

    With "auto", "int8" and "nf4" it is the engine's own; where it has none, float32 on CPUs (where bfloat16 took 50
    times as long), else bfloat16, or float16 on GPUs without it.
    """
    dtype = settings.spec.dtype if settings.dtype in ("auto", *ROUNDINGS) else settings.dtype
    if dtype != "auto":
        return _DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    return torch.float16 if device.type == "cuda" and not torch.cuda.is_bf16_supported(False) else torch.bfloat16


def dtype_name(settings: EngineSettings, dtype: torch.dtype) -> str:
    """Return the name of the precision that was chosen, as `--dtype` takes it."""
    if settings.dtype in ROUNDINGS:
        return settings.dtype
    return next(name for name, value in _DTYPES.items() if value == dtype)


def name(device: torch.device) -> str:
    """Return the name of a device for display: "NVIDIA GeForce RTX 4070", "Apple GPU", "CPU (x86_64)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "xpu":
        return torch.xpu.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else f"CPU ({platform.machine()})"


def memory(device: torch.device) -> tuple[int, int]:
    """Return (free, total) memory in bytes; for the CPU and Apple's GPUs that of the computer."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What torch has taken and doesn't use is free to us.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total
    if device.type == "xpu":
        total = torch.xpu.get_device_properties(device).total_memory
        return total - torch.xpu.memory_allocated(device), total  # what others use is not told by every driver
    found = psutil.virtual_memory()
    return found.available, found.total


def held(device: torch.device) -> int:
    """Return the device's memory that this process has taken for tensors, in bytes; 0 for the CPU."""
    match device.type:
        case "cuda":
            return torch.cuda.memory_allocated(device)
        case "xpu":
            return torch.xpu.memory_allocated(device)
        case "mps":
            return torch.mps.current_allocated_memory()
    return 0


def taken(device: torch.device) -> int:
    """Return the device's memory that other programs can't use because of this process, in bytes."""
    if device.type in ("cuda", "xpu"):
        return torch.get_device_module(device).memory_reserved(device)
    return psutil.Process().memory_info().rss


def free(device: torch.device, budget: int | None) -> int:
    """Return the device's memory that is free, or is left of `budget` for the process, in bytes."""
    found = memory(device)[0]
    return found if budget is None else min(found, budget - held(device))


@contextmanager
def translate_out_of_memory(what: str, device: torch.device, hint: str | Callable[[], str] = "") -> Iterator[None]:
    """Raise a DeviceMemoryError, with the amounts requested and free, where the block runs out of memory.

    `what` names the work in the message; `hint`, or what it returns, replaces the general advice.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not _EXHAUSTED.search(str(error)):
            raise
        free, total = memory(device)
        requested = _REQUESTED.search(str(error))
        amount = (
            f" ({_size(float(requested[1]) * _UNITS[requested[2].lower()])} more were requested)" if requested else ""
        )
        # The frames of the traceback refer to the tensors that filled the memory.
        traceback.clear_frames(error.__traceback__)
        gc.collect()
        if device.type != "cpu":
            torch.get_device_module(device).empty_cache()
        raise DeviceMemoryError(
            f"{what} ran out of memory on {name(device)}{amount}: {_size(free)} of {_size(total)} are free.",
            (hint if isinstance(hint, str) else hint()) or _less_memory(device),
        ) from None


def _less_memory(device: torch.device) -> str:
    if device.type == "cpu":  # offloading needs a GPU
        return "Lower the height, and close other programs."
    return "Lower the height, close other programs on the device, or use the offload mode auto or sequential."


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
