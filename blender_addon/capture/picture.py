"""Photo or camera → perspective picture, with where its camera looked: what a panorama is completed around."""

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
from . import exif, pixels


class Picture(NamedTuple):
    """A perspective picture. Holds no datablock."""

    #: (h, w, 3) float32 sRGB in [0, 1], top row first.
    pixels: np.ndarray
    #: Its field of view is given.
    view: View
    #: What it is called, for names and for the record.
    source: str


def from_image(image: bpy.types.Image, view: View) -> Picture:
    """An image datablock, upright. `view.fov` None: as the photo's EXIF tells.

    Raises SettingError where that tells none, or for an angle out of range; PanoramaError (`pixels.read`).
    """
    told = told_by_exif(image)
    if view.fov is None:
        view = msgspec.structs.replace(view, fov=told.fov)
    check_view(view)
    if view.fov is None:
        raise SettingError(f"{image.name} doesn't tell its field of view.", "Give it.")
    seen = upright(pixels.display(pixels.read(image)), told.orientation)
    return Picture(np.ascontiguousarray(seen), view, Path(image.name).name)


def told_by_exif(image: bpy.types.Image) -> exif.Exif:
    """What the camera wrote into the image's file."""
    path = Path(bpy.path.abspath(image.filepath, library=image.library))
    if image.packed_file:
        return exif.read(image.packed_file.data)
    return exif.read(path.read_bytes()) if image.filepath and path.is_file() else exif.Exif()


def camera_view(scene: bpy.types.Scene) -> View:
    """Where the scene's camera looks, and how wide.

    Raises SceneError where it makes no perspective picture, SettingError for a field of view out of range.
    """
    if scene.camera is None:
        raise SceneError("The scene has no camera.", "Add one.")
    camera = scene.camera.data
    if camera.type != "PERSP":
        raise SceneError(f"{scene.camera.name!r} is not a perspective camera.", "Set its Type to Perspective.")
    if camera.shift_x or camera.shift_y:
        raise SceneError(f"The lens of {scene.camera.name!r} is shifted.", "Set its Shift X and Y to 0.")
    right_top = camera.view_frame(scene=scene)[0]
    fov = 2 * math.atan2(abs(right_top.x), abs(right_top.z))
    # A panorama's axes, ahead, left and up, in those of a camera: it looks along -Z, its top is +Y.
    axes = Matrix((Vector((0, 0, -1)), Vector((-1, 0, 0)), Vector((0, 1, 0)))).transposed()
    turn = (scene.camera.matrix_world.to_quaternion().to_matrix() @ axes).to_euler("XYZ")
    # Rounded, for a camera that looks straight down is a hair beyond 90°.
    fov, yaw, pitch, roll = (round(math.degrees(angle), 4) for angle in (fov, turn.z, -turn.y, turn.x))
    view = View(fov=fov, yaw=yaw, pitch=pitch, roll=roll)
    check_view(view)
    return view
