"""The operator that renders a panorama of the scene."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty

from ..jobs.manager import jobs
from ..jobs.specs import Result
from ..ui.operator_parts import FINISHED, JOB_RUNNING, poll_unless, reporting, run_job, start_render
from . import sources
from .properties import render_samples_property, render_width_property
from .render import PanoramaRender, Render
from .sources import Capture
from .spec import RenderSpec


def render(scene: bpy.types.Scene, at_cursor: bool, width: int, samples: int) -> Capture | Render[Capture]:
    """Render a panorama at the scene's camera or the 3D cursor; in a window, return the started render."""
    pose = sources.cursor_pose(scene) if at_cursor else sources.camera_pose(scene)
    return start_render(PanoramaRender(scene, pose, width=width, samples=samples))


class PANOFORM_OT_render_panorama(bpy.types.Operator):
    """Render the scene as an equirectangular image and make it the source"""

    bl_idname = "panoform.render_panorama"
    bl_label = "Render Panorama"

    at_cursor: BoolProperty(name="From 3D Cursor", description="Render from the 3D cursor instead of the camera")
    width: render_width_property()
    samples: render_samples_property()

    poll = poll_unless(lambda: "" if jobs.job is None else JOB_RUNNING)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        scene = context.scene
        given, settings = self.properties.is_property_set, scene.panoform
        width = self.width if given("width") else settings.render_width
        samples = self.samples if given("samples") else settings.render_samples
        source = render(scene, self.at_cursor, width, samples)
        spec = RenderSpec(source=source, name=scene.name, scene_uid=scene.session_uid)
        if spec.is_rendering:
            return run_job(self, spec)
        self.report({"INFO"}, Result(spec).build(scene))
        return FINISHED


CLASSES = (PANOFORM_OT_render_panorama,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
