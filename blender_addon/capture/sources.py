"""World, image or file → panorama array, with where it stands in the world (rendering one: render.py)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
from mathutils import Euler, Matrix, Vector

from ...shared.protocol.errors import PanoramaError, SceneError
from . import pixels

#: Custom property of an image that was rendered: its `world_from_panorama`, 16 numbers, row by row.
POSE_PROPERTY = "panoform_world_from_panorama"
_NO_HDRI_HINT = "Give it an Environment Texture with an HDRI in the World tab, or choose another source."


class Capture(NamedTuple):
    """A panorama from Blender. Holds no datablock, so that it may be kept while others work in the scene."""

    #: The picture.
    panorama: pixels.Pixels
    #: What it is called, for names and for the record.
    source: str
    #: How it is turned and, where `has_place`, where it was taken from, 4 × 4.
    world_from_panorama: Matrix
    #: `session_uid` of the image datablock it was read from, None for a file or a render.
    image_uid: int | None = None
    #: Whether it is known where it was taken from, as it is of a render.
    has_place: bool = False
    #: The file on disk that it was read from.
    file: Path | None = None

    def pose(self, camera_height_m: float) -> Matrix:
        """Where it stands and how it is turned, 4 × 4: without a place of its own, `camera_height_m` over the world's
        origin, so that its floor lies at z = 0."""
        if self.has_place:
            return self.world_from_panorama
        return Matrix.Translation((0, 0, camera_height_m)) @ self.world_from_panorama

    def world_picture(self) -> bpy.types.Image | pixels.Pixels:
        """What `scene.build` shows as the world: the very image it came from where that is still packed, or a file that
        is there, else its values."""
        for image in bpy.data.images:
            if image.session_uid == self.image_uid and image.source == "FILE" and not image.is_dirty:
                path = bpy.path.abspath(image.filepath, library=image.library)
                if image.packed_file or Path(path).is_file():
                    return image
        return self.panorama


# World


def _upstream(socket: bpy.types.NodeSocket) -> list[bpy.types.Node]:
    """The nodes that feed an input, nearest first, each once."""
    found: list[bpy.types.Node] = []
    waiting = [link.from_node for link in socket.links if not link.is_muted]
    while waiting:
        node = waiting.pop(0)
        if node not in found:
            found.append(node)
            waiting += [link.from_node for entry in node.inputs for link in entry.links if not link.is_muted]
    return found


def world_image(scene: bpy.types.Scene) -> tuple[bpy.types.Image, Matrix]:
    """The HDRI of the scene's world, and how it is turned (4 × 4, panorama to world).

    Raises SceneError where the world has no HDRI, has several, or maps it by anything but a rotation.
    """
    texture = _texture(scene)
    return texture.image, _rotation(scene.world, texture)


def world_strength(scene: bpy.types.Scene) -> float:
    """By what the scene's world multiplies its HDRI. Raises SceneError where more than a Background does."""
    texture = _texture(scene)
    background, *behind = _upstream(_output(scene.world).inputs["Surface"])
    straight = background.bl_idname == "ShaderNodeBackground" and behind[0] == texture
    if not straight or background.inputs["Strength"].is_linked:
        raise SceneError(
            f"The world {scene.world.name!r} changes its HDRI by other nodes.",
            "Connect the Environment Texture to a Background, and that to the output.",
        )
    return background.inputs["Strength"].default_value


def _output(world: bpy.types.World | None) -> bpy.types.Node | None:
    shaded = world is not None and (bpy.app.version >= (5, 0) or world.use_nodes)
    return world.node_tree.get_output_node("ALL") if shaded and world.node_tree else None


def _texture(scene: bpy.types.Scene) -> bpy.types.Node:
    """The node with the HDRI that lights the scene."""
    world = scene.world
    output = _output(world)
    if output is None:
        raise SceneError("The scene's world has no HDRI.", _NO_HDRI_HINT)
    textures = [node for node in _upstream(output.inputs["Surface"]) if node.bl_idname == "ShaderNodeTexEnvironment"]
    if not textures or textures[0].image is None:
        raise SceneError(f"The world {world.name!r} has no HDRI.", _NO_HDRI_HINT)
    if len(textures) > 1:
        raise SceneError(
            f"The world {world.name!r} mixes {len(textures)} HDRIs.",
            "Choose one of them as an image, or render the scene.",
        )
    if textures[0].projection != "EQUIRECTANGULAR":
        raise SceneError(f"The HDRI of {world.name!r} is a mirror ball.", "Render the scene instead.")
    return textures[0]


