"""Fixtures shared by the tests of the backend and the add-on."""

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

ROOT = Path(__file__).resolve().parents[1]
_EXIT_STATUS = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-blender", action="store_true", help="run all tests with the Blender application, in all its versions"
    )


# Collecting garbage while torch, diffusers and all tests are imported takes 3 s of CPU time in each worker, and each
# later visit to their objects half a second.
gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the extension's zips, once per test run, and return their folder.

    Its name has a space and a non-ASCII letter.
    """
    base = tmp_path_factory.getbasetemp()
    # Each worker of pytest-xdist has its own folder in that of the run.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "built zips ü"
    with FileLock(folder.with_name("built zips.lock")):
        if not folder.exists():
            draft = folder.with_name("built zips.draft")
            command = [sys.executable, str(ROOT / "build_addon.py"), "--out", str(draft)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stdout + result.stderr
            draft.rename(folder)
    return folder


#: These run in one worker of pytest-xdist and share one backend process: the first job in each takes 7 s.
_SHARING_A_BACKEND = tuple(
    f"tests/blender_addon/{place}"
    for place in ("generate/", "jobs/", "perceive/", "texture/", "scene/test_mesh.py", "test_command.py")
)
#: What takes longest is started first, so that no worker waits for another at the end.
_FIRST = (
    "sharing a backend",
    "tests/backend/starter/test_starter_accuracy.py",
    "tests/backend/training/test_fit.py",
    "tests/blender_addon/scene/test_relit.py",
    "tests/blender_addon/capture/test_image_limits.py",
    "tests/backend/pipelines/test_flux_gpu.py",
    "tests/test_python_versions.py",
)


class _Scheduling(LoadFileScheduling):
    """Each file runs in one worker, as with `--dist loadfile`; a test with the Blender application shares nothing with
    others of its file, and runs where there is time."""

    def _split_scope(self, nodeid: str) -> str:
        if "test_real_blender" in nodeid:
            return nodeid
        return "sharing a backend" if nodeid.startswith(_SHARING_A_BACKEND) else super()._split_scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        real = [scope for scope in self.workqueue if "test_real_blender" in scope]
        for scope in reversed([*_FIRST, *real]):
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the process at once if bpy was imported.

    When a process exits, bpy 4.5 destroys a condition variable that a thread of its own waits for, and may hang.
    """
    if "bpy" in sys.modules and _EXIT_STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_EXIT_STATUS])
