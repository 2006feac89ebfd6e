"""Job that renders a panorama of the scene as an image and makes it the source."""

from __future__ import annotations

from typing import ClassVar

import bpy

from ..jobs.specs import JobSpec
from ..scene.images import create_float
from ..translation import tr_report
from . import sources


class RenderSpec(JobSpec):
    """Render a panorama, without the backend."""

    label: ClassVar = "Render Panorama"

    def build(self, reply: None, scene: bpy.types.Scene) -> str:
        source = self.source
        image = create_float(f"{self.name} panorama", source.panorama.pixels, "Linear Rec.709")
        sources.store_pose(image, source.world_from_panorama, source.known_distances)
        scene.panoform.source, scene.panoform.image = "IMAGE", image
        image.use_fake_user = True
        return tr_report("Rendered {name!r} and made it the source.", name=image.name)

    def summary(self, reply: None) -> str:
        return "1 panorama"
