"""Photo or camera → perspective picture with the orientation of its camera, for outpainting to a panorama."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import bpy
import msgspec
import numpy as np
from mathutils import Matrix, Vector

from ...shared.imaging.exif import upright
from ...shared.jobs.generate import View, check_view
from ...shared.protocol.errors import SceneError, SettingError
from . import exif, picture_file, pixels


class Picture(NamedTuple):
    """A perspective picture. It holds no reference to a datablock."""

    #: (h, w, 3) float32 sRGB in [0, 1], top row first.
    pixels: np.ndarray
    #: With a field of view.
    view: View
    #: Name of the source, for datablocks, files and the recipe.
    source: str


class CutOut(NamedTuple):
    """A picture of objects on transparency. It holds no reference to a datablock."""

    #: (h, w, 4) uint8, sRGB with alpha that is not premultiplied, top row first.
    pixels: np.ndarray
    #: Name of the source.
    source: str


def from_image(image: bpy.types.Image, view: View) -> Picture:
    """Read an image datablock, upright. If `view.fov` is None, it is read from the EXIF data.

    Raise SettingError if it has none, or for an angle out of range; PanoramaError (`picture_file.read_image`).
    """
    metadata = read_exif(image)
    reading = picture_file.read_image(image, is_panorama=False)
    if view.fov is None:
        view = msgspec.structs.replace(view, fov=metadata.fov)
    check_view(view)
    if view.fov is None:
        raise SettingError(f"The EXIF data of {image.name} has no field of view.", "Enter the field of view.")
    picture = pixels.display(reading.opaque(image.name))
    if reading.header is None:  # Blender doesn't turn what it displays
        picture = upright(picture, metadata.orientation)
    return Picture(np.ascontiguousarray(picture), view, Path(image.name).name)


def read_exif(image: bpy.types.Image) -> exif.Exif:
    """Read the EXIF data of the image's file."""
    path = Path(bpy.path.abspath(image.filepath, library=image.library))
    if image.packed_file:
        return exif.read(image.packed_file.data)
    return exif.read(path.read_bytes()) if image.filepath and path.is_file() else exif.Exif()


def camera_view(scene: bpy.types.Scene) -> View:
    """Return the orientation and field of view of the scene's camera.

    Raise SceneError if it is not a plain perspective camera, SettingError for a field of view out of range.
    """
    if scene.camera is None:
        raise SceneError("The scene has no camera.", "Add a camera.")
    camera = scene.camera.data
    if camera.type != "PERSP":
        raise SceneError(f"{scene.camera.name!r} is not a perspective camera.", "Set its Type to Perspective.")
    if camera.shift_x or camera.shift_y:
        raise SceneError(f"The lens of {scene.camera.name!r} is shifted.", "Set its Shift X and Y to 0.")
    right_top = camera.view_frame(scene=scene)[0]
    fov = 2 * math.atan2(abs(right_top.x), abs(right_top.z))
    # The panorama's axes (ahead, left, up) in the camera's, which looks along -Z with +Y up.
    axes = Matrix((Vector((0, 0, -1)), Vector((-1, 0, 0)), Vector((0, 1, 0)))).transposed()
    turn = (scene.camera.matrix_world.to_quaternion().to_matrix() @ axes).to_euler("XYZ")
    # Rounded: for a camera that looks straight down, the pitch is slightly beyond 90°.
    fov, yaw, pitch, roll = (round(math.degrees(angle), 4) for angle in (fov, turn.z, -turn.y, turn.x))
    view = View(fov=fov, yaw=yaw, pitch=pitch, roll=roll)
    check_view(view)
    return view
