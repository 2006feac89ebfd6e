"""World, image or file → panorama array with its pose in the world (see render.py for renders)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import bpy
import numpy as np
from mathutils import Euler, Matrix, Vector

from ...shared.file_errors import display_name
from ...shared.imaging.colour import linear_from_srgb
from ...shared.protocol.errors import SceneError
from ..scene import images
from ..scene.world import IS_PREVIEW
from . import colour_management, image_limits, picture_file, pixels
from .colour_management import ColorSpace
from .picture_file import Reading

#: Custom property of a rendered image: its `world_from_panorama`, 16 numbers, row by row.
POSE_PROPERTY = "panoform_world_from_panorama"
#: Custom property of a rendered image: `Capture.known_distances`, row by row.
DISTANCES_PROPERTY = "panoform_known_distances"
#: Start of the names of nodes in our worlds that only light the scene (scene/world.py).
LIGHT = "Panoform Light"
_NO_HDRI_HINT = "Give it an Environment Texture with an HDRI in the World tab, or choose another source."
#: Nodes that tell directions apart, beside textures.
_DIRECTIONAL = {"ShaderNodeTexCoord", "ShaderNodeNewGeometry"}


class Capture(NamedTuple):
    """A panorama from Blender. It holds no reference to a datablock, so that it outlives undo and loading."""

    panorama: pixels.Pixels
    #: Name of the source, for datablocks, files and the record.
    source: str
    #: The orientation and, if `has_position`, the position of the panorama, 4 × 4.
    world_from_panorama: Matrix
    #: `session_uid` of the image datablock it was read from; None for a file or a render.
    image_uid: int | None = None
    #: Whether its position in the world is known, as for a render.
    has_position: bool = False
    #: The file it was read from.
    file: Path | None = None
    #: Of a render: SceneRequest.known_distances.
    known_distances: np.ndarray | None = None
    #: Height and width of its source, where it was reduced when it was read.
    source_size: tuple[int, int] | None = None
    #: Whether Blender displays the image or file as it was read.
    is_plain: bool = True
    #: Whether it was read as its file says, not as Blender displays it.
    is_by_file: bool = False
    #: What a user should know of how its file was read.
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width of the source."""
        height, width = self.panorama.pixels.shape[:2]
        return self.source_size or (height, width)

    def pose(self, camera_height_m: float) -> Matrix:
        """Return the pose, 4 × 4. Without a known position, it is `camera_height_m` above the world's origin, which
        puts the floor at z = 0."""
        if self.has_position:
            return self.world_from_panorama
        return Matrix.Translation((0, 0, camera_height_m)) @ self.world_from_panorama

    def world_picture(self) -> bpy.types.Image:
        """Create the packed image that `scene.build` shows as the world: a copy of the image or file that the panorama
        was read from, if that still exists with this size and looks the same, else one from the pixels."""
        height, width = self.size
        for image in bpy.data.images if self.is_plain else ():
            if image.session_uid == self.image_uid and image.source == "FILE" and not image.is_dirty:
                path = bpy.path.abspath(image.filepath, library=image.library)
                if image.packed_file or Path(path).is_file():
                    return self._as_read(images.copy_packed(image))
        if self.is_plain and self.image_uid is None and self.file is not None and self.file.is_file():
            image = image_limits.load(self.file)
            if tuple(image.size) == (width, height):
                image.pack()
                return self._as_read(image)
            bpy.data.images.remove(image)
        return images.create_float(f"{self.source} panorama", self.panorama.pixels, self._colorspace)

    @property
    def _colorspace(self) -> ColorSpace:
        return "sRGB" if self.panorama.encoding == "srgb" else "Linear Rec.709"

    def _as_read(self, image: bpy.types.Image) -> bpy.types.Image:
        """Give an image of the file the colour space that it was read in, which need not be Blender's choice."""
        if self.is_by_file:
            colour_management.assign(image, self._colorspace)
        return image


# World


