"""Which build of PyTorch this computer needs: with CUDA or ROCm where there is such a GPU, else one for CPUs."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

#: Where Linux shows NVIDIA's driver: the kernel's, and that of Windows below it (WSL).
_LINUX_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/usr/lib/wsl/lib/libcuda.so.1")


def needs_large_build() -> bool:
    """Return whether there is a GPU of NVIDIA, or on Linux one of AMD with ROCm: its build takes gigabytes."""
    return sys.platform in ("win32", "linux") and (_has_nvidia() or _has_rocm())


def uv_backend() -> Literal["auto", "cpu"] | None:
    """Return the value of uv's option --torch-backend; None where PyPI's own build is the right one, and pip enough.

    PyPI has builds with CUDA for Linux, and builds for CPUs for Windows and macOS.
    """
    if sys.platform == "win32":
        return "auto" if _has_nvidia() else None
    if sys.platform == "linux" and not _has_nvidia():
        return "auto" if _has_rocm() else "cpu"
    return None


def has_own_index(settings: str) -> bool:
    """Return whether the output of `pip config list` names an index or a folder of packages."""
    return re.search(r"\b(index-url|find-links|no-index)=", settings) is not None


def _has_nvidia() -> bool:
    if sys.platform == "win32":  # the driver includes this library
        return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()
    return any(Path(path).exists() for path in _LINUX_DRIVERS)


def _has_rocm() -> bool:
    """Return whether AMD's ROCm is installed on Linux, as uv finds it."""
    return sys.platform == "linux" and shutil.which("rocm_agent_enumerator") is not None
