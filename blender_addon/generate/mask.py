"""Masks: images that are white where a panorama is edited."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ..capture import pixels

#: A pixel with less alpha counts as transparent.
OPAQUE_ALPHA = 0.999
#: Brightness of the panorama that a new mask shows as its background.
_BACKGROUND_BRIGHTNESS = 0.4


def from_image(image: bpy.types.Image) -> np.ndarray:
    """Return (H, W, 1) uint8, 1 where the image is brighter than 0.5. Raise PanoramaError (`pixels.raw`)."""
    colours = pixels.raw(image)[..., :3]
    return (colours.mean(axis=-1, keepdims=True) > 0.5).astype(np.uint8)


def from_alpha(alpha: np.ndarray) -> np.ndarray:
    """Return (H, W, 1) uint8, 1 where `alpha` (H, W) is transparent."""
    return (alpha[..., None] < OPAQUE_ALPHA).astype(np.uint8)


def create(image: bpy.types.Image) -> bpy.types.Image:
    """Create a mask image of the size of the panorama `image`, which it shows darkened as a background.

    Raise PanoramaError (`pixels.read_with_alpha`).
    """
    background = pixels.display(pixels.read_with_alpha(image)[0])
    height, width, _ = background.shape
    mask = bpy.data.images.new(f"{Path(image.name).stem} mask", width, height, alpha=False)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = background[::-1] * _BACKGROUND_BRIGHTNESS
    mask.pixels.foreach_set(rgba.ravel())
    mask.pack()
    return mask


def open_to_paint(context: bpy.types.Context, mask: bpy.types.Image) -> None:
    """Open `mask` with a white brush in an open Image Editor, or in a new window."""
    areas = [area for window in context.window_manager.windows for area in window.screen.areas]
    editor = next((area for area in areas if area.type == "IMAGE_EDITOR" and area.ui_type == "IMAGE_EDITOR"), None)
    if editor is None:
        bpy.ops.wm.window_new()
        editor = context.window_manager.windows[-1].screen.areas[0]
        editor.ui_type = "IMAGE_EDITOR"
    space = editor.spaces.active
    space.image = mask
    space.ui_mode = "PAINT"
    paint = context.tool_settings.image_paint
    # Since Blender 5.0 each paint mode has its own.
    unified = getattr(paint, "unified_paint_settings", None) or context.tool_settings.unified_paint_settings
    unified.use_unified_color = True
    unified.color = (1, 1, 1)
