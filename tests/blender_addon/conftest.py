"""Blender for tests: the bpy module in this process, and the application if installed."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]

REAL_BLENDER = ROOT.parent / "shared" / "tools" / "real-blender"
#: Blender version → its Python version.
REAL_PYTHON = {"4.3": "3.13", "5.2": "3.14"}
NEWEST = "5.2"
#: Timeout of a script in a window, and of its error report after a failure, in seconds.
WINDOW_S, GRACE_S = 600, 10


#: The tool mounts the folder above the checkout inside Blender's root and leaves it mounted. In a mount namespace, the
#: mounts end with the command; a stale mount of an earlier checkout at this path is removed first.
IN_OWN_MOUNTS = ("unshare", "--mount", "sh", "-c", 'umount --lazy "$0" 2>/dev/null; exec "$@"')


def _root(version: str) -> Path:
    """Return the root folder in which the tool runs that Blender."""
    home = os.environ.get("REAL_BLENDER_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(home or cache / "real-blender") / version


def _installed(version: str) -> bool:
    """Return whether that Blender is installed; if not, the tool would first install it for minutes."""
    return (_root(version) / ".ready").exists()


@pytest.hookimpl(tryfirst=True)  # before -m evaluates the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests with the Blender application as slow, with a longer timeout. Only those marked `every_blender` run, in
    the newest version, unless --every-blender asks for all, in all versions."""
    left_out = []
    for item in items:
        if item.get_closest_marker("real_blender"):
            item.add_marker(pytest.mark.slow)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(2 * WINDOW_S))
            is_chosen = NEWEST in item.name and item.get_closest_marker("every_blender")
            if not (is_chosen or config.getoption("--every-blender")):
                left_out.append(item)
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def _factory_settings():
    """Reset the preferences too, once: this registers all of Blender's own add-ons again, for 60 ms of CPU time."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)


@pytest.fixture
def scene(_factory_settings):
    """An empty file in Blender: bpy has one global state in each process. Tests must restore preferences they set."""
    import bpy

    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True, load_ui=True)
    return bpy.context.scene


def _is_blender(process: psutil.Process) -> bool:
    """Return whether it is a Blender that runs."""
    try:
        return process.name() == "blender" and process.status() != "zombie"
    except psutil.NoSuchProcess:  # it ended meanwhile
        return False


def _children(pid: int) -> list[psutil.Process]:
    """Return what that process has started and still runs."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


