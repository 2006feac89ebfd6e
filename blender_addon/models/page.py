"""The preferences' page about models: what is here, what is missing, and what this computer can run."""

from __future__ import annotations

from pathlib import Path

import bpy

from ...shared.engines import ENGINES
from ...shared.jobs.models import ModelsReply, Precision, WeightsState
from ...shared.weights import WEIGHTS, WeightsSpec, gigabytes
from .. import preferences
from ..jobs.manager import State, jobs
from ..translation import tr
from ..ui.panel_parts import characters, draw_text
from . import timer
from .manager import PREFERENCES, models

#: Files of ComfyUI that are offered.
_MAX_FOUND = 3


def draw(layout: bpy.types.UILayout, own: bpy.types.AddonPreferences, context: bpy.types.Context) -> None:
    """Draw the page, with the paths that the preferences `own` hold."""
    width = characters(context)
    timer.check_when_shown()
    if jobs.state in (State.NOT_SET_UP, State.OUT_OF_DATE):
        draw_text(layout, "Set up the backend first: it finds and downloads models.", width, icon="INFO")
    state = models.state
    row = layout.row()
    if state is not None:
        text = "Downloads go to {folder}, where {free} are free."
        free = gigabytes(state.disk_free)
        draw_text(row.column(), tr(text, folder=state.folder, free=free), width - 12, icon="DISK_DRIVE")
    elif models.checking:
        row.label(text="Looking what is here", icon="SORTTIME")
    row.operator("panoform.check_models", text="", icon="FILE_REFRESH")
    if "" in models.failures:
        draw_text(layout, str(models.failures[""]), width, icon="ERROR")
    if preferences.get().running_backend() is not None:
        text = "The running backend does one thing after the other: jobs wait for downloads."
        draw_text(layout, text, width, icon="INFO")
    if not bpy.app.online_access:
        row = layout.row()
        row.label(text="To download, allow online access.", icon="INFO")
        row.operator("screen.userpref_show", text="Open System Preferences").section = "SYSTEM"
    for engine in dict.fromkeys(spec.engine for spec in WEIGHTS.values()):
        box = layout.box()
        box.label(text=ENGINES[engine].short_label, icon="NODETREE")
        if state is not None:
            _draw_precisions(box, state, engine, width - 4)
        for spec in WEIGHTS.values():
            if spec.engine == engine:
                _draw_weights(box, spec, own, width - 4)


def _draw_precisions(layout: bpy.types.UILayout, state: ModelsReply, engine: str, width: int) -> None:
    """Draw in which precisions the engine fits on the device."""
    device = next((device for device in state.devices if device.name == state.device), None)
    if device is None:
        draw_text(layout, state.problem, width, icon="ERROR")
        return
    text = tr("On {device}, {free} of memory free:", device=device.label, free=gigabytes(device.memory_free))
    draw_text(layout, text, width)
    status = jobs.session.status if jobs.session is not None else None
    is_short = any(precision.runs != "whole" for precision in state.precisions[engine])
    if is_short and status is not None and status.engine is not None and status.device == device.label:
        text = "The backend that runs holds {engine} in {size}: once it is stopped, more is free."
        label = status.engine.split(" (")[0]  # without the explanation
        text = tr(text, engine=label, size=gigabytes(status.memory_held or 0))
        draw_text(layout, text, width, icon="INFO")
    column = layout.column(align=True)
    for precision in state.precisions[engine]:
        icon = {"whole": "CHECKMARK", "streams": "CHECKMARK", "no": "CANCEL"}[precision.runs]
        draw_text(column, f"{precision.dtype}: {_describe(precision)}", width, icon=icon)


def _describe(precision: Precision) -> str:
    match precision.runs:
        case "whole":
            return tr("fits, with {size}", size=gigabytes(precision.everything))
        case "streams":
            return tr("runs with parts of the weights on the GPU, {size} or more", size=gigabytes(precision.least))
    return tr("needs {size}, more than is free", size=gigabytes(precision.least))


def _draw_weights(layout: bpy.types.UILayout, spec: WeightsSpec, own: bpy.types.AddonPreferences, width: int) -> None:
    """Draw one model: its state, licence and buttons."""
    state = None if models.state is None else next(
        (found for found in models.state.weights if found.name == spec.name), None
    )  # fmt: skip
    column = layout.column()
    column.separator()
    row = column.row()
    is_ready = state is not None and bool(state.place) and not state.problem
    row.label(text=spec.label, icon="CHECKMARK" if is_ready else "ERROR" if state and state.place else "IMPORT")
    row.label(text=_summary(spec, state))
    text = tr("{purpose}. Licence: {licence}.", purpose=tr(spec.purpose), licence=spec.licence)
    draw_text(column, text, width, icon="BLANK1")
    if state is not None and state.place:
        draw_text(column, f"{state.place}. {state.problem}".strip(), width, icon="BLANK1")
    if spec.name == "flux" and own.is_flux_here():
        draw_text(column, "The engine Automatic uses it.", width, icon="BLANK1")
    _draw_buttons(column, spec, state, is_ready=is_ready)
    if spec.name in models.failures:
        draw_text(column, str(models.failures[spec.name]), width, icon="ERROR")
    if spec.name in PREFERENCES:
        column.prop(own, PREFERENCES[spec.name])
    if state is not None and not is_ready:
        for file in state.found[:_MAX_FOUND]:
            row = column.row()
            text = tr("ComfyUI has {name}, {size}", name=Path(file.path).name, size=gigabytes(file.bytes))
            row.label(text=text, icon="FILE_TICK")
            use = row.operator("panoform.use_model_file", text="Use", icon="CHECKMARK")
            use.name, use.filepath = spec.name, file.path


def _summary(spec: WeightsSpec, state: WeightsState | None) -> str:
    if state is None:
        return tr("about {size}", size=gigabytes(spec.bytes))
    if state.place:
        return tr("here, {size}", size=gigabytes(state.bytes)) if not state.problem else tr("can't be used")
    text = "missing, about {size}, {arrived} have arrived" if state.incomplete else "missing, about {size}"
    return tr(text, size=gigabytes(spec.bytes), arrived=gigabytes(state.incomplete))


def _draw_buttons(layout: bpy.types.UILayout, spec: WeightsSpec, state: WeightsState | None, *, is_ready: bool) -> None:
    task = models.download_of(spec.name)
    row = layout.row()
    if task is not None:
        row.progress(factor=task.fraction, text=task.text)
        row.operator("panoform.cancel_download", text="", icon="X").name = spec.name
        return
    if not is_ready:
        label = "Resume Download" if state is not None and state.incomplete else "Download"
        row.operator("panoform.download_model", text=label, icon="IMPORT").name = spec.name
    label = "Accept Licence" if spec.gated and not is_ready else "Licence"
    row.operator("wm.url_open", text=label, icon="URL").url = spec.page
    if spec.gated and not is_ready:
        row.operator("panoform.save_hub_token", icon="LOCKED")
    if spec.name in PREFERENCES:
        text = "Use a Folder I Have" if spec.setting == "adapters" else "Use a File I Have"
        row.operator("panoform.use_model_file", text=text, icon="FILE_FOLDER").name = spec.name
