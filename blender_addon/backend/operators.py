"""Operators for the backend and for the errors shown in the panel."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import StringProperty

from ...shared import VERSION
from ...shared.protocol.errors import Cancelled
from .. import preferences
from ..jobs import timer
from ..jobs.manager import jobs
from ..models.manager import models
from ..perceive import trial
from ..translation import tr_report
from ..ui.operator_parts import CANCELLED, FINISHED, poll_unless, reporting
from . import hub_token, installer
from .setup_progress import gigabytes

#: The extension's root, which holds `backend_wheel/`.
EXTENSION_FOLDER = Path(__file__).resolve().parents[2]


def _busy_reason() -> str:
    """Return what the environment is used for; "" if it may be changed."""
    if jobs.setup is not None:
        return "The setup is being cancelled" if jobs.setup.cancelling else "The backend is being set up or removed"
    return "" if jobs.job is None else "A job is running: wait for it or cancel it"


def _setup_disabled_reason() -> str:
    if reason := _busy_reason():
        return reason
    if preferences.get().python() is not None:
        return "The preferences set another Python, which Panoform does not modify"
    if models.tasks:
        return "Models are being downloaded: wait for it or cancel it"
    if not bpy.app.online_access and not installer.is_offline(preferences.get().packages_place()):
        return "Setup downloads packages: allow online access in Preferences ▸ System"
    return ""


class PANOFORM_OT_setup_backend(bpy.types.Operator):
    """Download and install the backend into its own folder, or update or repair it, and try it out"""

    bl_idname = "panoform.setup_backend"
    bl_label = "Set Up Backend"

    poll = poll_unless(_setup_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            wheel, python = installer.bundled_wheel(EXTENSION_FOLDER), installer.base_python()
            jobs.set_up(wheel, python, trial.trial(context.scene))
            if bpy.app.background:
                jobs.wait_for_setup()
                jobs.results.remove(jobs.wait())
        except Cancelled:
            return CANCELLED
        timer.start()
        return FINISHED


def _removal_disabled_reason() -> str:
    if reason := _busy_reason():
        return reason
    if installer.find(preferences.get().environment_folder(), VERSION) is installer.Installed.ABSENT:
        return "Panoform's folder has no environment"
    return ""


class PANOFORM_OT_remove_backend(bpy.types.Operator):
    """Delete the backend's environment. Models, results and preferences stay, and it can be set up again"""

    bl_idname = "panoform.remove_backend"
    bl_label = "Remove Backend"

    poll = poll_unless(_removal_disabled_reason)

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        folder = preferences.get().environment_folder()
        message = tr_report(
            "This deletes about {size} in {folder}.", size=gigabytes(installer.size(folder)), folder=folder
        )
        return context.window_manager.invoke_confirm(
            self, event, title=tr_report("Remove the backend?"), message=message, confirm_text=tr_report("Remove")
        )

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.remove_environment()
        if bpy.app.background:
            jobs.wait_for_setup()
        timer.start()
        return FINISHED


class PANOFORM_OT_stop_backend(bpy.types.Operator):
    """Stop the backend process and free its memory. It starts again on demand"""

    bl_idname = "panoform.stop_backend"
    bl_label = "Stop Backend"

    poll = poll_unless(lambda: "" if jobs.session else "The backend is not running")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.stop()
        return FINISHED


class PANOFORM_OT_copy_error(bpy.types.Operator):
    """Copy the details of the error for a bug report"""

    bl_idname = "panoform.copy_error"
    bl_label = "Copy Details"

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.window_manager.clipboard = jobs.failure.details
        self.report({"INFO"}, "Copied to the clipboard.")
        return FINISHED


class PANOFORM_OT_dismiss_error(bpy.types.Operator):
    """Hide this error"""

    bl_idname = "panoform.dismiss_error"
    bl_label = "Dismiss"
    bl_options: ClassVar = {"INTERNAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.failure = None
        return FINISHED


class PANOFORM_OT_use_offload(bpy.types.Operator):
    """Keep in device memory what fits, and let the rest arrive while it computes"""

    bl_idname = "panoform.use_offload"
    bl_label = "Use Automatic Offload"
    bl_options: ClassVar = {"INTERNAL"}

    poll = poll_unless(lambda: "Offload is automatic already" if preferences.get().offload == "auto" else "")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        preferences.change("offload", "auto")
        jobs.failure = None
        return FINISHED


class PANOFORM_OT_save_hub_token(bpy.types.Operator):
    """Save a Hugging Face access token on this computer, where all programs using huggingface_hub find it"""

    bl_idname = "panoform.save_hub_token"
    bl_label = "Save Access Token"
    bl_options: ClassVar = {"INTERNAL"}

    token: StringProperty(name="Token", description='From huggingface.co ▸ Settings ▸ Access Tokens, "hf_…"',
                          subtype="PASSWORD", options={"SKIP_SAVE"})  # fmt: skip

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        path = hub_token.save(self.token)
        self.report({"INFO"}, tr_report("Saved to {path}.", path=path))
        return FINISHED


CLASSES = (
    PANOFORM_OT_setup_backend,
    PANOFORM_OT_remove_backend,
    PANOFORM_OT_stop_backend,
    PANOFORM_OT_copy_error,
    PANOFORM_OT_dismiss_error,
    PANOFORM_OT_use_offload,
    PANOFORM_OT_save_hub_token,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