def _rotation(world: bpy.types.World, texture: bpy.types.Node) -> Matrix:
    """What the Mapping node before `texture` does, the other way round."""
    rotation = Matrix.Identity(3)
    socket = texture.inputs["Vector"]
    node = socket.links[0].from_node if socket.links else None
    if node is not None and node.bl_idname == "ShaderNodeMapping":
        plain = not any(
            node.inputs[name].is_linked for name in ("Location", "Rotation", "Scale") if name in node.inputs
        )
        scale = Vector(node.inputs["Scale"].default_value)
        moved = node.vector_type in {"POINT", "TEXTURE"} and any(node.inputs["Location"].default_value)
        if not plain or moved or (scale - Vector((1, 1, 1))).length > 1e-5:
            raise SceneError(
                f"The HDRI of {world.name!r} is moved, scaled or driven by its Mapping node.",
                "Leave only its rotation, or choose the image itself as source.",
            )
        rotation = Euler(node.inputs["Rotation"].default_value).to_matrix()
        if node.vector_type == "TEXTURE":
            rotation.invert()
        source = node.inputs["Vector"]
        node = source.links[0].from_node if source.links else None
        outlet = source.links[0].from_socket.name if source.links else ""
    else:
        outlet = socket.links[0].from_socket.name if socket.links else ""
    if node is not None and (node.bl_idname, outlet) not in {
        ("ShaderNodeTexCoord", "Generated"),
        ("ShaderNodeTexCoord", "Object"),
    }:
        raise SceneError(
            f"The HDRI of {world.name!r} is mapped by the node {node.name!r}.",
            "Map it by Texture Coordinate (Generated) and Mapping, or choose the image itself as source.",
        )
    return rotation.inverted().to_4x4()


def from_world(scene: bpy.types.Scene) -> Capture:
    """The HDRI that lights `scene`. Raises SceneError (`world_image`) or PanoramaError (`pixels.read`)."""
    image, world_from_panorama = world_image(scene)
    return Capture(pixels.read(image), stem(image), world_from_panorama, image.session_uid, file=image_file(image))


# Image, file


def image_file(image: bpy.types.Image) -> Path | None:
    """The file of an image datablock, whether it is there or not."""
    return Path(bpy.path.abspath(image.filepath, library=image.library)) if image.filepath else None


def stem(image: bpy.types.Image) -> str:
    return Path(image.name).stem or image.name


def from_image(image: bpy.types.Image) -> Capture:
    """An image datablock, with the pose that was kept in it. Raises PanoramaError (`pixels.read`), SceneError."""
    pose = kept_pose(image)
    turn = Matrix.Identity(4) if pose is None else pose
    return Capture(
        pixels.read(image), stem(image), turn, image.session_uid, has_place=pose is not None, file=image_file(image)
    )


def keep_pose(image: bpy.types.Image, world_from_panorama: Matrix) -> None:
    """Keep in the image where it was taken from and how it is turned, 4 × 4."""
    image[POSE_PROPERTY] = [value for row in world_from_panorama for value in row]


def kept_pose(image: bpy.types.Image) -> Matrix | None:
    """What `keep_pose` kept, None where it didn't. Raises SceneError where that was changed into something else."""
    if POSE_PROPERTY not in image:
        return None
    try:
        pose = np.array(list(image[POSE_PROPERTY]), np.float64).reshape(4, 4)
    except (TypeError, ValueError):
        pose = np.full((4, 4), np.nan)
    if not np.isfinite(pose).all():
        raise SceneError(
            f"The custom property {POSE_PROPERTY!r} of the image {image.name!r} is not a matrix of 16 numbers.",
            "Delete that property, or render the panorama again.",
        )
    return Matrix(pose.tolist())


def from_file(path: str | Path) -> Capture:
    """A picture in any format that Blender reads. Raises PanoramaError where it is missing or damaged."""
    path = Path(bpy.path.abspath(str(path)))
    if not path.is_file():
        raise PanoramaError(f"There is no file {path}.", "Check the path.")
    image = bpy.data.images.load(str(path))
    try:
        return Capture(pixels.read(image), path.stem, Matrix.Identity(4), file=path)
    finally:
        bpy.data.images.remove(image)


# Where a render stands


def camera_pose(scene: bpy.types.Scene) -> Matrix:
    """At the scene's camera, turned about Z so that the panorama's centre is where it looks. SceneError without one."""
    if scene.camera is None:
        raise SceneError("The scene has no camera.", "Add one, or render from the 3D cursor.")
    pose = scene.camera.matrix_world
    ahead = pose.to_3x3() @ Vector((0, 0, -1))
    return Matrix.Translation(pose.translation) @ Matrix.Rotation(math.atan2(ahead.y, ahead.x), 4, "Z")


def cursor_pose(scene: bpy.types.Scene) -> Matrix:
    """At the 3D cursor, the panorama's centre towards +X."""
    return Matrix.Translation(scene.cursor.location)
