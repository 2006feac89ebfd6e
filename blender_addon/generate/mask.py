"""Masks: images that are white where a panorama is to change."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ..capture import pixels

#: Below this alpha a pixel is missing.
THERE = 0.999
#: How bright the panorama is at most under what is painted.
_DIMMED = 0.4


def of_image(image: bpy.types.Image) -> np.ndarray:
    """(H, W, 1) uint8, 1 where the image is nearer to white than to black. Raises PanoramaError (`pixels.raw`)."""
    colours = pixels.raw(image)[..., :3]
    return (colours.mean(axis=-1, keepdims=True) > 0.5).astype(np.uint8)


def of_missing(alpha: np.ndarray) -> np.ndarray:
    """(H, W, 1) uint8, 1 where a panorama of that alpha (H, W) is transparent."""
    return (alpha[..., None] < THERE).astype(np.uint8)


def create(image: bpy.types.Image) -> bpy.types.Image:
    """An image to paint white on, as large as the panorama `image`, which it shows dimmed.

    Raises PanoramaError (`pixels.read_with_alpha`).
    """
    shown = pixels.display(pixels.read_with_alpha(image)[0])
    height, width, _ = shown.shape
    mask = bpy.data.images.new(f"{Path(image.name).stem} mask", width, height, alpha=False)
    rgba = np.ones((height, width, 4), np.float32)
    rgba[..., :3] = shown[::-1] * _DIMMED
    mask.pixels.foreach_set(rgba.ravel())
    mask.pack()
    return mask


def open_to_paint(context: bpy.types.Context, mask: bpy.types.Image) -> None:
    """In the image editor that is open, or in a new window; with a white brush."""
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
    # Blender 5.0 gave every kind of painting its own.
    unified = getattr(paint, "unified_paint_settings", None) or context.tool_settings.unified_paint_settings
    unified.use_unified_color = True
    unified.color = (1, 1, 1)
