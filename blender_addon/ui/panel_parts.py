"""What the sections of the tab have in common."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable

import bpy

from ...shared.maps import MAPS
from ..jobs.manager import Job, jobs
from . import previews

#: Width of a character in the sidebar, in pixels at a UI scale of 1: labels don't wrap by themselves.
CHARACTER_PX = 6.6


class Section:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Panoform"


def characters(context: bpy.types.Context) -> int:
    """Return how many characters fit in a line."""
    scale = context.preferences.system.ui_scale
    return max(20, int((context.region.width / scale - 60) / CHARACTER_PX))


def draw_text(layout: bpy.types.UILayout, text: str, width: int, icon: str = "NONE") -> None:
    """Draw text over as many labels as it needs; long words (paths) are cut."""
    column = layout.column(align=True)
    for i, line in enumerate(_wrap(text, width)):
        column.label(text=line, icon=icon if i == 0 else "BLANK1" if icon != "NONE" else "NONE")


def _wrap(text: str, width: int) -> list[str]:
    return [line for part in text.splitlines() for line in textwrap.wrap(part, width)]


def draw_job(layout: bpy.types.UILayout, job: Job) -> None:
    row = layout.row()
    row.progress(factor=job.fraction, text=job.text)
    row.operator("panoform.cancel", text="", icon="X")
    if job.previews:
        newest = list(job.previews)[-1]
        layout.label(text=MAPS[newest].label if newest in MAPS else newest.capitalize())
        layout.template_icon(icon_value=previews.icon(newest), scale=8)


def draw_last_duration(layout: bpy.types.UILayout, cost: Hashable) -> None:
    """Draw how long the last job of that cost took, if there was one."""
    if cost in jobs.seconds:
        layout.label(text=f"Took {jobs.seconds[cost]:.0f} s the last time")
