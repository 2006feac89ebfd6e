"""The top panel of the sidebar tab "Panoform": the backend's state and the last error."""

from __future__ import annotations

import bpy

from ...shared.protocol.errors import Cancelled
from .. import preferences
from ..jobs import timer
from ..jobs.manager import Failure, State, jobs
from ..perceive.trial import TrialSpec
from ..translation import tr
from ..ui.panel_parts import Section, characters, draw_job, draw_text
from . import installer
from .setup_progress import free_space, gigabytes

#: Errors with a button that fixes them: code → operator, label.
FIXES = {
    "backend_missing": ("panoform.setup_backend", "Set Up Backend"),
    "backend_version": ("panoform.setup_backend", "Update Backend"),
    "device_memory": ("panoform.use_offload", "Use Automatic Offload"),
}


class PANOFORM_PT_main(Section, bpy.types.Panel):
    bl_label = "Panoform"

    def draw(self, context: bpy.types.Context) -> None:
        timer.start_early()
        column = self.layout.column()
        _draw_state(column, characters(context))
        if jobs.has_backend:
            _draw_model(column, context.scene.panoform)
        if jobs.failure is not None:
            _draw_failure(column.box(), jobs.failure, characters(context))


def _draw_state(layout: bpy.types.UILayout, width: int) -> None:
    row = layout.row()
    match jobs.state:
        case State.SETTING_UP:
            row.progress(factor=jobs.setup.progress.fraction, text=jobs.setup.bar_text)
            row.operator("panoform.cancel", text="", icon="X")
            draw_text(layout, jobs.setup.status, width)
        case State.NOT_SET_UP:
            row.label(text="Not set up", icon="RADIOBUT_OFF")
            _draw_setup(layout, "Set Up Backend", width)
        case State.OUT_OF_DATE:
            row.label(text="Version mismatch", icon="RADIOBUT_OFF")
            _draw_setup(layout, "Update Backend", width)
        case State.STOPPED:
            row.label(text="Not running (starts on demand)", icon="RADIOBUT_OFF")
        case State.STARTING:
            row.label(text="Starting", icon="SORTTIME")
        case State.READY:
            status = jobs.session.status
            # "FLUX + OmniX", without the explanation in its label
            row.label(
                text=" · ".join([tr("Ready"), *(status.engine or "").split(" (")[:1]]).strip(" ·"), icon="RADIOBUT_ON"
            )
            row.operator("panoform.stop_backend", text="", icon="QUIT")
            if status.memory_total:
                free, total = status.memory_free / 2**30, status.memory_total / 2**30
                text = tr("{device}: {free:.1f} of {total:.0f} GB free", device=status.device, free=free, total=total)
                layout.label(text=text, icon="BLANK1")
                if status.memory_held:
                    text = tr("The backend holds {held:.1f} GB", held=status.memory_held / 2**30)
                    layout.label(text=text, icon="BLANK1")
    if jobs.job is not None and isinstance(jobs.job.spec, TrialSpec):
        draw_text(layout, "Set up. The built-in model is tried out:", width)
        draw_job(layout, jobs.job)
    waits_for = next((result.waits_for for result in jobs.results if result.pending), "")
    if waits_for:  # the section Results also says so, but may be out of sight
        draw_text(layout, tr("A result is ready, and waits for {what}.", what=tr(waits_for)), width, icon="INFO")
    draw_text(layout, jobs.patience, width, icon="TIME")


def _draw_model(layout: bpy.types.UILayout, settings: bpy.types.PropertyGroup) -> None:
    """Draw what all sections share: the quality and the engine."""
    layout.row().prop(settings, "quality", expand=True)
    layout.prop(settings, "engine", text="")


def _draw_setup(layout: bpy.types.UILayout, label: str, width: int) -> None:
    row = layout.row()
    row.scale_y = 1.4
    row.operator("panoform.setup_backend", text=label, icon="IMPORT")
    draw_text(layout, _needs(), width, icon="INFO")
    if not bpy.app.online_access and not installer.is_offline(preferences.get().packages_place()):
        draw_text(layout, "Setup downloads packages: allow online access first.", width, icon="INFO")
        layout.operator("screen.userpref_show", text="Open Preferences", icon="PREFERENCES").section = "SYSTEM"


def _needs() -> str:
    """Describe what a setup takes on this computer."""
    folder, expected = preferences.get().environment_folder(), installer.setup_needs()
    try:
        free = gigabytes(free_space(folder))
    except OSError:  # a disk that is not connected: the setup reports it
        free = ""
    packages = preferences.get().packages_place()
    offline = installer.is_offline(packages)
    minutes = expected.minutes(offline=offline)
    if offline:
        return tr("Installs from {packages} in about {minutes} min, and needs {disk} in {folder}.", packages=packages,
                  minutes=minutes, disk=gigabytes(expected.disk), folder=folder)  # fmt: skip
    text = "Downloads about {download} ({minutes} min at 50 Mbit/s), and needs {disk} in {folder}."
    if free:
        text = (
            "Downloads about {download} ({minutes} min at 50 Mbit/s), and needs {disk} in {folder}, where {free} are "
            "free."
        )
    return tr(text, download=gigabytes(expected.download), minutes=minutes, disk=gigabytes(sum(expected)),
              folder=folder, free=free)  # fmt: skip


def _draw_failure(layout: bpy.types.UILayout, failure: Failure, width: int) -> None:
    error = failure.error
    if isinstance(error, Cancelled):
        row = layout.row()
        row.label(text=error.message, icon="INFO")
        if failure.job is not None:
            row.operator("panoform.retry_job", text="", icon="FILE_REFRESH")
        row.operator("panoform.dismiss_error", text="", icon="X")
        draw_text(layout, error.hint, width - 4, icon="BLANK1")
        return
    draw_text(layout, error.message, width - 4, icon="ERROR")
    draw_text(layout, error.hint, width - 4, icon="BLANK1")
    # Offload does not help on a CPU; the error's hint doesn't suggest it then.
    if error.code in FIXES and (error.code != "device_memory" or "offload" in error.hint):
        operator, label = FIXES[error.code]
        layout.operator(operator, text=label)
    row = layout.row()
    if failure.job is not None:
        row.operator("panoform.retry_job", icon="FILE_REFRESH")
    row.operator("panoform.copy_error", icon="COPYDOWN")
    row.operator("panoform.dismiss_error", text="", icon="X")


CLASSES = (PANOFORM_PT_main,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
