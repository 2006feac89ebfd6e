"""Headers of OpenEXR files: parts, layers, windows and colour, and one layer as a file of its own.

Source: https://openexr.com/en/latest/OpenEXRFileLayout.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..imaging.colour_space import ColourSpace, by_id, from_chromaticities, is_known_id, means_rec709
from ..protocol.errors import PanoramaError
from .header import Data, Header, Layer, Window

_TILED, _LONG_NAMES, _DEEP, _MULTIPART = 1 << 9, 1 << 10, 1 << 11, 1 << 12
#: Scanlines in a chunk, by compression.
_LINES = {0: 1, 1: 1, 2: 1, 3: 16, 4: 32, 5: 16, 6: 32, 7: 32, 8: 32, 9: 256}
_DWA = (8, 9)
#: Attributes that say how chunks are decoded.
_KEPT = ("channels", "compression", "dataWindow", "lineOrder", "pixelAspectRatio", "tiles")
_COLOURS = ({"r": "R", "g": "G", "b": "B", "a": "A"}, {"red": "R", "green": "G", "blue": "B", "alpha": "A"})

#: Names of layers that hold the light itself, best first; the last words of a layer's name, in lower case.
_LIGHT = (("",), ("composite",), ("combined",), ("beauty",), ("rgba", "rgb"), ("c", "ci", "main", "final"))
#: Interop IDs that say nothing of the colours.
_NO_SPACE = ("", "data", "unknown")
_ADVICE = "Choose one: Layer in the panel, or --layer of panoform perceive and edit; or save it as a file of its own"


class Attribute(NamedTuple):
    kind: str
    data: bytes


@dataclass
class Part:
    """One part of a file: its attributes, the channels by name, and the place of its offset table."""

    attributes: dict[str, Attribute]
    #: name → (pixel type, the 16 bytes after the name, sampling x, y).
    channels: dict[str, tuple[int, bytes, int, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.text("name")

    def text(self, key: str) -> str:
        attribute = self.attributes.get(key)
        return attribute.data.decode("utf-8", "replace") if attribute and attribute.kind == "string" else ""

    def window(self, key: str) -> tuple[int, int, int, int]:
        """Return a window as left, top, width, height."""
        left, top, right, bottom = struct.unpack("<4i", self.attributes[key].data)
        return left, top, right - left + 1, bottom - top + 1


def _text(data: Data, at: int, limit: int = 256) -> tuple[str, int]:
    end = data.find(b"\0", at, at + limit)
    if end < 0:
        raise struct.error("a name without an end")
    return bytes(data[at:end]).decode("utf-8", "replace"), end + 1


def _parts(data: Data) -> tuple[list[Part], int, int]:
    """Return the parts, the version field, and the place after the headers."""
    (version,) = struct.unpack_from("<I", data, 4)
    parts: list[Part] = []
    at = 8
    while True:
        attributes: dict[str, Attribute] = {}
        while True:
            name, at = _text(data, at)
            if not name:
                break
            kind, at = _text(data, at)
            (size,) = struct.unpack_from("<I", data, at)
            if size > len(data) - at:
                raise struct.error("an attribute beyond the end")
            attributes[name] = Attribute(kind, bytes(data[at + 4 : at + 4 + size]))
            at += 4 + size
        if not attributes:
            break
        parts.append(Part(attributes, _channels(attributes["channels"].data)))
        if not version & _MULTIPART:
            break
    return parts, version, at


def _channels(data: bytes) -> dict[str, tuple[int, bytes, int, int]]:
    channels = {}
    at = 0
    while data[at : at + 1] != b"\0":
        name, at = _text(data, at)
        kind, _, x, y = struct.unpack_from("<iIii", data, at)
        channels[name] = kind, data[at : at + 16], x, y
        at += 16
    return channels


def read(data: Data, name: str, wanted: str = "") -> Header:
    """Read what an EXR says, with the layer called `wanted` or the one that shows light (`choose`)."""
    try:
        parts, version, _ = _parts(data)
    except KeyError as error:
        raise PanoramaError(f"{name} can't be read: its header has no {error}.", "Save it again.") from error
    if version & _DEEP or any(part.text("type").startswith("deep") for part in parts):
        raise PanoramaError(f"{name} is a deep EXR: its pixels are lists of samples.", "Flatten it, and save it again.")
    header = Header("EXR", is_float=True, layers=[layer for i, part in enumerate(parts) for layer in _layers(i, part)])
    if not header.layers:
        header.refusal = _no_colour(parts, name)
        return header
    layer = header.layer = choose(header.layers, wanted, name)
    part = parts[layer.part]
    _set_windows(header, part, name)
    _set_colour(header, part, name)
    header.xmp = part.text("xmp").encode()
    has_layers = any("." in channel for channel in part.channels) or "BlenderMultiChannel" in part.attributes
    header.needs_extraction = len(parts) > 1 or has_layers or layer.channels[:3] != ("R", "G", "B")
    if len(header.layers) > 1:
        header.notes.append(f"Of its {len(header.layers)} layers, {layer.name or 'the unnamed one'} is read.")
    return header


def layer_names(data: Data) -> list[str]:
    """Return the names of the layers with colour; none for what isn't a whole EXR header."""
    if data[:4] != b"v/1\x01":
        return []
    try:
        parts, _, _ = _parts(data)
    except (KeyError, struct.error, IndexError):
        return []
    return [layer.name for i, part in enumerate(parts) for layer in _layers(i, part)]


