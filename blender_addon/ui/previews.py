"""Previews of maps and thumbnails of panoramas, as icons for the panel."""

from __future__ import annotations

from pathlib import Path

import bpy.utils.previews
import numpy as np

_collection: bpy.utils.previews.ImagePreviewCollection | None = None


def show(name: str, picture: np.ndarray) -> None:
    """Set the preview of map `name` to `picture`, (H, W, 3) or, with alpha, (H, W, 4) uint8, top row first."""
    preview = _collection[name] if name in _collection else _collection.new(name)
    height, width, channels = picture.shape
    side = max(height, width)  # icons are drawn square
    rgba = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    inside = rgba[top : top + height, left : left + width]
    inside[..., 3] = 1
    inside[..., :channels] = picture[::-1] / np.float32(255)
    preview.image_size = (side, side)
    preview.image_pixels_float.foreach_set(rgba.ravel())


def exists(name: str) -> bool:
    """Return whether `show` was called with this name."""
    return name in _collection


def icon(name: str) -> int:
    """Return the icon id of the preview `name`."""
    return _collection[name].icon_id


def thumbnail(path: Path) -> int:
    """Return the icon id of an image file; a changed file is loaded again."""
    name = f"{path} {path.stat().st_mtime_ns}"
    preview = _collection[name] if name in _collection else _collection.load(name, str(path), "IMAGE")
    return preview.icon_id


def register() -> None:
    global _collection
    _collection = bpy.utils.previews.new()


def unregister() -> None:
    bpy.utils.previews.remove(_collection)
