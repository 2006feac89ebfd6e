"""Parts shared by the panels."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable

import bpy

from ...shared.maps import MAPS
from ..jobs.job import Job, duration
from ..jobs.manager import jobs
from ..translation import tr
from . import previews

#: Width of a character in the sidebar in pixels at UI scale 1, for wrapping text: Blender's labels don't wrap.
CHARACTER_PX = 6.6


class Section:
    """Base of the panels in the sidebar tab."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "Panoform"


class BackendSection(Section):
    """Base of the sections that are hidden until the backend is set up: what is not shown needs no explanation."""

    @classmethod
    def poll(cls, _context: bpy.types.Context) -> bool:
        return jobs.has_backend


def characters(context: bpy.types.Context) -> int:
    """Return the number of characters that fit in a line."""
    scale = context.preferences.system.ui_scale
    return max(20, int((context.region.width / scale - 60) / CHARACTER_PX))


def draw_text(layout: bpy.types.UILayout, text: str, width: int, icon: str = "NONE") -> None:
    """Draw text, translated, as one label for each line; long words (paths) are broken."""
    column = layout.column(align=True)
    for i, line in enumerate(_wrap(tr(text), width)):
        column.label(text=line, icon=icon if i == 0 else "BLANK1" if icon != "NONE" else "NONE")


def _wrap(text: str, width: int) -> list[str]:
    return [line for part in text.splitlines() for line in textwrap.wrap(part, width)]


def draw_job(layout: bpy.types.UILayout, job: Job) -> None:
    """Draw the job's progress, a cancel button and the newest preview."""
    row = layout.row()
    row.progress(factor=job.fraction, text=job.bar_text)
    row.operator("panoform.cancel", text="", icon="X")
    if job.previews:
        newest = list(job.previews)[-1]
        layout.label(text=MAPS[newest].label if newest in MAPS else newest.capitalize())
        layout.template_icon(icon_value=previews.icon(newest), scale=8)


def start_label() -> str | None:
    """Return the text of buttons that start a job: None, for that of the operator, unless the job would wait."""
    return "Add to Queue" if jobs.job is not None else None


def draw_run(layout: bpy.types.UILayout, job: Job | None, cost: Hashable) -> None:
    """Draw the progress of a section's job; without one, the duration of the last job with that cost, or an empty row.

    The row is always there, as Blender moves what is below a section that grows only some redraws later.
    """
    if job is not None:
        draw_job(layout, job)
    elif cost is not None and cost in jobs.seconds:
        layout.label(text=tr("Last run: {time}", time=duration(jobs.seconds[cost])), icon="TIME")
    else:
        layout.label(text="")
