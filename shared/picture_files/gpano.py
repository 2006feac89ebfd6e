"""Photo Sphere XMP (GPano): what a camera or viewer wrote of an equirectangular picture.

Source: https://developers.google.com/streetview/spherical-metadata (namespace GPano, version 1).
"""

from __future__ import annotations

import math
from typing import NamedTuple
from xml.etree import ElementTree

from ..protocol.errors import PanoramaError

NAMESPACE = "http://ns.google.com/photos/1.0/panorama/"
#: Tilts in degrees below which a panorama counts as level.
_LEVEL_DEG = 0.5
#: How far, in pixels of the whole sphere, a crop may be from all of it: writers round.
_ROUNDING_PX = 2


class Sphere(NamedTuple):
    """The part of the sphere that a picture shows, in pixels of the whole sphere, and the camera's pose in degrees."""

    full_width: int
    full_height: int
    left: int
    top: int
    width: int
    height: int
    heading: float | None = None
    pitch: float = 0
    roll: float = 0
    #: Names of angles that are no numbers; they are taken for 0.
    unread: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return (
            self.left <= _ROUNDING_PX
            and self.top <= _ROUNDING_PX
            and self.full_width - self.width <= _ROUNDING_PX
            and self.full_height - self.height <= _ROUNDING_PX
        )

    @property
    def is_level(self) -> bool:
        return abs(self.pitch) < _LEVEL_DEG and abs(self.roll) < _LEVEL_DEG


def read(xmp: bytes, name: str) -> Sphere | None:
    """Read the GPano properties of an XMP packet, as attributes or elements; None where there are none.

    Raise PanoramaError for another projection, and for numbers that contradict each other.
    """
    if NAMESPACE.encode() not in xmp:
        return None
    found = _properties(xmp, name)
    projection = found.get("ProjectionType", "equirectangular")
    if projection.lower() != "equirectangular":
        raise PanoramaError(
            f"{name} is a {projection} panorama by its metadata (GPano), not an equirectangular one.",
            "Convert it to an equirectangular panorama, 2:1.",
        )

    def number(key: str, default: float) -> float:
        try:
            value = float(found.get(key, default))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise _contradiction(name, f"{key} is {found[key]!r}")
        return value

    width, height = number("CroppedAreaImageWidthPixels", 0), number("CroppedAreaImageHeightPixels", 0)
    full_width, full_height = number("FullPanoWidthPixels", width), number("FullPanoHeightPixels", height)
    width, height = width or full_width, height or full_height
    left, top = number("CroppedAreaLeftPixels", 0), number("CroppedAreaTopPixels", 0)
    if min(width, height, left, top) < 0 or (width and (left + width > full_width + _ROUNDING_PX)):
        raise _contradiction(name, f"columns {left:g} to {left + width:g} of {full_width:g}")
    if height and top + height > full_height + _ROUNDING_PX:
        raise _contradiction(name, f"rows {top:g} to {top + height:g} of {full_height:g}")
    for side, size, full in (("Left", width, full_width), ("Top", height, full_height)):
        if full - size > _ROUNDING_PX and f"CroppedArea{side}Pixels" not in found:
            raise PanoramaError(
                f"The metadata of {name} (GPano) says that it shows {width:g} × {height:g} of {full_width:g} × "
                f"{full_height:g} pixels, but not where (CroppedArea{side}Pixels).",
                "Add that with exiftool, or remove the metadata: exiftool -xmp-gpano:all= FILE.",
            )
    angles, unread = _angles(found)
    return Sphere(
        round(full_width), round(full_height), round(left), round(top), round(width), round(height),
        heading=angles.get(_ANGLES[0]), pitch=angles.get(_ANGLES[1], 0), roll=angles.get(_ANGLES[2], 0), unread=unread,
    )  # fmt: skip


_ANGLES = ("PoseHeadingDegrees", "PosePitchDegrees", "PoseRollDegrees")


def _angles(found: dict[str, str]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return the angles that are there, and the names of those that are no numbers."""
    angles: dict[str, float] = {}
    unread = []
    for key in _ANGLES:
        try:
            value = float(found.get(key, 0))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            unread.append(key)
        elif key in found:
            angles[key] = value
    return angles, tuple(unread)


def _contradiction(name: str, what: str) -> PanoramaError:
    return PanoramaError(
        f"The metadata of {name} (GPano) contradicts itself: {what}.",
        "Correct or remove its XMP metadata, for example with exiftool -xmp-gpano:all= FILE.",
    )


def _properties(xmp: bytes, name: str) -> dict[str, str]:
    """Return the GPano properties by name. Raise PanoramaError for XMP that isn't plain, whole XML."""
    try:
        text = xmp.decode("utf-8").strip("\0 \r\n\t")
        # Entities could expand without bound, and XMP has none.
        if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise PanoramaError(
            f"The XMP metadata of {name} can't be read: {error}.",
            "Remove it, for example with exiftool -xmp:all= FILE, if the picture shows all directions.",
        ) from error
    prefix = f"{{{NAMESPACE}}}"
    found: dict[str, str] = {}
    for element in root.iter():
        if element.tag.startswith(prefix) and element.text:
            found[element.tag.removeprefix(prefix)] = element.text.strip()
        found |= {key.removeprefix(prefix): value.strip() for key, value in element.items() if key.startswith(prefix)}
    return found


def write(width: int, height: int) -> str:
    """Return an XMP packet that says that a picture of this size shows the whole sphere."""
    fields = {
        "ProjectionType": "equirectangular",
        "UsePanoramaViewer": "True",
        "FullPanoWidthPixels": width,
        "FullPanoHeightPixels": height,
        "CroppedAreaImageWidthPixels": width,
        "CroppedAreaImageHeightPixels": height,
        "CroppedAreaLeftPixels": 0,
        "CroppedAreaTopPixels": 0,
    }
    attributes = " ".join(f'GPano:{key}="{value}"' for key, value in fields.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="{NAMESPACE}" {attributes}/></rdf:RDF></x:xmpmeta>'
        '<?xpacket end="r"?>'
    )
