"""Check images before Blender decodes them: accessing an image's size or pixels reads its file.

The rule is that of the backend (shared/imaging/headers).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import bpy

from ...shared.file_errors import is_file
from ...shared.imaging import headers
from ...shared.protocol.errors import PanoramaError


def load(path: Path) -> bpy.types.Image:
    """Load an image file as a new datablock. Raise PanoramaError where it is missing, no image, or too large."""
    headers.check_file(path)
    try:
        return bpy.data.images.load(str(path))
    except (RuntimeError, UnicodeError, ValueError, TypeError) as error:
        raise PanoramaError(f"{path.name} can't be read: {error}", "Choose another file.") from error


def check(image: bpy.types.Image) -> None:
    """Raise PanoramaError where decoding an image takes too much memory, or its file is not an image of known format.

    Images that are in memory already pass, and those without a file, whose reader reports that.
    """
    if image.has_data or image.is_dirty or image.source == "VIEWER":
        return
    if image.source == "GENERATED":
        headers.check_pixels(image.generated_width, image.generated_height, image.name)
    elif image.source != "FILE":
        what = {"MOVIE": "a movie", "SEQUENCE": "a sequence"}.get(image.source, "tiled")
        raise PanoramaError(f"The image {image.name!r} is {what}.", "Choose a single image.")
    elif image.packed_file:
        _check_packed(image)
    elif image.filepath:
        path = _path(image)
        if is_file(path):
            headers.check_file(path)


def check_frame(image: bpy.types.Image, user: bpy.types.ImageUser, scene_frame: int) -> headers.ImageHeader:
    """Return the header of the file of an image sequence that `user` shows in a frame of the scene.

    Raise PanoramaError as `check`.
    """
    path = _path(image)
    number = re.search(r"(\d+)(\D*)$", path.stem)
    if number is not None:
        shown = str(_frame(user, scene_frame)).zfill(len(number[1]))
        path = path.with_name(f"{path.stem[: number.start()]}{shown}{number[2]}{path.suffix}")
    return headers.check_file(path)


def _frame(user: bpy.types.ImageUser, scene_frame: int) -> int:
    """Return the number in the file's name, as Blender counts it (BKE_image_user_frame_get)."""
    frame, count = scene_frame - user.frame_start + 1, user.frame_duration
    if not count:
        return 0
    # Before its first frame Blender counts 0, whose file need not exist.
    frame = (frame - 1) % count + 1 if user.use_cyclic else min(max(frame, 0), count)
    return max(frame + user.frame_offset, 0)


def shown_size(image: bpy.types.Image, user: bpy.types.ImageUser, scene_frame: int) -> tuple[int, int]:
    """Return width and height of an image, which `check` passed, as `user` shows it in a frame of the scene.

    They are those of the pixels in its file for sequences and multilayer EXRs, to which Blender gives none. Raise
    PanoramaError as `check_frame`.
    """
    if image.source == "SEQUENCE":
        header = check_frame(image, user, scene_frame)
    else:
        width, height = image.size  # loads the file, which tells its type
        if image.type != "MULTILAYER":
            return width, height
        header = _check_packed(image) if image.packed_file else headers.check_file(_path(image))
    return header.stored or (header.width, header.height)


def _path(image: bpy.types.Image) -> Path:
    return Path(bpy.path.abspath(image.filepath, library=image.library))


def size(image: bpy.types.Image) -> tuple[int, int]:
    """Return width and height of an image for the panel, without decoding a file that is too large: then (0, 0)."""
    if not image.has_data and image.source == "FILE" and image.packed_file:
        return _packed_size(image)
    if not image.has_data and image.source == "FILE" and image.filepath:
        path = _path(image)
        try:
            stat = path.stat()
        except (OSError, ValueError):
            return 0, 0
        return _file_size(path, stat.st_mtime_ns, stat.st_size)
    try:
        check(image)
    except PanoramaError:
        return 0, 0
    width, height = image.size
    return width, height


def _check_packed(image: bpy.types.Image) -> headers.ImageHeader:
    name = Path(image.filepath.replace("\\", "/")).name or image.name
    return headers.check_bytes(image.packed_file.data, name if Path(name).suffix else image.name)


#: The packed images asked for last (identity, bytes of the file) → their size: reading a packed file copies all of it.
_packed_sizes: dict[tuple[int, int], tuple[int, int]] = {}
_MAX_PACKED = 8


def _packed_size(image: bpy.types.Image) -> tuple[int, int]:
    key = image.session_uid, image.packed_file.size
    if key not in _packed_sizes:
        try:
            header = _check_packed(image)
            found = header.width, header.height
        except PanoramaError:
            found = 0, 0
        if len(_packed_sizes) >= _MAX_PACKED:
            _packed_sizes.clear()
        _packed_sizes[key] = found
    return _packed_sizes[key]


@functools.lru_cache(maxsize=8)  # panels ask at each redraw
def _file_size(path: Path, _modified_ns: int, _bytes: int) -> tuple[int, int]:
    try:
        header = headers.check_file(path)
    except PanoramaError:
        return 0, 0
    return header.width, header.height
