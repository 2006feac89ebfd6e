"""Build a result in a scene."""

from __future__ import annotations

import bpy
import numpy as np
from mathutils import Matrix

from ...shared.maps import MAPS
from ..capture.pixels import Pixels
from . import dome, images, material, world


def build(
    scene: bpy.types.Scene,
    maps: dict[str, np.ndarray],
    panorama: Pixels | bpy.types.Image | None,
    name: str,
    *,
    camera_height_m: float = 1.6,
    world_from_panorama: Matrix | None = None,
) -> bpy.types.Collection:
    """Add a collection "Panoform {name}" to `scene` with the dome and its material; make the panorama the world.

    `maps`: name → (H, W, channels) float32, as in maps.MAPS. `panorama`: the world's image; an image datablock is
    copied with its colour space, None keeps the scene's world. `world_from_panorama`: pose of the panorama, 4 × 4
    (default: `camera_height_m` above the origin, which puts the floor at z = 0, its centre towards +X). Only new
    datablocks are created; of the existing ones, only `scene.world` changes.
    """
    if world_from_panorama is None:
        world_from_panorama = Matrix.Translation((0, 0, camera_height_m))
    collection = bpy.data.collections.new(f"Panoform {name}")

    textures = {kind: _texture(f"{name} {kind}", kind, array) for kind, array in maps.items() if kind in MAPS}
    if textures.keys() - {"semantic"}:
        scale = dome.SPHERE_RADIUS_M
        if "distance" in maps:
            scale = dome.scale_from_floor(maps["distance"], camera_height_m)
        body = dome.create(f"{name} dome", textures.get("distance"), scale, material.create(name, textures))
        body.matrix_world = world_from_panorama
        collection.objects.link(body)
    if "semantic" in textures:
        textures["semantic"].use_fake_user = True  # no node uses it

    if panorama is not None:
        if isinstance(panorama, bpy.types.Image):
            picture = images.copy_packed(f"{name} panorama", panorama)
        elif panorama.encoding == "linear":
            picture = images.create_float(f"{name} panorama", panorama.pixels, "Linear Rec.709")
        else:
            picture = images.create_16bit(f"{name} panorama", panorama.pixels, "sRGB")
        world.assign(scene, world.create(f"Panoform {name}", picture, world_from_panorama))
    scene.collection.children.link(collection)
    return collection


def _texture(name: str, kind: str, array: np.ndarray) -> bpy.types.Image:
    if kind == "distance":
        return images.create_float(name, array, "Non-Color")
    if kind == "normal":
        return images.create_float(name, array * 0.5 + 0.5, "Non-Color")
    return images.create_16bit(name, array, MAPS[kind].colorspace)


def select(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    """Select the built objects, as Blender does with added objects."""
    layer = bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]
    layer.update()
    for entry in list(layer.objects.selected):
        entry.select_set(False, view_layer=layer)
    for entry in collection.objects:
        entry.select_set(True, view_layer=layer)
        layer.objects.active = entry
