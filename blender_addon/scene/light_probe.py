"""The light of a world, kept with it in a small size, and the balls that the panel shows under it."""

from __future__ import annotations

import bpy
import numpy as np

from ...shared.imaging import light_balls
from ...shared.imaging.colour import linear_from_srgb
from ...shared.imaging.shrink import MARGIN, block_means, block_side
from ...shared.protocol.errors import PanoramaError
from ..capture import pixels
from ..ui import previews
from . import world

#: Custom properties of a world: the light of its panorama, linear Rec.709 as float16, row by row, its height, and the
#: name of the image that it is of.
_LIGHT, _HEIGHT, _IMAGE = "panoform_light", "panoform_light_height", "panoform_light_image"
#: Rows that are kept at least, of panoramas that have them.
_ROWS = 64
#: Widest image that is read for this: larger ones would take seconds.
_WIDEST = 4096
#: Side of a ball in pixels.
SIZE = 96
#: Names of the previews; and what they show now.
NAMES = ("mirror ball", "grey ball")
_shown: tuple = ()


def remember(shown: bpy.types.World, known: pixels.Pixels | None = None) -> None:
    """Keep the light of a world made by `world.create`: that of the world in Cycles.

    `known`: its image's pixels, in any size; without them the image is read, unless it is wider than _WIDEST or its
    light is kept already.
    """
    image = world.light_image(shown)
    if image is None or (known is None and shown.get(_IMAGE) == image.name_full):
        return
    if known is None:
        try:
            columns, rows = image.size
            if columns > _WIDEST:
                return
            known, _alpha = pixels.read_with_alpha(image, block_side(rows, columns, _ROWS // MARGIN))
        except PanoramaError:  # the file is missing: Blender shows it as such, and there is no light to show
            return
    rows, columns, _channels = known.pixels.shape
    light = block_means(known.pixels, block_side(rows, columns, _ROWS // MARGIN))
    light = linear_from_srgb(light) if known.encoding == "srgb" else light
    shown.pop(_LIGHT, None)  # Blender would cut new bytes off at their first zero
    shown[_LIGHT] = np.nan_to_num(light).clip(0, np.finfo(np.float16).max).astype(np.float16).tobytes()
    shown[_HEIGHT], shown[_IMAGE] = len(light), image.name_full


def _kept(shown: bpy.types.World) -> np.ndarray | None:
    """Return the light that is kept, (H, W, 3); None where there is none, or the world shows another image now."""
    image, data, height = world.light_image(shown), shown.get(_LIGHT), shown.get(_HEIGHT)
    if image is None or image.is_dirty or shown.get(_IMAGE) != image.name_full:
        return None
    if not isinstance(data, bytes) or not isinstance(height, int) or height < 1 or len(data) % (6 * height):
        return None  # the properties were edited
    return np.frombuffer(data, np.float16).astype(np.float32).reshape(height, -1, 3)


def icons(scene: bpy.types.Scene) -> list[int]:
    """Return the icons of a mirror ball and a grey ball in the scene's world, seen as by its camera (without one, along
    +Y), exposed as the scene is; none where the world's light isn't known."""
    shown = scene.world
    kept = _kept(shown) if world.is_made(shown) else None
    if kept is None:
        return []
    strength, rotation = world.strength(shown), world.rotation(shown)
    if strength is None or rotation is None:
        return []
    camera = scene.camera.matrix_world.to_3x3().normalized() if scene.camera is not None else None
    view = np.array(camera) if camera is not None else np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    factor = strength.default_value * 2**scene.view_settings.exposure
    panorama_from_camera = np.array(rotation.to_3x3()).T @ view
    global _shown
    key = (shown.session_uid, shown[_IMAGE], factor, panorama_from_camera.round(4).tobytes())
    if key != _shown or not all(map(previews.exists, NAMES)):
        picture = light_balls.balls(kept * np.float32(factor), SIZE, panorama_from_camera)
        alpha = light_balls.inside(SIZE)[..., None]
        for name, ball in zip(NAMES, np.split(picture, 2, axis=1), strict=True):
            previews.show(name, np.round(np.concatenate([ball, alpha], axis=-1) * 255).astype(np.uint8))
        _shown = key
    return [previews.icon(name) for name in NAMES]
