"""Which build of PyTorch the set-up takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from panoform.blender_addon.backend import torch_build


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", None])
def test_index_of_the_user_chooses_the_build(monkeypatch, name: str | None) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_TIMEOUT", "9")
    if name:
        monkeypatch.setenv(name, "1" if name == "PIP_NO_INDEX" else "http://127.0.0.1:9/simple")
    command = [sys.executable, "-I", "-m", "pip", "config", "list"]
    settings = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert torch_build.has_own_index(settings) == bool(name)


@pytest.mark.parametrize(
    ("system", "present", "rocm", "backend", "large"),
    [
        ("linux", "", False, "cpu", False),
        ("linux", "/proc/driver/nvidia/version", False, None, True),
        ("linux", "/usr/lib/wsl/lib/libcuda.so.1", False, None, True),
        ("linux", "", True, "auto", True),
        ("win32", "", False, None, False),
        ("win32", "nvcuda.dll", False, "auto", True),
        ("darwin", "", False, None, False),
    ],
)
def test_build_of_torch_for_each_computer(monkeypatch, system, present, rocm, backend, large) -> None:
    """Without a GPU no system gets the gigabytes of CUDA."""
    monkeypatch.setattr(torch_build.sys, "platform", system)
    monkeypatch.setattr(Path, "exists", lambda path: bool(present) and path.as_posix().endswith(present))
    monkeypatch.setattr(torch_build.shutil, "which", lambda name: name if rocm else None)
    assert torch_build.uv_backend() == backend
    assert torch_build.needs_large_build() == large