def _upstream(socket: bpy.types.NodeSocket) -> list[bpy.types.Node]:
    """Return the nodes upstream of a socket, nearest first, each once; without reroutes."""
    nodes: list[bpy.types.Node] = []
    queue = [link.from_node for link in socket.links if not link.is_muted]
    while queue:
        node = queue.pop(0)
        if node not in nodes:
            nodes.append(node)
            queue += [link.from_node for entry in node.inputs for link in entry.links if not link.is_muted]
    return [node for node in nodes if node.bl_idname != "NodeReroute"]


def _source_of(socket: bpy.types.NodeSocket) -> bpy.types.NodeSocket | None:
    """Return the output that a socket shows: past reroutes and muted Mapping nodes; None where it isn't linked."""
    link = next((link for link in socket.links if not link.is_muted), None)
    if link is None:
        return None
    node = link.from_node
    if node.bl_idname == "NodeReroute":
        return _source_of(node.inputs[0])
    if node.bl_idname == "ShaderNodeMapping" and node.mute:
        return _source_of(node.inputs["Vector"])
    return link.from_socket


def world_image(scene: bpy.types.Scene) -> tuple[bpy.types.Image, Matrix]:
    """Return the HDRI of the scene's world and its `world_from_panorama` rotation, 4 × 4.

    Raise SceneError if the world has no HDRI or several, or maps it by more than a rotation.
    """
    texture = _texture(scene)
    return texture.image, _rotation(scene.world, texture)


def world_strength(scene: bpy.types.Scene) -> float:
    """Return the Strength of the world's Background. Raise SceneError if other nodes change the HDRI."""
    texture = _texture(scene)
    shader = _source_of(_output(scene.world).inputs["Surface"])
    background = None if shader is None else shader.node
    if background is not None and background.bl_idname == "ShaderNodeBackground" and not background.mute:
        colour, strength = (_source_of(background.inputs[name]) for name in ("Color", "Strength"))
        if colour is not None and colour.node == texture and colour.name == "Color" and not texture.mute:
            if strength is None:
                return background.inputs["Strength"].default_value
            if strength.node.name.startswith(LIGHT):  # the one value of both backgrounds
                return strength.default_value
    raise SceneError(
        f"Other nodes of the world {scene.world.name!r} change its HDRI.",
        "Connect the Environment Texture to a Background, and that to the output.",
    )


def _output(world: bpy.types.World | None) -> bpy.types.Node | None:
    shaded = world is not None and (bpy.app.version >= (5, 0) or world.use_nodes)
    if not shaded or world.node_tree is None:
        return None
    # Worlds may have an output for each renderer.
    found = (world.node_tree.get_output_node(target) for target in ("ALL", "EEVEE", "CYCLES"))
    return next(filter(None, found), None)


def _output_of(scene: bpy.types.Scene) -> bpy.types.Node:
    """Return the output node of the scene's world. Raise SceneError if there is none, and for our own previews."""
    if scene.world is not None and IS_PREVIEW in scene.world:
        raise SceneError(
            "The scene's world is a preview now.", "Wait until the job is finished, or press Back to My View."
        )
    output = _output(scene.world)
    if output is None:
        raise SceneError("The scene's world has no HDRI.", _NO_HDRI_HINT)
    return output


