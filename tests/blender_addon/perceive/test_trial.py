"""A set-up ends with a real job of the built-in model, whose duration the panel then knows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import bpy
import pytest
from noise_jobs import poll_until
from recorded_layout import Layout

from panoform.blender_addon import preferences
from panoform.blender_addon.backend.panel import PANOFORM_PT_main
from panoform.blender_addon.jobs import manager, timer
from panoform.blender_addon.jobs.durations import Durations
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.perceive import panel, trial
from panoform.shared.protocol.errors import BackendError


@pytest.fixture
def ended(addon: Jobs, monkeypatch, tmp_path: Path):
    """Start a set-up that has ended at once, with an error or None, and the trial after it."""

    def start(scene, error: BackendError | None) -> None:
        setup = SimpleNamespace(
            done=True, error=error, log=tmp_path / "log", start=lambda: None, cancel=lambda **_: None
        )
        monkeypatch.setattr(manager, "Setup", lambda *_, **__: setup)
        addon.set_up(tmp_path / "wheel", Path(sys.executable), trial.trial(scene))
        addon.poll()

    return start


@pytest.mark.slow
def test_set_up_tries_the_model_and_leaves_nothing(addon: Jobs, scene, ended, tmp_path: Path) -> None:
    preferences.get().folder = str(tmp_path)  # where no duration is known
    cost = panel._cost(scene.panoform)
    assert cost is not None
    ended(scene, None)
    assert addon.job is not None
    texts: list[str] = []
    context = SimpleNamespace(
        scene=scene,
        region=SimpleNamespace(width=400),
        preferences=SimpleNamespace(system=SimpleNamespace(ui_scale=1)),
    )
    PANOFORM_PT_main.draw(SimpleNamespace(layout=Layout(texts)), context)
    assert "tried out" in " ".join(texts)
    poll_until(addon, lambda: addon.job is None)
    assert addon.failure is None
    assert addon.seconds[cost] > 0, "the panel's first settings"
    poll_until(addon, (tmp_path / "durations.json").exists)
    assert Durations()[cost] == addon.seconds[cost], "the next Blender knows it"
    objects = list(bpy.data.objects)
    timer._build_pending()
    assert (addon.results, list(bpy.data.objects)) == ([], objects)
    assert preferences.get().engine_settings("AUTO").spec.bundled


def test_failed_set_up_tries_nothing(addon: Jobs, scene, ended) -> None:
    ended(scene, BackendError("The disk is full."))
    assert addon.job is None
    assert addon.failure.error.message == "The disk is full."
