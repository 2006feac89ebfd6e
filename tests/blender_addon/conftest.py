"""Blender for tests: the bpy module in this process, and the application where the machine has it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

REAL_BLENDER = ROOT.parent / "shared" / "tools" / "real-blender"
#: Blender → the Python it runs on.
REAL_PYTHON = {"4.3": "3.13", "5.2": "3.14"}


#: The tool mounts the folder above the checkout inside Blender's root, and leaves it there. Mounts of our own end with
#: the command; and where an earlier checkout at this path is still mounted, which is gone by now, it makes way.
IN_OWN_MOUNTS = ("unshare", "--mount", "sh", "-c", 'umount --lazy "$0" 2>/dev/null; exec "$@"')


def _root(version: str) -> Path:
    """The root that the tool runs that Blender in."""
    home = os.environ.get("REAL_BLENDER_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(home or cache / "real-blender") / version


def _installed(version: str) -> bool:
    """Whether that Blender is on this machine; the tool, asked to run it, would begin with minutes of installing."""
    return (_root(version) / ".ready").exists()


@pytest.fixture
def scene():
    """An empty Blender: bpy is one global state a process."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    return bpy.context.scene


@pytest.fixture(params=sorted(REAL_PYTHON))
def real_blender(request, tmp_path):
    """`run(*arguments, verb="run")` starts the Blender application under an empty user folder and returns its output.

    Its Debian builds come without numpy, which every other Blender has; msgspec is for scripts that run without the
    extension, which brings it.
    """
    version = request.param
    if not (REAL_BLENDER.exists() and _installed(version)):
        pytest.skip(f"no real Blender {version} here")
    user = tmp_path / "user"
    modules = user / "scripts" / "addons" / "modules"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--python-version"]
    subprocess.run(
        [*install, REAL_PYTHON[version], "--target", str(modules), "numpy", "msgspec"], check=True, capture_output=True
    )

    def run(*arguments: str, verb: str = "run", timeout: float = 300) -> str:
        done = subprocess.run(
            [*IN_OWN_MOUNTS, f"{_root(version)}{ROOT.parent}", str(REAL_BLENDER), verb, version, *arguments],
            cwd=ROOT,
            env=os.environ | {"BLENDER_USER_RESOURCES": str(user)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def registered():
    """The add-on, registered in this process as Blender registers an extension."""
    import bpy

    from panoform import blender_addon

    blender_addon.register()
    yield blender_addon
    blender_addon.unregister()
    assert not hasattr(bpy.types.Scene, "panoform")


@pytest.fixture
def addon(registered, scene, tmp_path_factory, monkeypatch):
    """An empty Blender with the add-on, whose backend runs on this Python; `jobs` is as new but for a backend that
    an earlier test started."""
    import bpy

    from panoform.blender_addon import preferences
    from panoform.blender_addon.jobs.manager import jobs

    entry = bpy.context.preferences.addons.new()
    entry.module = preferences.EXTENSION
    entry.preferences.folder = str(tmp_path_factory.getbasetemp() / "données of Panoform")
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", sys.executable)
    jobs.job = jobs.failure = None
    jobs.results.clear()
    return jobs


@pytest.fixture(scope="session")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zips")
    subprocess.run([sys.executable, str(ROOT / "build_addon.py"), "--out", str(folder)], check=True)
    return folder


@pytest.fixture
def blender(real_blender: Callable, request: pytest.FixtureRequest, zips: Path, monkeypatch) -> Callable:
    """`real_blender` with the zip for that version installed, whose backend runs on this Python."""
    version = request.node.callspec.params["real_blender"]
    (zip_path,) = zips.glob(f"*-blender-{'4.2' if version < '5.1' else '5.1'}.zip")
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    install = ("--background", "--command", "extension", "install-file", "-r", "user_default", "--enable")
    real_blender(*install, str(zip_path), timeout=120)
    return real_blender


@pytest.fixture
def in_window(blender):
    """`run(out, *script)` runs a script in a window until it has written out/seen.json, and returns that."""

    def run(out: Path, *script: str) -> dict:
        # The tool that gives the window only waits for a time.
        with ThreadPoolExecutor() as pool:
            window = pool.submit(blender, str(out / "end.png"), "600", *script, verb="gui", timeout=700)
            while not window.done() and not (out / "seen.json").exists():
                time.sleep(0.5)
            time.sleep(3)  # Blender quits
            for child in psutil.Process().children(recursive=True):
                if child.name() == "sleep":
                    child.terminate()
            said = window.result()
        assert (out / "seen.json").exists(), said
        return json.loads((out / "seen.json").read_text())

    return run