def _texture(scene: bpy.types.Scene) -> bpy.types.Node:
    """Return the Environment Texture node of the scene's world."""
    world = scene.world
    output = _output_of(scene)
    textures = [
        node
        for node in _upstream(output.inputs["Surface"])
        if node.bl_idname == "ShaderNodeTexEnvironment" and not node.name.startswith(LIGHT)
    ]
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
    """Return the inverse of the rotation by the Mapping node before `texture`."""
    if not _is_unmapped(texture):
        raise SceneError(
            f"The HDRI of {world.name!r} is mapped by its node's own texture mapping.",
            "Reset that, or use the image itself as the source.",
        )
    rotation = Matrix.Identity(3)
    source = _source_of(texture.inputs["Vector"])
    if source is not None and source.node.bl_idname == "ShaderNodeMapping":
        node = source.node
        plain = not any(
            node.inputs[name].is_linked for name in ("Location", "Rotation", "Scale") if name in node.inputs
        )
        scale = Vector(node.inputs["Scale"].default_value)
        moved = node.vector_type in {"POINT", "TEXTURE"} and any(node.inputs["Location"].default_value)
        source = _source_of(node.inputs["Vector"])
        if not plain or moved or (scale - Vector((1, 1, 1))).length > 1e-5 or source is None:
            raise SceneError(
                f"The HDRI of {world.name!r} is moved, scaled or driven by its Mapping node.",
                "Keep only its rotation, or use the image itself as the source.",
            )
        rotation = Euler(node.inputs["Rotation"].default_value).to_matrix()
        if node.vector_type == "TEXTURE":
            rotation.invert()
    coordinates = None if source is None else (source.node.bl_idname, source.name)
    plain = {None, ("ShaderNodeTexCoord", "Generated"), ("ShaderNodeTexCoord", "Object")}
    if coordinates not in plain or (source is not None and (source.node.object is not None or source.node.mute)):
        raise SceneError(
            f"The HDRI of {world.name!r} is mapped by the node {source.node.name!r}.",
            "Map it by Texture Coordinate (Generated) and Mapping, or use the image itself as the source.",
        )
    return rotation.inverted().to_4x4()


def _is_unmapped(texture: bpy.types.Node) -> bool:
    """Return whether the mapping that Blender keeps in texture nodes, without a panel, changes nothing."""
    own, colour = texture.texture_mapping, texture.color_mapping
    return (
        not any(own.translation)
        and not any(own.rotation)
        and all(abs(value - 1) < 1e-6 for value in own.scale)
        and (own.mapping_x, own.mapping_y, own.mapping_z) == ("X", "Y", "Z")
        and own.mapping == "FLAT"
        and not (own.use_min or own.use_max)
        and (colour.brightness, colour.contrast, colour.saturation) == (1, 1, 1)
        and not colour.use_color_ramp
        and colour.blend_factor == 0
    )


def from_plain_world(scene: bpy.types.Scene, height: int | None = None) -> Capture | None:
    """Read the HDRI of the scene's world where nothing but a rotation and a strength change it; else None.

    `height` as in picture_file.read. Raise SceneError if the world shows no texture, PanoramaError for an image without
    its file.
    """
    check_world(scene)
    try:
        image, world_from_panorama = world_image(scene)
        strength = world_strength(scene)
    except SceneError:
        return None  # it is rendered, which shows the same
    if not _is_pure(scene) or image.source not in {"FILE", "GENERATED"} or image.type == "MULTILAYER":
        return None
    image_limits.check(image)
    columns, rows = image.size
    if columns != 2 * rows or _texture(scene).interpolation == "Closest":
        return None  # Blender stretches it, or shows its pixels as squares
    reading = picture_file.displayed(image, height=height)
    found = _capture(reading, stem(image), world_from_panorama, image_uid=image.session_uid, file=image_file(image))
    if strength == 1:
        return found
    light = linear_from_srgb(found.panorama.pixels) if found.panorama.encoding == "srgb" else found.panorama.pixels
    return found._replace(panorama=pixels.Pixels(light * np.float32(strength), "linear"), is_plain=False)


