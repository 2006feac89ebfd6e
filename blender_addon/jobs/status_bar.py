"""The progress of the job, or of the setup, in Blender's status bar: it is seen with the sidebar closed too."""

from __future__ import annotations

import bpy

from ..translation import tr
from .manager import jobs

_WIDTH = 16


def draw(header: bpy.types.Header, _context: bpy.types.Context) -> None:
    """Draw what runs, how far it is, and a button to cancel it; nothing while nothing runs."""
    if jobs.setup is not None:
        label, fraction, text = tr(jobs.setup.label), jobs.setup.progress.fraction, jobs.setup.bar_text
    elif jobs.job is not None:
        label, fraction, text = tr(jobs.job.spec.label), jobs.job.fraction, jobs.job.bar_text
    else:
        return
    row = header.layout.row(align=True)
    row.label(text=label)
    bar = row.row()
    bar.ui_units_x = _WIDTH
    bar.progress(factor=fraction, text=text)
    row.operator("panoform.cancel", text="", icon="X")


def redraw() -> None:
    """Redraw the status bar, which is in no screen's list of areas.

    To remove a workspace's own text, which only modal operators set, is the way to do so.
    """
    for window in bpy.context.window_manager.windows:
        if not window.modal_operators:
            with bpy.context.temp_override(window=window):  # a timer may have no window, and Blender would crash
                window.workspace.status_text_set_internal(None)


def register() -> None:
    bpy.types.STATUSBAR_HT_header.prepend(draw)


def unregister() -> None:
    bpy.types.STATUSBAR_HT_header.remove(draw)
