"""Build a result in a scene."""

from __future__ import annotations

import hashlib
import math

import bpy
import numpy as np
from mathutils import Matrix

from ...shared.jobs.scene import SceneReply
from ..capture import pixels
from . import dome, environment, images, material, mesh, remove, world


def build(
    scene: bpy.types.Scene,
    maps: dict[str, bpy.types.Image],
    panorama: bpy.types.Image | None,
    name: str,
    *,
    camera_height_m: float = 1.6,
    scale: float | None = None,
    world_from_panorama: Matrix | None = None,
) -> bpy.types.Collection:
    """Add a collection "Panoform {name}" to `scene` with the dome and its material; make the panorama the world.

    `maps`: name → image with the values described in maps.MAPS. `panorama`: the world's image; None keeps the scene's
    world. Both are used, and renamed, as they are. `world_from_panorama`: pose of the panorama, 4 × 4 (default:
    `camera_height_m` above the origin, which puts the floor at z = 0, its centre towards +X). `scale`: metres per unit
    of distance (default: by `camera_height_m`). Only new datablocks are created; of the existing ones, only
    `scene.world` changes. Raise PanoramaError (`pixels.raw`).
    """
    if world_from_panorama is None:
        world_from_panorama = Matrix.Translation((0, 0, camera_height_m))
    if "distance" not in maps:
        scale = dome.SPHERE_RADIUS_M
    elif scale is None:
        scale = camera_height_m / dome.floor_depth(pixels.raw(maps["distance"])[..., :1])
    collection = bpy.data.collections.new(f"Panoform {name}")
    for kind, image in maps.items():
        image.name = f"{name} {kind}"
    body = None
    if maps.keys() - {"semantic"}:
        body = dome.create(f"{name} dome", maps.get("distance"), scale, material.create(name, maps))
        body.matrix_world = world_from_panorama
        body[environment.ENVIRONMENT] = True
        collection.objects.link(body)
    if "semantic" in maps and body is not None:
        body["panoform_semantic"] = maps["semantic"]  # no node uses it
    elif "semantic" in maps:
        maps["semantic"].use_fake_user = True

    if panorama is not None:
        _assign_world(scene, panorama, name, world_from_panorama, body)
    if body is not None:
        body[environment.SOURCE] = _digest(panorama or maps.get("distance"), name)
    environment.mark(collection)
    scene.collection.children.link(collection)
    if body is not None:
        remove.remember(body)
    return collection


def build_mesh(
    scene: bpy.types.Scene,
    reply: SceneReply,
    panorama: bpy.types.Image | None,
    name: str,
    world_from_panorama: Matrix,
) -> bpy.types.Collection:
    """Add a collection "Panoform {name}" to `scene` with a camera, things, and the rest of the backend's mesh, in that
    order.

    `panorama`, `world_from_panorama`: as in `build`. The camera stands at the panorama's place; it becomes the scene's
    camera only if there is none. Raise PanoramaError for a damaged texture.
    """
    bodies = mesh.create(name, reply)
    for entry in bodies:
        entry.matrix_world = world_from_panorama @ Matrix.Translation(entry.location)
    body = bodies[-1]
    body[environment.ENVIRONMENT], body[environment.SOURCE] = True, _digest(panorama, name)
    lens = bpy.data.cameras.new(f"{name} camera")
    lens.angle, lens.clip_start, lens.display_size = math.pi / 2, 0.01, 0.1
    camera = bpy.data.objects.new(lens.name, lens)
    camera.matrix_world = world_from_panorama @ environment.camera_turn()
    collection = bpy.data.collections.new(f"Panoform {name}")
    for entry in (camera, *bodies):
        collection.objects.link(entry)
    if panorama is not None:
        light = reply.environment
        lit = light and images.create_from_file(f"{name} environment", light.data, light.colorspace)
        _assign_world(scene, panorama, name, world_from_panorama, body, lit)
    environment.mark(collection)
    scene.collection.children.link(collection)
    remove.remember(body)
    if scene.camera is None:
        scene.camera = camera
    return collection


def _digest(image: bpy.types.Image | None, name: str) -> str:
    """Return a digest of an image's content, by which environments of one panorama are known; `name` without one."""
    if image is None:
        return name
    data = image.packed_file.data if image.packed_file else np.array(image.pixels, np.float32)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _assign_world(
    scene: bpy.types.Scene,
    panorama: bpy.types.Image,
    name: str,
    world_from_panorama: Matrix,
    body: bpy.types.Object | None,
    light: bpy.types.Image | None = None,
) -> None:
    panorama.name = f"{name} panorama"
    shown = world.create(f"Panoform {name}", panorama, world_from_panorama, light)
    world.assign(scene, shown)
    if body is not None:
        body[environment.WORLD] = shown


def show(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    """Select the built objects, as Blender does with added objects, and step inside, unless in background mode."""
    _select(scene, collection)
    for body in collection.objects:
        if environment.ENVIRONMENT in body:
            environment.enter(scene, body)


def _select(scene: bpy.types.Scene, collection: bpy.types.Collection) -> None:
    layer = bpy.context.view_layer if bpy.context.scene == scene else scene.view_layers[0]
    layer.update()
    for entry in list(layer.objects.selected):
        entry.select_set(False, view_layer=layer)
    for entry in collection.objects:
        entry.select_set(True, view_layer=layer)
        layer.objects.active = entry
