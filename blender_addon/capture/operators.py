"""The operator that renders a panorama of the scene."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, IntProperty

from ...shared.engines import MAX_PANORAMA_WIDTH
from ..jobs.manager import jobs
from ..jobs.specs import Result
from ..ui.operator_parts import FINISHED, JOB_RUNNING, RENDER_SAMPLES, poll_unless, reporting, run_job, start_render
from . import sources
from .render import PanoramaRender, Render
from .sources import Capture
from .spec import RenderSpec

#: Width of a rendered panorama: twice the largest input width of an engine.
RENDER_WIDTH_PX = 2048


def render(
    scene: bpy.types.Scene, at_cursor: bool, width: int = RENDER_WIDTH_PX, samples: int = RENDER_SAMPLES
) -> Capture | Render[Capture]:
    """Render a panorama at the scene's camera or the 3D cursor; in a window, return the started render."""
    pose = sources.cursor_pose(scene) if at_cursor else sources.camera_pose(scene)
    return start_render(PanoramaRender(scene, pose, width=width, samples=samples))


class PANOFORM_OT_render_panorama(bpy.types.Operator):
    """Render the scene as an equirectangular image and make it the source"""

    bl_idname = "panoform.render_panorama"
    bl_label = "Render Panorama"

    at_cursor: BoolProperty(name="From 3D Cursor", description="Render from the 3D cursor instead of the camera")
    width: IntProperty(name="Width", default=RENDER_WIDTH_PX, min=2, max=MAX_PANORAMA_WIDTH, subtype="PIXEL")
    samples: IntProperty(name="Samples", default=RENDER_SAMPLES, min=1)

    poll = poll_unless(lambda: "" if jobs.job is None else JOB_RUNNING)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        spec = RenderSpec(
            source=render(scene, self.at_cursor, self.width, self.samples), name=scene.name, scene_uid=scene.session_uid
        )
        if spec.is_rendering:
            return run_job(self, spec)
        self.report({"INFO"}, Result(spec).build(scene))
        return FINISHED


CLASSES = (PANOFORM_OT_render_panorama,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