def _is_pure(scene: bpy.types.Scene) -> bool:
    """Return whether only the plain chain is between the HDRI and the outputs: nothing muted, no volume, no group."""
    world = scene.world
    outputs = [node for node in world.node_tree.nodes if node.bl_idname == "ShaderNodeOutputWorld"]
    nodes = [node for output in outputs for node in _upstream(output.inputs["Surface"])]
    ours = [node for node in nodes if not node.name.startswith(LIGHT)]
    textures = {node for node in ours if node.bl_idname == "ShaderNodeTexEnvironment"}
    chain = {"ShaderNodeTexEnvironment", "ShaderNodeBackground", "ShaderNodeMapping", "ShaderNodeTexCoord"}
    return (
        len(textures) == 1
        and all(node.bl_idname in chain for node in ours)
        and not any(node.mute for node in nodes if node.bl_idname != "ShaderNodeMapping")
        and not any(output.inputs["Volume"].is_linked for output in outputs)
        and sum(node.bl_idname == "ShaderNodeBackground" for node in ours) == 1
        and sum(node.bl_idname == "ShaderNodeMapping" for node in ours) <= 1
    )


def check_world(scene: bpy.types.Scene) -> None:
    """Raise SceneError if the scene's world has one colour, PanoramaError if an image that it shows can't be read."""
    output = _output_of(scene)
    nodes = _nested(_upstream(output.inputs["Surface"]))
    textures = [node for node in nodes if _is_texture(node)]
    shown = [node for node in textures if getattr(node, "image", node) is not None]
    if not shown and (textures or not any(node.bl_idname in _DIRECTIONAL for node in nodes)):
        raise SceneError(f"The world {scene.world.name!r} has no HDRI.", _NO_HDRI_HINT)
    for node in shown:
        image = getattr(node, "image", None)
        if image is None:
            continue
        if image.source == "SEQUENCE":
            image_limits.check_frame(image, node.image_user, scene.frame_current)
            continue
        image_limits.check(image)
        # A multilayer EXR has no size of its own, but Cycles shows it.
        if not image.size[0] and image.type != "MULTILAYER":
            pixels.raw(image)  # raises the error that names its file


def world_textures(scene: bpy.types.Scene) -> list[bpy.types.Node]:
    """Return the texture nodes that the scene's world shows, also in groups, without those that only light the scene.

    Raise SceneError where it has no nodes.
    """
    nodes = _nested(_upstream(_output_of(scene).inputs["Surface"]))
    return [node for node in nodes if _is_texture(node) and not node.name.startswith(LIGHT)]


def shown_sizes(scene: bpy.types.Scene) -> list[tuple[int, int]]:
    """Return width and height of the images that the scene's world shows in the current frame, (0, 0) for one that is
    missing. Raise PanoramaError where one can't be read."""
    return [
        image_limits.shown_size(node.image, node.image_user, scene.frame_current)
        for node in world_textures(scene)
        if getattr(node, "image", None) is not None
    ]


def _is_texture(node: bpy.types.Node) -> bool:
    return node.bl_idname.startswith("ShaderNodeTex") and node.bl_idname != "ShaderNodeTexCoord"


def _nested(nodes: Iterable[bpy.types.Node]) -> list[bpy.types.Node]:
    """Return the nodes, and those in groups among them."""
    found = []
    for node in nodes:
        found.append(node)
        if node.bl_idname == "ShaderNodeGroup" and node.node_tree is not None:
            found += _nested(node.node_tree.nodes)
    return found


def common_frame(scene: bpy.types.Scene) -> Matrix | None:
    """Return the rotation, 4 × 4, in which a panorama's pixels are those of all images that the scene's world shows.

    None where the images have several sizes or rotations, or are mapped by more than a rotation.
    """
    textures = world_textures(scene)
    if not textures or any(node.bl_idname != "ShaderNodeTexEnvironment" or node.image is None for node in textures):
        return None
    sizes = set(shown_sizes(scene))
    if len(sizes) != 1 or any(not width or width != 2 * height for width, height in sizes):
        return None
    try:
        first, *others = (_rotation(scene.world, node) for node in textures)
    except SceneError:
        return None
    is_one = all(node.projection == "EQUIRECTANGULAR" for node in textures) and all(
        np.allclose(first, other, atol=1e-6) for other in others
    )
    return first if is_one else None


# Image, file


