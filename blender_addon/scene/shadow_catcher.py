"""Shadow catcher: the photograph in place of its environment, with the shadows of the user's objects on it.

In Cycles, where no film is transparent, a shadow catcher shows the world behind it, darker by the shadows of other
objects: seen from the panorama's place, the photograph.
"""

from __future__ import annotations

from typing import ClassVar

import bpy

from ..ui.operator_parts import FINISHED, poll_unless
from . import environment

NEEDS_CYCLES = "Render with Cycles: EEVEE has no shadow catcher and shows the environment as before"


class PANOFORM_OT_shadow_catcher(bpy.types.Operator):
    """Show the photograph itself in place of its environment, with the shadows of your objects on it; press again to
    return. Only in Cycles, and right from the panorama's camera: EEVEE shows the environment as before"""

    bl_idname = "panoform.shadow_catcher"
    bl_label = "Shadow Catcher"
    bl_options: ClassVar = {"REGISTER", "UNDO"}

    poll = poll_unless(environment.disabled_reason)

    def execute(self, context: bpy.types.Context) -> set[str]:
        body = environment.find(context)
        catches = not body.is_shadow_catcher
        for part in environment.parts(body):
            if part.type == "MESH":
                part.is_shadow_catcher = catches
        if catches and context.scene.render.engine != "CYCLES":
            self.report({"WARNING"}, NEEDS_CYCLES)
        return FINISHED


CLASSES = (PANOFORM_OT_shadow_catcher,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
