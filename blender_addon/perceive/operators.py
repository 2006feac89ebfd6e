"""The operator that perceives maps."""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.props import StringProperty

from ...shared import result_folder
from ...shared.engines import check_engine
from ...shared.imaging.shrink import MARGIN
from ...shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from ...shared.jobs.scene import SceneSettings
from ...shared.maps import SEMANTIC
from ...shared.protocol.errors import SceneError, SettingError
from .. import preferences
from ..capture import sources
from ..capture.operators import render
from ..capture.properties import (
    filepath_property,
    render_samples_property,
    render_width_property,
    repair_property,
    source_property,
)
from ..capture.render import Render, WorldRender
from ..capture.sources import Capture
from ..scene.properties import (
    align_walls_property,
    camera_height_property,
    detail_property,
    kind_property,
    level_floor_property,
    match_panorama_property,
    texture_width_property,
)
from ..scene.properties import settings_from as scene_settings_from
from ..ui.engine_properties import engine_property, quality_property
from ..ui.operator_parts import (
    job_disabled_reason,
    poll_unless,
    property_or_setting,
    reporting,
    run_job,
    start_render,
)
from ..ui.path_properties import BLEND_RELATIVE
from . import properties
from .spec import NO_PIXELS, PerceiveSpec, settings_from


class PANOFORM_OT_perceive(bpy.types.Operator):
    """Perceive maps of the panorama and build world, mesh, objects or dome, and material from them"""

    bl_idname = "panoform.perceive"
    bl_label = "Build Scene from Panorama"

    source: source_property()
    image: StringProperty(name="Image", description="Name of an image in this file")
    filepath: filepath_property()
    layer: StringProperty(name="Layer", description="Layer or part of an EXR. Empty: the one that shows light")
    render_width: render_width_property()
    render_samples: render_samples_property()
    maps: properties.maps_property()
    quality: quality_property()
    seed: properties.seed_property()
    engine: engine_property()
    kind: kind_property()
    camera_height: camera_height_property()
    detail: detail_property()
    texture_width: texture_width_property()
    level_floor: level_floor_property()
    align_walls: align_walls_property()
    match_panorama: match_panorama_property()
    out_directory: StringProperty(
        name="Folder", description="Also write the maps to this folder", subtype="DIR_PATH", options=BLEND_RELATIVE
    )
    repair: repair_property()

    poll = poll_unless(job_disabled_reason)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        return run_job(self, self._spec(context.scene))

    def _spec(self, scene: bpy.types.Scene) -> PerceiveSpec:
        engine = preferences.get().engine_settings(self._get(scene, "engine"))
        check_engine(engine)
        settings = settings_from(lambda name: self._get(scene, name), engine)
        scene_settings = scene_settings_from(lambda name: self._get(scene, name))
        if scene_settings.objects and SEMANTIC.name not in settings.maps:
            raise SettingError("Objects need a semantic map.", "Perceive Semantic too.")
        directory = bpy.path.abspath(self.out_directory) if self.out_directory else ""
        if directory:
            result_folder.check_files(Path(directory), settings.maps)  # before a render starts
        source = self._source(scene, self._needed_height(scene, settings, scene_settings))
        if directory and isinstance(source, Capture):
            result_folder.check_files(Path(directory), settings.maps, [source.file])
        name = source.source if isinstance(source, Capture) else scene.name
        request = PerceiveRequest(
            panorama=NO_PIXELS,
            encoding="linear",
            source=name,
            engine=engine,
            settings=settings,
            directory=directory,
        )
        return PerceiveSpec(
            source=source,
            name=name,
            scene_uid=scene.session_uid,
            request=request,
            scene_settings=scene_settings,
            is_mesh=self._get(scene, "kind") != "DOME",
        )

    def _get(self, scene: bpy.types.Scene, name: str):
        return property_or_setting(self, name, scene.panoform)

    def _needed_height(
        self, scene: bpy.types.Scene, settings: PerceiveSettings, scene_settings: SceneSettings
    ) -> int | None:
        """Return the height of a model's input for which the panorama is read: the larger of two jobs'."""
        if settings.height is None or self._get(scene, "kind") == "DOME":
            return settings.height
        return max(settings.height, -(-scene_settings.texture_width // (2 * MARGIN)))

    def _source(self, scene: bpy.types.Scene, height: int | None) -> Capture | Render[Capture]:
        match self._get(scene, "source"):
            case "WORLD":
                return sources.from_plain_world(scene, height) or start_render(WorldRender(scene))
            case "IMAGE":
                image = sources.named_image(self.image) if self.image else scene.panoform.image
                if image is None:
                    raise SceneError("No image is selected.", "Select an image of this file.")
                return sources.from_image(image, self._get(scene, "layer"), height)
            case "FILE":
                path = self._get(scene, "filepath")
                if not path:
                    raise SceneError("No file is selected.", "Select a panorama on disk.")
                return sources.from_file(path, self._get(scene, "layer"), height)
            case "RENDER_CAMERA":
                return self._render(scene, at_cursor=False)
            case _:
                return self._render(scene, at_cursor=True)

    def _render(self, scene: bpy.types.Scene, *, at_cursor: bool) -> Capture | Render[Capture]:
        return render(scene, at_cursor, self._get(scene, "render_width"), self._get(scene, "render_samples"))


CLASSES = (PANOFORM_OT_perceive,)

register, unregister = bpy.utils.register_classes_factory(CLASSES)
