"""`shared` and the add-on on the later Pythons of Blender: 3.13 (5.1; Linux distributions' 4.2 to 5.0) and 3.14 (5.2).

Where such a Python is installed, it compiles both folders, warnings being errors, and runs tests/shared in an
environment of its own. The tests with the Blender application run the add-on itself on 3.13 (4.3) and on 3.14 (5.2).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("numpy", "msgspec", "pyzmq", "pytest")


def interpreter(version: str) -> Path | None:
    """A Python of that version, on PATH or of pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for candidate in (shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python{version}")):
        # pyenv's shim is on PATH even where the version isn't active.
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return Path(candidate)
    return None


def run(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["3.13", "3.14"])
def python(request: pytest.FixtureRequest) -> Path:
    found = interpreter(request.param)
    if found is None:
        pytest.skip(f"no Python {request.param} here")
    return found


def test_every_module_compiles_without_a_warning(python: Path, tmp_path: Path) -> None:
    command = (python, "-W", "error", "-m", "compileall", "-q", "-f", "shared", "blender_addon")
    run(*command, PYTHONPYCACHEPREFIX=str(tmp_path))


@pytest.mark.slow
def test_shared_passes_its_tests(python: Path, tmp_path: Path) -> None:
    run(python, "-m", "venv", "--without-pip", tmp_path / "venv")
    own = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = ("install", "--quiet", "--no-compile", "-c", "constraints.txt", *PACKAGES)
    run(sys.executable, "-m", "pip", "--python", own, *install)
    # A copy, which neither pyproject.toml's options nor tests/conftest.py, both of the whole environment, reach.
    shutil.copytree(ROOT / "shared", tmp_path / "panoform" / "shared")
    shutil.copytree(ROOT / "tests" / "shared", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\naddopts = --import-mode=importlib\nmarkers = slow\n", "utf-8"
    )
    said = run(own, "-m", "pytest", "-q", "--rootdir", tmp_path, tmp_path / "tests", PYTHONPATH=str(tmp_path))
    assert " passed" in said
