"""Removal of an environment that looks like one of pip's: read-only files, links, names of all kinds."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import bpy
import msgspec
import pytest

from panoform.blender_addon import preferences
from panoform.blender_addon.backend import installer
from panoform.blender_addon.backend.installer import Installed
from panoform.blender_addon.backend.removal import Removal
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.protocol.errors import BackendError, BusyError, Cancelled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Panoform's folder, with an environment and what is beside it."""
    folder = tmp_path / "données of Panoform"
    packages = folder / "environment" / "lib" / "python3.11" / "site-packages"
    for name in ("torch/lib/a.so", "torch/b.py", "naïve/c.py"):
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).write_bytes(bytes(1000))
    (packages / "torch" / "b.py").chmod(0o444)
    (folder / "environment" / installer.MARKER).write_bytes(msgspec.json.encode({"version": "0.1.0", "bytes": 3000}))
    (folder / "run").mkdir()
    (folder / "durations.json").write_text("{}")
    return folder


def removed(folder: Path) -> Removal:
    removal = Removal(folder)
    removal.start()
    removal._thread.join()
    return removal


def test_the_environment_goes_and_all_else_stays(folder: Path) -> None:
    assert installer.size(folder) == 3000
    removal = removed(folder)
    assert removal.error is None
    assert removal.progress.fraction == 1
    assert sorted(path.name for path in folder.iterdir()) == ["durations.json", "run", installer.LOCK]
    assert installer.find(folder, "0.1.0") is Installed.ABSENT


@pytest.mark.skipif(os.name != "posix", reason="links need a privilege")
def test_links_are_removed_not_what_they_lead_to(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "work.blend").touch()
    (folder / "environment" / "lib64").symlink_to(mine, target_is_directory=True)
    (folder / "environment" / "lib" / "work").symlink_to(mine / "work.blend")
    assert removed(folder).error is None
    assert (mine / "work.blend").exists()
    assert not (folder / "environment").exists()


def test_a_folder_that_is_not_ours_stays(folder: Path) -> None:
    (folder / "environment" / installer.MARKER).unlink()
    error = removed(folder).error
    assert isinstance(error, BackendError)
    assert "not a Python environment that Panoform made" in error.message
    assert (folder / "environment" / "lib").exists()


def test_without_an_environment_it_is_told(tmp_path: Path) -> None:
    error = removed(tmp_path).error
    assert isinstance(error, BackendError)
    assert "no environment" in error.message
    assert list(tmp_path.iterdir()) == []


def test_it_waits_for_the_backend_and_for_another_blender(folder: Path) -> None:
    go_on = threading.Event()
    removal = Removal(folder, before=go_on.wait)
    removal.start()
    assert (folder / "environment" / "lib").exists()
    with installer.locked(folder / installer.LOCK):
        go_on.set()
        removal._thread.join()
    assert isinstance(removal.error, BusyError)
    assert installer.find(folder, "0.1.0") is not Installed.ABSENT


def test_a_cancelled_removal_can_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removal = Removal(folder)
    unlink = Path.unlink

    def cancel_at_the_first(path: Path) -> None:
        removal.cancel()
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", cancel_at_the_first)
        removal.start()
        removal._thread.join()
    assert isinstance(removal.error, Cancelled)
    assert 0 < removal.progress.fraction < 1
    assert installer.find(folder, "0.1.0") is Installed.BROKEN
    assert removed(folder).error is None
    assert not (folder / "environment").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may remove all")
def test_what_can_not_be_removed_is_named(folder: Path) -> None:
    locked = folder / "environment" / "lib" / "python3.11" / "site-packages" / "torch"
    locked.chmod(0o555)
    error = removed(folder).error
    locked.chmod(0o755)
    assert isinstance(error, BackendError)
    assert str(locked) in error.message


def test_the_button_removes_it_and_is_then_disabled(addon: Jobs, folder: Path) -> None:
    preferences.get().folder = str(folder)
    bpy.ops.panoform.remove_backend()
    assert not (folder / "environment").exists()
    assert addon.failure is None
    assert not bpy.ops.panoform.remove_backend.poll()
