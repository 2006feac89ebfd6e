"""Panoramas whose files were deleted: images of them stay packed, also where undo goes back to before that.

Their names are not used again in this session, so that no image shows another panorama after undo.
"""

from __future__ import annotations

from pathlib import Path

import bpy
from bpy.app.handlers import persistent

from ..capture.sources import image_file

#: Files of this session that images of the open .blend file show → their content.
_contents: dict[Path, bytes] = {}
#: All files deleted in this session, in lower case, as some systems ignore it.
_names: set[str] = set()


def keep(path: Path) -> None:
    """Pack the images that show a file, which is about to be deleted."""
    _names.add(str(path).casefold())
    for image in _unpacked(path):
        image.pack()
        _contents[path] = image.packed_file.data


def was_deleted(path: Path) -> bool:
    """Return whether a panorama of that name was deleted in this session, so that undo may bring it back."""
    return str(path).casefold() in _names


def _unpacked(path: Path) -> list[bpy.types.Image]:
    return [image for image in bpy.data.images if image.packed_file is None and image_file(image) == path]


@persistent
def _keep_again(*_: object) -> None:
    for path, content in _contents.items():
        if not path.exists():
            for image in _unpacked(path):
                image.pack(data=content, data_len=len(content))


@persistent
def _forget(*_: object) -> None:
    _contents.clear()


_HANDLERS = {"undo_post": _keep_again, "redo_post": _keep_again, "load_post": _forget}


def register() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(handler)


def unregister() -> None:
    for name, handler in _HANDLERS.items():
        getattr(bpy.app.handlers, name).remove(handler)
    _contents.clear()
    _names.clear()
