"""The panel that perceives maps."""

from __future__ import annotations

from collections.abc import Hashable

import bpy

from ...shared.maps import MAPS
from ...shared.protocol.errors import SettingError
from .. import preferences
from ..capture.spec import RenderSpec
from ..jobs.job import Job
from ..jobs.manager import jobs
from ..ui.panel_parts import BackendSection, draw_run, start_label
from . import look_around
from .look_operators import LookSpec
from .spec import PerceiveSpec, cost, settings_from


class PANOFORM_PT_perceive(BackendSection, bpy.types.Panel):
    bl_label = "Perceive"
    bl_parent_id = "PANOFORM_PT_main"
    bl_order = 2

    def draw_header_preset(self, _context: bpy.types.Context) -> None:
        self.layout.menu("PANOFORM_MT_perceive_presets", text="", icon="PRESET")

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.panoform
        column = self.layout.column()
        grid = column.grid_flow(columns=2, even_columns=True, row_major=True, align=True)
        for kind in MAPS.values():
            grid.prop_enum(settings, "maps", kind.name.upper())
        column.prop(settings, "seed")
        row = column.row()
        row.scale_y = 1.4
        row.operator("panoform.perceive", text=start_label(), icon="SHADERFX")
        if look_around.is_active():
            row.operator("panoform.stop_looking", text="", icon="LOOP_BACK")
        else:
            row.operator_menu_enum("panoform.look_around", "of", text="", icon="HIDE_OFF")
        draw_run(column, _job(), _cost(settings))


def _job() -> Job | None:
    """Return the job that runs, if it is of this section, or follows one."""
    job = jobs.job
    own = job is not None and (isinstance(job.spec, PerceiveSpec | RenderSpec | LookSpec) or job.kept is not None)
    return job if own else None


def _cost(settings: bpy.types.PropertyGroup) -> Hashable:
    """Return the cost of the job with these settings; None where no map is selected, which the operator reports."""
    engine = preferences.get().engine_settings(settings.engine)
    try:
        return cost(engine, settings_from(lambda name: getattr(settings, name), engine))
    except SettingError:
        return None


CLASSES = (PANOFORM_PT_perceive,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