def _layers(index: int, part: Part) -> list[Layer]:
    """Return the layers of a part that have red, green and blue, in the order of the file."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for channel, (_, _, x, y) in part.channels.items():
        layer, _, last = channel.rpartition(".")
        for naming, colours in enumerate(_COLOURS):
            if last.lower() in colours and (x, y) == (1, 1):
                found.setdefault((layer, naming), {}).setdefault(colours[last.lower()], channel)
    part_name = part.name
    layers = []
    for (layer, _), channels in found.items():
        if {"R", "G", "B"} <= channels.keys():
            # A part is often called as the one layer in it, or as that and its view.
            full = layer if not part_name or layer.startswith(part_name) else f"{part_name}.{layer}".rstrip(".")
            layers.append(Layer(full, index, tuple(channels[c] for c in "RGBA" if c in channels)))
    return layers


def _no_colour(parts: Sequence[Part], name: str) -> PanoramaError:
    found = [channel for part in parts for channel in part.channels]
    advice = "A panorama needs red, green and blue: save it as an RGB image."
    if {"Y", "RY", "BY"} <= set(found):
        return PanoramaError(f"{name} stores luminance and chroma (Y, RY, BY), not RGB.", advice)
    if len(found) == 1:
        return PanoramaError(f"{name} has one channel ({found[0]}) and no colour.", advice)
    return PanoramaError(f"{name} has no colour: its channels are {', '.join(found[:12])}.", advice)


def choose(layers: Sequence[Layer], wanted: str, name: str) -> Layer:
    """Return the layer called `wanted`, by its full name or last words; without one, the layer that shows light.

    That is the only layer, or the only one whose name says so best (unnamed, Combined, beauty, RGBA). Raise
    PanoramaError, naming the layers, where there is no such layer, or there are several.
    """
    names = ", ".join(layer.name or "(unnamed)" for layer in layers[:12])
    if wanted:
        exact = [layer for layer in layers if layer.name.lower() == wanted.lower()] or [
            layer for layer in layers if layer.name.lower().endswith(f".{wanted.lower()}")
        ]
        if len(exact) != 1:
            many = "several layers" if exact else "no layer"
            raise PanoramaError(f"{name} has {many} called {wanted!r}; its layers are {names}.", f"{_ADVICE}.")
        return exact[0]
    if len(layers) == 1:
        return layers[0]
    for ranked in _LIGHT:
        best = [layer for layer in layers if _is_named(layer.name, ranked)]
        if len(best) == 1:
            return best[0]
        if best:
            what = f"{len(best)} layers that show light"
            raise PanoramaError(f"{name} has {what}; its layers are {names}.", f"{_ADVICE}.")
    what = f"{len(layers)} layers, and no name says which shows the light"
    raise PanoramaError(f"{name} has {what}; its layers are {names}.", f"{_ADVICE}.")


def _is_named(name: str, words: Sequence[str]) -> bool:
    # Blender writes the compositor's result as "Composite.Combined".
    parts = name.lower().split(".")
    return parts[-1] in words or (words == ("composite",) and parts[0] == "composite")


def _set_windows(header: Header, part: Part, name: str) -> None:
    left, top, width, height = part.window("dataWindow")
    whole_left, whole_top, whole_width, whole_height = part.window("displayWindow")
    if min(width, height, whole_width, whole_height) < 1:
        raise PanoramaError(f"{name} can't be read: its header is damaged, a window is empty.", "Save it again.")
    header.width, header.height = width, height
    if (left, top, width, height) != (whole_left, whole_top, whole_width, whole_height):
        header.window = Window(left - whole_left, top - whole_top, width, height)
        header.whole = whole_width, whole_height
        header.needs_extraction = True
        header.notes.append(f"Its pixels are {width} × {height} of {whole_width} × {whole_height}.")


def _set_colour(header: Header, part: Part, name: str) -> None:
    """Take the colour space from the interop ID, the ACES flag, chromaticities, or OpenImageIO's name of it."""
    interop, named = part.text("colorInteropID"), part.text("oiio:ColorSpace")
    chromaticities = part.attributes.get("chromaticities")
    values = (
        struct.unpack("<8f", chromaticities.data)
        if chromaticities is not None and chromaticities.kind == "chromaticities"
        else ()
    )
    colour: ColourSpace | None = None
    source = "chromaticities"
    if is_known_id(interop):
        colour, source = by_id(interop), "interop ID"
    elif any(values):
        try:
            colour = None if means_rec709(values) else from_chromaticities(values)
        except ValueError as error:
            raise PanoramaError(
                f"The header of {name} has chromaticities that are no colours: {error}.", "Save it again."
            ) from error
    elif "acesImageContainerFlag" in part.attributes:
        colour, source = by_id("lin_ap0_scene"), "ACES container"
    elif interop.lower() not in _NO_SPACE:
        raise PanoramaError(
            f"The colour encoding of {name} is not known (interop ID {interop}).", "Save it in linear Rec.709."
        )
    elif is_known_id(named):
        colour, source = by_id(named), "oiio:ColorSpace"
    header.colour = colour
    if colour is not None:
        header.notes.append(f"Its colours are converted from {colour.name} ({source}).")


