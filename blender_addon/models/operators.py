"""The operators of the preferences' page about models."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bpy
from bpy.props import StringProperty

from ...shared.protocol.errors import SettingError
from ...shared.weights import WEIGHTS
from .. import preferences
from ..jobs.manager import State, jobs
from ..ui.operator_parts import FINISHED, poll_unless, reporting
from ..ui.path_properties import BLEND_RELATIVE
from . import timer
from .manager import models, use

#: Seconds that background mode waits for an answer, and for a download.
_ANSWER_S, _DOWNLOAD_S = 300.0, 24 * 3600.0


def _backend_disabled_reason() -> str:
    match jobs.state:
        case State.SETTING_UP:
            return "The backend is being set up or removed"
        case State.NOT_SET_UP | State.OUT_OF_DATE:
            return "Set up the backend first"
    return ""


def _download_disabled_reason() -> str:
    if not bpy.app.online_access:
        return "Allow online access in Preferences ▸ System"
    return _backend_disabled_reason()


class PANOFORM_OT_show_models(bpy.types.Operator):
    """Show what this computer can run, in which precision, and download it, in the preferences"""

    bl_idname = "panoform.show_models"
    bl_label = "Models"
    bl_options: ClassVar = {"INTERNAL"}

    poll = poll_unless(lambda: "Needs a window" if bpy.app.background else "")

    def execute(self, _context: bpy.types.Context) -> set[str]:
        preferences.get().page = "MODELS"
        bpy.ops.preferences.addon_show(module=preferences.EXTENSION)
        return FINISHED


class PANOFORM_OT_check_models(bpy.types.Operator):
    """Look again which models are on this computer. Reads no weights"""

    bl_idname = "panoform.check_models"
    bl_label = "Check Models"
    bl_options: ClassVar = {"INTERNAL"}

    poll = poll_unless(_backend_disabled_reason)

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        models.check()
        _go_on(_ANSWER_S, "")
        return FINISHED


class PANOFORM_OT_download_model(bpy.types.Operator):
    """Download this model in the background. A download that was stopped goes on where it was"""

    bl_idname = "panoform.download_model"
    bl_label = "Download"
    bl_options: ClassVar = {"INTERNAL"}

    name: StringProperty(name="Model", description=f"One of {', '.join(WEIGHTS)}")

    poll = poll_unless(_download_disabled_reason)

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        _check_name(self.name)
        models.download(self.name)
        _go_on(_DOWNLOAD_S, self.name)
        return FINISHED


class PANOFORM_OT_cancel_download(bpy.types.Operator):
    """Stop this download. What has arrived is kept"""

    bl_idname = "panoform.cancel_download"
    bl_label = "Cancel Download"
    bl_options: ClassVar = {"INTERNAL"}

    name: StringProperty(name="Model")

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        models.cancel(self.name)
        timer.start()
        return FINISHED


class PANOFORM_OT_use_model_file(bpy.types.Operator):
    """Use a file or folder of this model that is on this computer already"""

    bl_idname = "panoform.use_model_file"
    bl_label = "Use a File I Have"
    bl_options: ClassVar = {"INTERNAL"}

    name: StringProperty(name="Model", options={"HIDDEN"})
    filepath: StringProperty(name="File or Folder", subtype="FILE_PATH", options={"SKIP_SAVE"} | BLEND_RELATIVE)
    filter_glob: StringProperty(default="*.safetensors;*.gguf;model_index.json", options={"HIDDEN"})

    def invoke(self, context: bpy.types.Context, _event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reporting
    def execute(self, _context: bpy.types.Context) -> set[str]:
        _check_name(self.name)
        if not self.filepath:
            raise SettingError("No file is selected.", "Select a file or folder of this model.")
        path = Path(bpy.path.abspath(self.filepath))
        if not path.exists():
            raise SettingError(f"There is no file or folder {path}.", "Choose one that exists.")
        # The adapters are many files, and a diffusers folder is known by its index.
        is_folder = path.is_dir() or path.name == "model_index.json" or WEIGHTS[self.name].setting == "adapters"
        use(self.name, str(path.parent if is_folder and path.is_file() else path))
        if not _backend_disabled_reason():
            models.check()
            _go_on(_ANSWER_S, "")
        return FINISHED


def _check_name(name: str) -> None:
    if name not in WEIGHTS:
        raise SettingError(f"There is no model called {name!r}.", f"Choose one of {', '.join(WEIGHTS)}.")


def _go_on(timeout_s: float, name: str) -> None:
    """Poll with the timer; in background mode wait, and raise the error of what `name` names."""
    if not bpy.app.background:
        timer.start()
        return
    models.wait(timeout_s)
    if name in models.failures:
        raise models.failures[name]


CLASSES = (
    PANOFORM_OT_show_models,
    PANOFORM_OT_check_models,
    PANOFORM_OT_download_model,
    PANOFORM_OT_cancel_download,
    PANOFORM_OT_use_model_file,
)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
