"""Durations of jobs, kept for the next Blender."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from panoform.blender_addon import preferences
from panoform.blender_addon.jobs import durations
from panoform.blender_addon.jobs.durations import Durations
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.engines import EngineSettings


@pytest.fixture
def folder(addon: Jobs, tmp_path: Path) -> Path:
    preferences.get().folder = str(tmp_path)
    return tmp_path


def written() -> None:
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) is durations._write:
            thread.join()


def test_the_next_blender_knows_the_last_duration_of_each_cost(folder: Path) -> None:
    known = Durations()
    for cost, seconds in (((EngineSettings(), 5), 9.0), ((EngineSettings(), 6), 2.0), ((EngineSettings(), 5), 7.5)):
        known[cost] = seconds
        written()
    assert Durations()[EngineSettings(), 5] == 7.5
    assert (EngineSettings(engine="flux"), 5) not in Durations()


def test_other_folders_have_other_durations(folder: Path) -> None:
    known = Durations()
    known["cost"] = 1.0
    preferences.get().folder = str(folder / "another")
    assert "cost" not in known
    known["cost"] = 2.0  # nothing is written, as there is no such folder
    written()
    preferences.get().folder = str(folder)
    assert known["cost"] == 1.0
    assert [path.name for path in folder.iterdir()] == ["durations.json"]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": "b"}', b"\xff"])
def test_a_damaged_file_is_replaced(folder: Path, content: bytes) -> None:
    (folder / "durations.json").write_bytes(content)
    known = Durations()
    assert "cost" not in known
    known["cost"] = 3.0
    written()
    assert Durations()["cost"] == 3.0


def test_the_oldest_are_forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "_MOST", 2)
    known = Durations()
    for cost in "abac":
        known[cost] = 1.0
        written()
    assert [cost in Durations() for cost in "abc"] == [True, False, True]