def is_whole(data: Data, layer: Layer) -> bool:
    """Return whether all chunks of a layer's part are in the file. Raise struct.error where their places aren't."""
    _, starts, coordinates = _chunks(data, layer.part)
    ends = (start + coordinates + 4 + struct.unpack_from("<I", data, start + coordinates)[0] for start in starts)
    return 0 not in starts and all(end <= len(data) for end in ends)


def _chunks(data: Data, number: int) -> tuple[Part, list[int], int]:
    """Return a part, where each of its chunks begins, after the part's number, and the bytes of its coordinates."""
    parts, version, at = _parts(data)
    counts = [_chunk_count(part, version) for part in parts]
    at += 8 * sum(counts[:number])
    if counts[number] < 0 or at + 8 * counts[number] > len(data):
        raise struct.error("the table of chunks is cut short")
    prefix = 4 if version & _MULTIPART else 0  # the part's number before each chunk
    starts = [offset + prefix for offset in struct.unpack_from(f"<{counts[number]}Q", data, at)]
    return parts[number], starts, 16 if "tiles" in parts[number].attributes else 4


def extract(data: Data, layer: Layer) -> bytes:
    """Return a file of one part whose channels R, G, B (and A) are those of `layer`, the chunks unchanged.

    Its display window is its data window. Programs that read no layers or parts, or only the first, read this one.
    It is no larger than the file. Raise PanoramaError for a file that is damaged, and where its compression doesn't
    allow it.
    """
    try:
        return _extract(data, layer)
    except (struct.error, IndexError, KeyError, OverflowError) as error:
        raise PanoramaError(
            f"The EXR is damaged: the pixels of the layer {layer.name or '(unnamed)'} are not all in it.",
            "Save or download it again.",
        ) from error


