"""The light of a world, kept with it in a small size, and the balls that the panel shows under it."""

from __future__ import annotations

import bpy
import numpy as np

from ...shared.imaging import light_balls
from ...shared.imaging.colour import linear_from_srgb
from ...shared.imaging.shrink import MARGIN, block_side
from ...shared.protocol.errors import PanoramaError
from ..capture import pixels
from ..ui import previews
from . import world

#: Custom properties of a world: the light of its panorama, linear Rec.709 as float16, row by row, and its height.
_LIGHT, _HEIGHT = "panoform_light", "panoform_light_height"
#: Rows that are kept at least, of panoramas that have them.
_ROWS = 64
#: Side of a ball in pixels.
SIZE = 96
#: Names of the previews; and what they show now.
NAMES = ("mirror ball", "grey ball")
_shown: tuple = ()


def remember(shown: bpy.types.World) -> None:
    """Keep the light of a world made by `world.create`, if that isn't done. It is that of the world in Cycles."""
    image = world.light_image(shown)
    if _LIGHT in shown or image is None:
        return
    try:
        columns, rows = image.size
        colours, _alpha = pixels.read_with_alpha(image, block_side(rows, columns, _ROWS // MARGIN))
    except PanoramaError:  # the file is missing: Blender shows it as such, and there is no light to show
        return
    light = linear_from_srgb(colours.pixels) if colours.encoding == "srgb" else colours.pixels
    shown[_HEIGHT] = len(light)
    shown[_LIGHT] = np.nan_to_num(light).clip(0, np.finfo(np.float16).max).astype(np.float16).tobytes()


def icons(scene: bpy.types.Scene) -> list[int]:
    """Return the icons of a mirror ball and a grey ball in the scene's world, seen as by its camera (without one, along
    +Y), exposed as the scene is; none where the world's light isn't known."""
    shown = scene.world
    if not world.is_made(shown) or _LIGHT not in shown:
        return []
    strength, rotation = world.strength(shown), world.rotation(shown)
    if strength is None or rotation is None:
        return []
    camera = scene.camera.matrix_world.to_3x3().normalized() if scene.camera is not None else None
    view = np.array(camera) if camera is not None else np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    factor = strength.default_value * 2**scene.view_settings.exposure
    panorama_from_camera = np.array(rotation.to_3x3()).T @ view
    global _shown
    key = (shown.session_uid, factor, panorama_from_camera.round(4).tobytes())
    if key != _shown or not all(map(previews.exists, NAMES)):
        stored = np.frombuffer(shown[_LIGHT], np.float16).astype(np.float32)
        light = stored.reshape(shown[_HEIGHT], -1, 3) * np.float32(factor)
        picture = light_balls.balls(light, SIZE, panorama_from_camera)
        alpha = light_balls.inside(SIZE)[..., None]
        for name, ball in zip(NAMES, np.split(picture, 2, axis=1), strict=True):
            previews.show(name, np.round(np.concatenate([ball, alpha], axis=-1) * 255).astype(np.uint8))
        _shown = key
    return [previews.icon(name) for name in NAMES]
