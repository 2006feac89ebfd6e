"""What came of an order → the scene."""

from __future__ import annotations

from pathlib import Path

import bpy

from ...shared.panorama_file import check_path, with_seed
from ..capture import sources
from ..generate import panoramas
from ..jobs.specs import GenerateOrder, PerceiveOrder, Result
from .build import build
from .images import create_float


def build_result(result: Result, scene: bpy.types.Scene) -> str:
    """Bring it into `scene`; returns what was done, in words. Raises OutputError, InputError."""
    result.pending = False
    match result.order:
        case PerceiveOrder():
            said = _maps(result, scene)
        case GenerateOrder():
            said = _world(result, scene)
        case _:
            said = _image(result, scene)
    result.built = True
    return said


def _image(result: Result, scene: bpy.types.Scene) -> str:
    source = result.order.source
    image = create_float(f"{result.order.name} panorama", source.panorama.pixels, "Linear Rec.709")
    sources.keep_pose(image, source.world_from_panorama)
    scene.panoform.source, scene.panoform.image = "IMAGE", image
    image.use_fake_user = True
    return f"Rendered {image.name!r}; it is the source now."


def _maps(result: Result, scene: bpy.types.Scene) -> str:
    order = result.order
    collection = build(
        scene,
        result.reply.maps,
        order.source.world_picture(),
        order.name,
        camera_height_m=order.camera_height_m,
        world_from_panorama=order.source.pose(order.camera_height_m),
    )
    select(scene, collection)
    return f"Built {collection.name!r}. {result.reply.info.notice}".strip()


def _world(result: Result, scene: bpy.types.Scene) -> str:
    """Writes the files once; built again, the first is only shown."""
    order, reply = result.order, result.reply
    for panorama, recipe in list(zip(reply.panoramas, reply.recipes, strict=True))[len(result.paths) :]:
        path = _path(order, recipe.settings.seeds[0], scene)
        panoramas.write(path, panorama, panoramas.turned(recipe, order.world_from_panorama))
        result.paths.append(path)
    panoramas.show(scene, result.paths[0], order.world_from_panorama)
    notices = dict.fromkeys(line for recipe in reply.recipes for line in recipe.notices)
    return " ".join((f"Wrote {', '.join(map(str, result.paths))}.", *notices))


def _path(order: GenerateOrder, seed: int, scene: bpy.types.Scene) -> Path:
    """Where the panorama of that seed is to be written."""
    if order.path is None:
        return panoramas.free_path(panoramas.folder(scene), order.name, seed)
    path = with_seed(order.path, seed, order.settings.seeds)
    check_path(path, (seed,))  # again: a file of the user's may have come there since
    return path


def select(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    """Select what was built, as Blender does with what it adds."""
    layer = bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]
    layer.update()
    for entry in list(layer.objects.selected):
        entry.select_set(False, view_layer=layer)
    for entry in collection.objects:
        entry.select_set(True, view_layer=layer)
        layer.objects.active = entry