def _extract(data: Data, layer: Layer) -> bytes:
    part, starts, coordinates = _chunks(data, layer.part)
    if part.attributes["compression"].data[0] in _DWA and len(part.channels) > len(layer.channels):
        # Its decoder tells from the names of all channels how each is compressed, and Blender takes names with dots, as
        # it needs them, for those of layers.
        raise PanoramaError(
            f"One layer can't be taken out of an EXR with several that is compressed by DWAA or DWAB ({layer.name}).",
            "Save it with another compression (ZIP), or that layer alone; or use the command line, which reads it.",
        )
    lengths = [coordinates + 4 + struct.unpack_from("<I", data, start + coordinates)[0] for start in starts]
    if sum(lengths) > len(data):  # a table can name one chunk as often as it wants
        raise struct.error("chunks overlap")
    chunks = [bytes(data[start : start + length]) for start, length in zip(starts, lengths, strict=True)]
    header = _header(part, layer)
    flags = 2 | (_TILED if "tiles" in part.attributes else 0) | _LONG_NAMES
    offset = 8 + len(header) + 8 * len(chunks)
    table = []
    for chunk in chunks:
        table.append(offset)
        offset += len(chunk)
    return b"".join(
        (b"v/1\x01", struct.pack("<I", flags), header, struct.pack(f"<{len(table)}Q", *table), *chunks)
    )  # fmt: skip


def _header(part: Part, layer: Layer) -> bytes:
    attributes = {key: value for key, value in part.attributes.items() if key in _KEPT}
    attributes["channels"] = Attribute("chlist", _renamed(part, layer))
    attributes["displayWindow"] = attributes["dataWindow"]
    attributes["screenWindowCenter"] = Attribute("v2f", struct.pack("<2f", 0, 0))
    attributes["screenWindowWidth"] = Attribute("float", struct.pack("<f", 1))
    lines = [
        key.encode() + b"\0" + value.kind.encode() + b"\0" + struct.pack("<I", len(value.data)) + value.data
        for key, value in sorted(attributes.items())
    ]
    return b"".join(lines) + b"\0"


def _renamed(part: Part, layer: Layer) -> bytes:
    """Return the list of channels with the layer's ones called A, B, G, R, and the others so that the order stays.

    Chunks hold the channels in the order of their names, which are sorted by their bytes.
    """
    ours = dict(zip(layer.channels, "RGBA", strict=False))
    order = sorted(part.channels, key=lambda channel: channel.encode())
    if [ours[channel] for channel in order if channel in ours] != sorted(ours.values()):
        raise PanoramaError(
            f"The channels of the layer {layer.name!r} are in no known order.", "Save the layer as a file of its own."
        )
    before, entries = "", []
    for number, channel in enumerate(order):
        if channel in ours:
            before = name = ours[channel]
        else:
            name = f"{before or '!'}{number:05}"
        entries.append(name.encode() + b"\0" + part.channels[channel][1])
    return b"".join(entries) + b"\0"


def _chunk_count(part: Part, version: int) -> int:
    """Return the number of chunks of a part. Raise struct.error where its header doesn't give it."""
    if "chunkCount" in part.attributes:
        return struct.unpack("<i", part.attributes["chunkCount"].data)[0]
    _, _, width, height = part.window("dataWindow")
    if "tiles" not in part.attributes:
        lines = _LINES.get(part.attributes["compression"].data[0])
        if lines is None:
            raise struct.error("an unknown compression")
        return -(-height // lines)
    tile_width, tile_height, mode = struct.unpack("<IIB", part.attributes["tiles"].data)
    round_up = mode >> 4
    if mode & 15 > 2 or round_up > 1:
        raise struct.error("tiles of an unknown kind")
    if mode & 15 == 0:
        return -(-width // tile_width) * -(-height // tile_height)

    def levels(size: int) -> list[int]:
        sizes = [size]
        while sizes[-1] > 1:
            sizes.append((sizes[-1] + round_up) // 2)
        return sizes

    wide, high = levels(width), levels(height)
    if mode & 15 == 1:  # mipmaps: both shrink together, until the larger is 1
        count = max(len(wide), len(high))
        wide += [1] * (count - len(wide))
        high += [1] * (count - len(high))
        pairs = list(zip(wide, high, strict=True))
    else:
        pairs = [(w, h) for h in high for w in wide]
    return sum(-(-w // tile_width) * -(-h // tile_height) for w, h in pairs)
