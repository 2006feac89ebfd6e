"""Operators for the backend itself, and for what the panel offers when something went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import StringProperty

from ...shared.protocol.errors import Cancelled
from .. import preferences
from ..jobs import timer
from ..jobs.manager import jobs
from ..ui.operator_parts import CANCELLED, FINISHED, poll_unless, reporting
from . import hub_token, installer

#: The extension's root, which holds `backend_wheel/`.
EXTENSION_FOLDER = Path(__file__).resolve().parents[2]


def _why_not_set_up() -> str:
    if jobs.setup is not None:
        return "The set-up that was cancelled is ending" if jobs.setup.cancelling else "The backend is being set up"
    if jobs.job is not None:
        return "Panoform is at work: wait for it, or cancel it"
    if preferences.get().python() is not None:
        return "The preferences name a Python of your own, which Panoform leaves alone"
    if not bpy.app.online_access:
        return "Setting up downloads packages: allow online access in Preferences ▸ System"
    return ""


class PANOFORM_OT_setup_backend(bpy.types.Operator):
    """Download and install the backend into a folder of its own (some gigabytes), or update or repair it"""

    bl_idname = "panoform.setup_backend"
    bl_label = "Set up the Backend"

    poll = poll_unless(_why_not_set_up)

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        try:
            jobs.set_up(installer.bundled_wheel(EXTENSION_FOLDER), installer.base_python())
            if bpy.app.background:
                jobs.wait_for_setup()
        except Cancelled:
            return CANCELLED
        timer.start()
        return FINISHED


class PANOFORM_OT_stop_backend(bpy.types.Operator):
    """End the backend process and free its memory. It starts again when it is needed"""

    bl_idname = "panoform.stop_backend"
    bl_label = "Stop the Backend"

    poll = poll_unless(lambda: "" if jobs.session else "The backend is not running")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.stop()
        return FINISHED


class PANOFORM_OT_copy_error(bpy.types.Operator):
    """Copy all that is known about the error, for a bug report"""

    bl_idname = "panoform.copy_error"
    bl_label = "Copy Details"

    def execute(self, context: bpy.types.Context) -> set[str]:
        context.window_manager.clipboard = jobs.failure.details
        self.report({"INFO"}, "Copied to the clipboard.")
        return FINISHED


class PANOFORM_OT_dismiss_error(bpy.types.Operator):
    """Forget this error"""

    bl_idname = "panoform.dismiss_error"
    bl_label = "Dismiss"
    bl_options: ClassVar = {"INTERNAL"}

    def execute(self, _context: bpy.types.Context) -> set[str]:
        jobs.failure = None
        return FINISHED


class PANOFORM_OT_use_offload(bpy.types.Operator):
    """Keep in device memory only what is computing: slower, and it fits"""

    bl_idname = "panoform.use_offload"
    bl_label = "Use Model Offload"
    bl_options: ClassVar = {"INTERNAL"}

    poll = poll_unless(lambda: "" if preferences.get().offload == "none" else "Offload is on already")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        preferences.get().offload = "model"
        jobs.failure = None
        return FINISHED


class PANOFORM_OT_save_hub_token(bpy.types.Operator):
    """Keep a Hugging Face access token on this computer, where all programs that use the hub look for it"""

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
        self.report({"INFO"}, f"Saved in {path}.")
        return FINISHED


CLASSES = (
    PANOFORM_OT_setup_backend,
    PANOFORM_OT_stop_backend,
    PANOFORM_OT_copy_error,
    PANOFORM_OT_dismiss_error,
    PANOFORM_OT_use_offload,
    PANOFORM_OT_save_hub_token,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
