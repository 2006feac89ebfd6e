import dataclasses

import bpy
import numpy as np
from bpy.props import FloatProperty, IntProperty

from panoform.blender_addon.jobs.specs import JobSpec
from panoform.blender_addon.ui.operator_parts import reporting, run_job
from toy.contract import AddReply, AddRequest


@dataclasses.dataclass(eq=False, kw_only=True)
class AddSpec(JobSpec):
    #: The job that follows.
    then: JobSpec | None = None

    def follow_up(self, reply: AddReply) -> JobSpec | None:
        return self.then

    def build(self, reply: AddReply, scene: bpy.types.Scene) -> str:
        thing = bpy.data.objects.new(f"{self.name} {reply.total:g}", None)
        scene.collection.objects.link(thing)
        return f"The sum is {reply.total:g}."

    def summary(self, reply: AddReply) -> str:
        return "1 sum"


class PANOFORM_OT_add(bpy.types.Operator):
    """Add the numbers up to this one"""

    bl_idname = "panoform.add"
    bl_label = "Add"

    count: IntProperty(default=4)
    limit: FloatProperty(default=1e6)
    step_s: FloatProperty()
    then: IntProperty(name="Then", description="Add the numbers up to this one afterwards; 0: no job follows")

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        fields = {"limit": self.limit, "step_s": self.step_s}
        first = spec(context.scene, self.count, **fields)
        if self.then:
            first.then = spec(context.scene, self.then, **fields)
        return run_job(self, first)


def spec(scene: bpy.types.Scene, count: int, **fields: float) -> AddSpec:
    request = AddRequest(numbers=np.arange(1, count + 1, dtype=np.float32), **fields)
    return AddSpec(name="sum", scene_uid=scene.session_uid, request=request)
