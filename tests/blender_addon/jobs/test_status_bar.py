"""What the status bar shows; that Blender draws it is seen in a window (test_real_blender.py)."""

from __future__ import annotations

from types import SimpleNamespace

import bpy
from recorded_layout import Layout

from panoform.blender_addon.jobs import status_bar
from panoform.blender_addon.jobs.job import Job
from panoform.blender_addon.jobs.manager import Jobs


def drawn() -> list[str]:
    layout = Layout()
    status_bar.draw(SimpleNamespace(layout=layout), bpy.context)
    return layout.texts


def test_the_job_is_in_the_status_bar_while_it_runs(addon: Jobs) -> None:
    assert drawn() == []
    addon.job = Job(SimpleNamespace(label="Perceive"), id="x", stage="Distance", step=3, of=28, fraction=0.1)
    texts = drawn()
    assert texts[0] == "Perceive"
    assert "Distance 3/28" in texts[1]
    addon.job = None
    assert drawn() == []


def test_the_status_bar_is_drawn_only_while_the_add_on_is_on(registered) -> None:
    drawers = bpy.types.STATUSBAR_HT_header._dyn_ui_initialize
    assert status_bar.draw in drawers()
