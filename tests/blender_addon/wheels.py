"""Valid wheels, made for tests of the set-up."""

from __future__ import annotations

import zipfile
from pathlib import Path


def make_wheel(
    folder: Path, version: str = "0.1.0", requires: str = "", metadata: str = "", name: str = "panoform"
) -> Path:
    """Make a valid wheel: one module, and at most one dependency."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + metadata
    files = {
        f"{name}/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": metadata + (f"Requires-Dist: {requires}\n" if requires else ""),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return path


def make_uv(folder: Path) -> Path:
    """Make a wheel of a program uv that prints its arguments."""
    path, info = folder / "uv-9.0-py3-none-any.whl", "uv-9.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        program = zipfile.ZipInfo("uv-9.0.data/scripts/uv")
        program.external_attr = 0o100755 << 16  # executable
        archive.writestr(program, '#!/bin/sh\necho uv has "$@"\n')
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 9.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path