def _capture(reading: Reading, name: str, world_from_panorama: Matrix, **more: Any) -> Capture:
    """Return the capture of a reading. Raise PanoramaError where pixels are transparent or missing."""
    return Capture(
        reading.opaque(name), name, world_from_panorama, is_plain=reading.is_plain,
        is_by_file=reading.header is not None, notes=tuple(reading.notes),
        source_size=reading.source_size, **more,
    )  # fmt: skip


def image_file(image: bpy.types.Image) -> Path | None:
    """Return the file path of an image datablock; the file may not exist."""
    return Path(bpy.path.abspath(image.filepath, library=image.library)) if image.filepath else None


def named_image(name: str) -> bpy.types.Image:
    """Return the image datablock of that name. Raise SceneError if there is none."""
    image = bpy.data.images.get(name)
    if image is None:
        raise SceneError(f"There is no image named {name!r}.", "Select an image of this file.")
    return image


def stem(image: bpy.types.Image) -> str:
    return Path(image.name).stem or image.name


def from_image(image: bpy.types.Image, layer: str = "", height: int | None = None) -> Capture:
    """Read an image datablock (of an EXR, `layer`) and the pose stored in it; `height` as in picture_file.read.

    Raise PanoramaError, SceneError.
    """
    pose = stored_pose(image)
    return _capture(
        picture_file.read_image(image, layer, height=height),
        stem(image),
        Matrix.Identity(4) if pose is None else pose,
        image_uid=image.session_uid,
        has_position=pose is not None,
        file=image_file(image),
        known_distances=None if pose is None else _stored_distances(image),
    )


def store_pose(image: bpy.types.Image, world_from_panorama: Matrix, known_distances: np.ndarray | None = None) -> None:
    """Store the pose of the panorama in the image, and the distances that are known there (`Capture`)."""
    image[POSE_PROPERTY] = [value for row in world_from_panorama for value in row]
    if known_distances is not None:
        image[DISTANCES_PROPERTY] = known_distances.ravel().tolist()


def _stored_distances(image: bpy.types.Image) -> np.ndarray | None:
    """Return the distances stored by `store_pose`, None if there are none. Raise SceneError if they are invalid."""
    if DISTANCES_PROPERTY not in image:
        return None
    try:
        return np.array(list(image[DISTANCES_PROPERTY]), np.float32).reshape(-1, 4)
    except (TypeError, ValueError) as error:
        raise SceneError(
            f"The custom property {DISTANCES_PROPERTY!r} of the image {image.name!r} is not rows of 4 numbers.",
            "Delete that property, or render the panorama again.",
        ) from error


def stored_pose(image: bpy.types.Image) -> Matrix | None:
    """Return the pose stored by `store_pose`, None if there is none. Raise SceneError if it is invalid."""
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


def from_file(path: str | Path, layer: str = "", height: int | None = None) -> Capture:
    """Read an image file (of an EXR, `layer`); `height` as in picture_file.read.

    Raise PanoramaError if it is missing, damaged, or no panorama.
    """
    path = Path(bpy.path.abspath(str(path)))
    return _capture(
        picture_file.read(path, layer, height=height), display_name(path.stem), Matrix.Identity(4), file=path
    )


# Pose of a render


def camera_pose(scene: bpy.types.Scene) -> Matrix:
    """Return a pose at the scene's camera, the panorama's centre in its direction. Raise SceneError without one."""
    if scene.camera is None:
        raise SceneError("The scene has no camera.", "Add one, or render from the 3D cursor.")
    pose = scene.camera.matrix_world
    ahead = pose.to_3x3() @ Vector((0, 0, -1))
    return Matrix.Translation(pose.translation) @ Matrix.Rotation(math.atan2(ahead.y, ahead.x), 4, "Z")


def cursor_pose(scene: bpy.types.Scene) -> Matrix:
    """Return a pose at the 3D cursor, the panorama's centre towards +X."""
    return Matrix.Translation(scene.cursor.location)