class RealBlender:
    """The Blender application of one version under an empty user folder."""

    def __init__(self, version: str, user: Path) -> None:
        self.version = version
        self._user = user
        self._starts = 0

    def start(self, *arguments: str, verb: str = "run") -> tuple[subprocess.Popen[bytes], Path]:
        """Start Blender; return the process and its log file."""
        self._starts += 1
        log = self._user.with_name(f"blender {self._starts}.log")
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [
                    *IN_OWN_MOUNTS,
                    f"{_root(self.version)}{ROOT.parent}",
                    str(REAL_BLENDER),
                    verb,
                    self.version,
                    *arguments,
                ],
                cwd=ROOT,
                env=os.environ | {"BLENDER_USER_RESOURCES": str(self._user)},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        return process, log

    def __call__(self, *arguments: str, verb: str = "run", timeout: float = 300) -> str:
        """Run Blender and return its output. Raise AssertionError, with the output, if it fails."""
        process, log = self.start(*arguments, verb=verb)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        output = log.read_text("utf-8", "replace")
        assert code == 0, output
        return output

    def in_window(self, out: Path, *script: str, seconds: int = WINDOW_S) -> dict:
        """Run a script in a window until it writes out/seen.json, for `seconds` at most, and return its content.

        It fails, with Blender's output, soon after the script did: where there is a traceback, or Blender has ended.
        """
        seen = out / "seen.json"
        window, log = self.start(str(out / "end.png"), str(seconds), *script, verb="gui")
        came_up, failed_since = False, None
        while window.poll() is None and not seen.exists():
            up = any(map(_is_blender, _children(window.pid)))
            came_up = came_up or up
            if failed_since is None and ((came_up and not up) or b"Traceback (most recent call" in log.read_bytes()):
                failed_since = time.monotonic()
            if failed_since is not None and time.monotonic() - failed_since > GRACE_S:
                break
            time.sleep(0.5)
        ended = time.monotonic() + GRACE_S
        while time.monotonic() < ended and any(map(_is_blender, _children(window.pid))):
            time.sleep(0.2)
        # The tool that gives the window only waits for a time, then ends what it started.
        for child in _children(window.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == "sleep":
                    child.terminate()
        window.wait(60)
        assert seen.exists(), log.read_text("utf-8", "replace")
        return json.loads(seen.read_text())


def _once(name: str, make: Callable[[Path], object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of that name, which `make` fills once per test run."""
    base = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has its own folder in that of the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(folder.with_name(f"{name}.lock")):
        if not folder.exists():
            draft = folder.with_name(f"{name}.draft")
            make(draft)
            draft.rename(folder)
    return folder


def _modules(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install numpy and msgspec for that Blender's Python, and return their folder."""

    def make(folder: Path) -> None:
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "--python-version"]
        packages = ["--target", str(folder), "numpy", "msgspec"]
        subprocess.run([*install, REAL_PYTHON[version], *packages], check=True, capture_output=True)

    return _once(f"modules of {version}", make, tmp_path_factory)


@pytest.fixture(params=sorted(REAL_PYTHON))
def real_blender(request, tmp_path, tmp_path_factory) -> RealBlender:
    """Its Debian builds come without numpy, which every other Blender has; msgspec is for scripts that run without the
    extension, which brings it."""
    version = request.param
    if not (REAL_BLENDER.exists() and _installed(version)):
        pytest.skip(f"no real Blender {version} here")
    user = tmp_path / "user"
    _link_modules(user, version, tmp_path_factory)
    return RealBlender(version, user)


def _link_modules(user: Path, version: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make a user folder whose Blender finds `_modules`."""
    (user / "scripts" / "addons").mkdir(parents=True)
    (user / "scripts" / "addons" / "modules").symlink_to(_modules(version, tmp_path_factory))


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
    jobs.queue.clear()
    jobs.results.clear()
    yield jobs
    addons = bpy.context.preferences.addons
    addons.remove(addons[preferences.EXTENSION])


@pytest.fixture
def connection(addon):
    """The connection to the backend process that the add-on's tests share."""
    addon.start()
    while (connection := addon.session.process.poll()) is None:
        time.sleep(0.02)
    return connection


@pytest.fixture
def stopped(addon):
    """`addon` without a running backend. One that an earlier test started is kept for later tests, because the first
    job in a backend takes seconds."""
    kept, addon.session = addon.session, None
    yield addon
    addon.stop(wait=True)
    addon.session = kept


@pytest.fixture
def blender(real_blender: RealBlender, zips: Path, tmp_path: Path, tmp_path_factory, monkeypatch) -> RealBlender:
    """`real_blender` with the zip for that version installed, whose backend runs on this Python."""
    version = real_blender.version
    (zip_path,) = zips.glob(f"*-blender-{'4.2' if version < '5.1' else '5.1'}.zip")
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def install(user: Path) -> None:
        _link_modules(user, version, tmp_path_factory)
        command = ("--background", "--command", "extension", "install-file", "-r", "user_default", "--enable")
        RealBlender(version, user)(*command, str(zip_path), timeout=120)

    installed = _once(f"user of {version}", install, tmp_path_factory)
    user = tmp_path / "user with the extension"
    shutil.copytree(installed, user, symlinks=True)
    return RealBlender(version, user)


@pytest.fixture
def in_window(blender: RealBlender):
    """`RealBlender.in_window` of a Blender with the extension."""
    return blender.in_window
