"""Tell what kind of file this is by its content, and read the header of that kind."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import PurePath

from ..imaging.colour import linear_from_srgb
from ..imaging.colour_space import (
    ADOBE_RGB,
    P3_D65,
    REC709,
    REC2020,
    ColourSpace,
    from_chromaticities,
    gamma,
    linear,
    means_rec709,
)
from ..protocol.errors import PanoramaError
from . import exif, exr, gpano, icc
from .header import READABLE, Data, Header

_AS_RGB = "A panorama needs red, green and blue: save it as an RGB image."
_EXPORT_SRGB = "Export it as sRGB, or as a linear EXR."
#: What a 45455 in a PNG's gAMA chunk means (PNG 3, 11.3.2.2); written values are rounded.
_SRGB_GAMMA = 1 / 2.2

#: Files that hold no panorama that can be read: brand or suffix → what they are.
_OTHER = {
    ".insv": "a video of an Insta360 camera",
    ".mp4": "a video",
    ".mov": "a video",
    ".dng": "a camera's raw file",
    ".psd": "a Photoshop file",
    ".gif": "a GIF",
    ".jp2": "a JPEG 2000 file",
    ".dpx": "a DPX film scan",
    ".cin": "a Cineon film scan",
    ".svg": "a drawing",
    ".pfm": "a PFM file",
    ".jxl": "a JPEG XL file",
    ".avif": "an AVIF file",
    ".heic": "a HEIC file",
}
_BRANDS = {b"avif": ".avif", b"avis": ".avif", b"heic": ".heic", b"heix": ".heic", b"mif1": ".heic", b"qt  ": ".mov"}
_SIGNATURES = (
    (b"8BPS", ".psd"),
    (b"GIF8", ".gif"),
    (b"\0\0\0\x0cjP  ", ".jp2"),
    (b"\xff\x4f\xff\x51", ".jp2"),
    (b"SDPX", ".dpx"),
    (b"XPDS", ".dpx"),
    (b"\0\0\0\x0cJXL ", ".jxl"),
    (b"\xff\x0a", ".jxl"),
    (b"PF\n", ".pfm"),
)


def identify(data: Data, name: str) -> str:
    """Return the kind of file, a key of READERS. Raise PanoramaError for others, naming what they are."""
    start = bytes(data[:16])
    if start[:4] == b"v/1\x01":
        return "EXR"
    if start[:2] == b"#?":
        return "Radiance HDR"
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if start[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        suffix = PurePath(name).suffix.lower()
        if suffix in (".dng", ".cr2", ".nef", ".arw"):
            raise _refused(name, _OTHER[".dng"])
        return "TIFF"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WebP"
    if start[:2] == b"BM":
        return "BMP"
    kind = next((suffix for signature, suffix in _SIGNATURES if start.startswith(signature)), "")
    if start[4:8] == b"ftyp":
        kind = _BRANDS.get(start[8:12], ".mp4")
    suffix = PurePath(name).suffix.lower()
    if kind or suffix in _OTHER:
        raise _refused(name, _OTHER[kind or suffix])
    if suffix == ".tga":
        return "TGA"
    if start.lstrip()[:1] == b"<":
        raise _refused(name, "a web page or another text file")
    if start[:8] == b"version ":
        raise PanoramaError(
            f"{name} can't be read: it is a Git LFS pointer, not the picture.", "Download it with git lfs."
        )
    raise PanoramaError(f"{name} can't be read: its content is no image of a known format.", READABLE)


def _refused(name: str, what: str) -> PanoramaError:
    return PanoramaError(f"{name} can't be read: it is {what}.", READABLE)


def _set_colour(header: Header, colour: ColourSpace | None, source: str) -> None:
    header.colour = colour
    if colour is not None:
        header.notes.append(f"Its colours are converted from {colour.name} ({source}).")


def _set_orientation(header: Header, orientation: int) -> None:
    header.orientation = orientation
    if orientation != 1:
        header.notes.append(f"It is turned upright (orientation {orientation}).")


# PNG


def _png(data: Data, name: str, layer: str) -> Header:
    header = Header("PNG")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IEND":
            break
        if kind in (b"iTXt", b"tEXt", b"zTXt"):
            keyword, _, body = data[at + 8 : at + 8 + length].partition(b"\0")
            if keyword == b"XML:com.adobe.xmp" and kind == b"iTXt":
                chunks[b"xmp"] = _text(kind, body)
            elif keyword in _RAW_PROFILES:
                chunks.setdefault(_RAW_PROFILES[keyword], _raw_profile(_text(kind, body)))
        elif kind in (b"IHDR", b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM", b"eXIf"):
            chunks[kind] = data[at + 8 : at + 8 + length]
        at += 12 + length
    header.width, header.height, _, colour_type = struct.unpack_from(">IIBB", chunks.get(b"IHDR", b""))
    if colour_type in (0, 4):
        header.refusal = PanoramaError(f"{name} has one channel (grey) and no colour.", _AS_RGB)
    _set_colour(header, *_png_colour(chunks, name, is_grey=colour_type in (0, 4)))
    if b"eXIf" in chunks:
        _set_orientation(header, exif.read(chunks[b"eXIf"].removeprefix(b"Exif\0\0")).orientation)
    header.xmp = chunks.get(b"xmp", b"")
    return header


#: Texts in which ImageMagick, and programs that use it, keep metadata: keyword → the chunk that it stands for.
_RAW_PROFILES = {
    b"Raw profile type exif": b"eXIf",
    b"Raw profile type xmp": b"xmp",
}


def _raw_profile(text: bytes) -> bytes:
    """Return the data in a "raw profile": a line with its name, one with its size, then hexadecimal lines."""
    _, _, *lines = text.strip().split(b"\n")
    return bytes.fromhex(b"".join(lines).decode("latin-1"))


def _text(kind: bytes, body: bytes) -> bytes:
    """Return the text of a chunk iTXt, tEXt or zTXt after its keyword, at most 4 MiB (PNG 3, 11.3.3)."""
    is_compressed, text = kind == b"zTXt", body
    if kind == b"iTXt":
        is_compressed, text = body[0] == 1, body[2:].split(b"\0", 2)[2]
    elif is_compressed:
        text = body[1:]
    return zlib.decompressobj().decompress(text, 1 << 22) if is_compressed else text


def _png_colour(chunks: dict[bytes, bytes], name: str, *, is_grey: bool) -> tuple[ColourSpace | None, str]:
    """Return the colour space and the chunk that tells it, by the precedence of PNG 3, 4.3."""
    if b"cICP" in chunks:
        return _cicp(chunks[b"cICP"][0], chunks[b"cICP"][1], name), "cICP"
    if b"iCCP" in chunks:
        compressed = chunks[b"iCCP"].split(b"\0", 1)[1][1:]
        return icc.read(zlib.decompressobj().decompress(compressed, 1 << 24), name, is_grey=is_grey), "ICC profile"
    if b"sRGB" in chunks or b"gAMA" not in chunks:
        primaries = None if b"sRGB" in chunks else _png_primaries(chunks)
        return None if primaries is None else from_chromaticities(primaries, linear_from_srgb), "cHRM"
    exponent = struct.unpack(">I", chunks[b"gAMA"][:4])[0] / 100000
    primaries = _png_primaries(chunks) or REC709
    is_srgb = abs(exponent - _SRGB_GAMMA) < 1e-3
    if (is_srgb and means_rec709(primaries)) or not exponent:
        return None, ""
    decode = linear_from_srgb if is_srgb else gamma(1 / exponent)
    encoding = "sRGB" if is_srgb else f"gamma {exponent:.3g}"
    space = from_chromaticities(primaries, decode)
    return space._replace(name=f"{space.name}, {encoding}"), "gAMA"


def _png_primaries(chunks: dict[bytes, bytes]) -> tuple[float, ...] | None:
    """Return the chromaticities of the chunk cHRM where they aren't Rec.709's."""
    if b"cHRM" not in chunks:
        return None
    white_x, white_y, *colours = (value / 100000 for value in struct.unpack(">8I", chunks[b"cHRM"][:32]))
    primaries = (*colours, white_x, white_y)
    return None if means_rec709(primaries) else primaries


#: H.273's code points.
_PRIMARIES = {1: REC709, 9: REC2020, 12: P3_D65}
_TRANSFERS = {13: linear_from_srgb, 8: linear, 4: gamma(2.2), 5: gamma(2.8)} | dict.fromkeys((1, 6, 14, 15), gamma(2.4))


def _cicp(primaries: int, transfer: int, name: str) -> ColourSpace | None:
    if transfer in (16, 18):
        raise PanoramaError(f"{name} is HDR video colour ({'PQ' if transfer == 16 else 'HLG'}).", _EXPORT_SRGB)
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        raise PanoramaError(f"The colour encoding of {name} is not known (cICP {primaries}, {transfer}).", _EXPORT_SRGB)
    if (primaries, transfer) == (1, 13):
        return None
    return from_chromaticities(_PRIMARIES[primaries], _TRANSFERS[transfer])


# JPEG

#: The last bytes of a file of an Insta360 camera.
_INSTA360 = b"8db42d694ccc418790edff439fe026bf"
#: Cameras whose own files show two fisheye circles side by side, 2:1.
_DUAL_FISHEYE = re.compile(r"\bSM-(C200|R210)\b", re.IGNORECASE)
_FISHEYE = "Stitch it with the camera's own program, and export an equirectangular JPEG."


def _jpeg(data: Data, name: str, layer: str) -> Header:
    header = Header("JPEG")
    profile: dict[int, bytes] = {}
    xmp, camera, components = b"", exif.Camera(), 3
    at = 2
    while True:
        mark, marker = struct.unpack_from(">BB", data, at)
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if mark != 0xFF or marker in (0xD9, 0xDA):  # damaged, the end, or pixels
            header.pixels_at = at
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            header.height, header.width, components = struct.unpack_from(">HHB", data, at + 5)
            if components == 1:
                header.refusal = PanoramaError(f"{name} has one channel (grey) and no colour.", _AS_RGB)
            if components == 4:
                header.refusal = PanoramaError(f"{name} holds CMYK colours, for print.", _AS_RGB)
        if marker in (0xE1, 0xE2):
            body = data[at + 4 : at + 2 + length]
            if body.startswith(b"Exif\0\0"):
                camera = exif.read(body[6:])
            elif body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
                # Some programs add a packet of their own; the one with the projection counts.
                if gpano.NAMESPACE.encode() not in xmp:
                    xmp = body[29:]
            elif body.startswith(b"ICC_PROFILE\0"):
                profile[body[12]] = body[14:]
        at += 2 + length
    header.xmp = xmp
    if PurePath(name).suffix.lower() == ".insp" or bytes(data[-32:]) == _INSTA360:
        header.refusal = PanoramaError(
            f"{name} is a dual-fisheye picture of an Insta360 camera, not a panorama.", _FISHEYE
        )
    elif gpano.NAMESPACE.encode() not in xmp and _DUAL_FISHEYE.search(camera.model):
        header.refusal = PanoramaError(f"{name} is a dual-fisheye picture ({camera.model}), not a panorama.", _FISHEYE)
    if profile and components in (1, 3):
        icc_profile = b"".join(profile[i] for i in sorted(profile))
        _set_colour(header, icc.read(icc_profile, name, is_grey=components == 1), "ICC profile")
    elif camera.is_adobe_rgb:
        _set_colour(header, from_chromaticities(ADOBE_RGB, gamma(563 / 256)), "EXIF")
    _set_orientation(header, camera.orientation)
    return header


# TIFF

_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES, _SAMPLE_FORMAT = 256, 257, 258, 262, 277, 339
_TRANSFER, _WHITE, _PRIMARY_COLOURS, _XMP, _ICC = 301, 318, 319, 700, 34675
_TIFF_TAGS = (
    exif.ORIENTATION, _WIDTH, _HEIGHT, _PHOTOMETRIC, _SAMPLE_FORMAT, _WHITE, _PRIMARY_COLOURS, _XMP, _ICC,
)  # fmt: skip
_SPACES = {5: "CMYK", 8: "Lab", 9: "Lab", 10: "Lab", 32844: "LogLuv", 32845: "LogLuv", 32803: "a camera's raw"}


def _tiff(data: Data, name: str, layer: str) -> Header:
    order = exif.byte_order(data[:2])
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    tags = exif.directory(data, order, at, _TIFF_TAGS, big=big)
    header = Header("TIFF", int(exif.first(tags, _WIDTH) or 0), int(exif.first(tags, _HEIGHT) or 0))
    header.is_float = exif.first(tags, _SAMPLE_FORMAT) == 3
    photometric = int(exif.first(tags, _PHOTOMETRIC) or 0)
    if photometric in _SPACES:
        header.refusal = PanoramaError(f"{name} holds {_SPACES[photometric]} colours, not RGB.", _AS_RGB)
    if photometric in (0, 1):
        header.refusal = PanoramaError(f"{name} has one channel (grey) and no colour.", _AS_RGB)
    profile, xmp = tags.get(_ICC), tags.get(_XMP)
    if photometric in _SPACES:
        return header
    if isinstance(profile, bytes):
        _set_tiff_profile(header, profile, name, is_grey=photometric in (0, 1))
    else:
        primaries, white = tags.get(_PRIMARY_COLOURS), tags.get(_WHITE)
        if isinstance(primaries, tuple) and isinstance(white, tuple) and len(primaries) == 6 and len(white) == 2:
            chromaticities = (*primaries, *white)
            if not means_rec709(chromaticities):
                decode = linear if header.is_float else linear_from_srgb
                _set_colour(header, from_chromaticities(chromaticities, decode), "TIFF")
    _set_orientation(header, exif.orientation(tags))
    header.xmp = xmp if isinstance(xmp, bytes) else b""
    return header


def _set_tiff_profile(header: Header, profile: bytes, name: str, *, is_grey: bool) -> None:
    colour = icc.read(profile, name, is_grey=is_grey)
    if colour is None and header.is_float:
        colour = from_chromaticities(REC709, linear_from_srgb, "sRGB")
    _set_colour(header, colour, "ICC profile")


# WebP


def _webp(data: Data, name: str, layer: str) -> Header:
    header = Header("WebP")
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"ANIM":
            raise PanoramaError(f"{name} is an animation.", "Give a still picture.")
        if kind == b"VP8X":
            header.width, header.height = (
                1 + int.from_bytes(data[at + 12 + i : at + 15 + i], "little") for i in (0, 3)
            )
        elif kind == b"ICCP":
            _set_colour(header, icc.read(bytes(data[at + 8 : at + 8 + length]), name), "ICC profile")
        elif kind == b"EXIF":
            _set_orientation(header, exif.read(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")).orientation)
        elif kind == b"XMP ":
            header.xmp = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    return header


# Radiance HDR

#: The resolution line's axes, first the slower one → orientation as EXIF counts it.
_AXES = {
    ("-Y", "+X"): 1, ("-Y", "-X"): 2, ("+Y", "-X"): 3, ("+Y", "+X"): 4,
    ("+X", "-Y"): 5, ("-X", "-Y"): 6, ("-X", "+Y"): 7, ("+X", "+Y"): 8,
}  # fmt: skip


def _radiance(data: Data, name: str, layer: str) -> Header:
    header = Header("Radiance HDR", is_float=True)
    text = bytes(data[: 1 << 16])
    if text.split(b"\n", 1)[0].endswith(b"\r"):
        raise PanoramaError(
            f"{name} was changed as if it were text: its lines end as in Windows.", "Download it again."
        )
    lines, _, rest = text.partition(b"\n\n")
    if not rest:
        raise PanoramaError(f"{name} can't be read: its header is damaged.", "Save or download it again.")
    resolution = re.match(rb"([+-][XY]) +(\d+) +([+-][XY]) +(\d+)", rest)
    axes = (resolution[1].decode(), resolution[3].decode()) if resolution else ("", "")
    if resolution is None or axes not in _AXES:
        raise PanoramaError(f"{name} can't be read: its header has no size.", "Save or download it again.")
    header.height, header.width = int(resolution[2]), int(resolution[4])
    entries = [line.partition("=") for line in lines.decode("latin-1").splitlines()]
    if not any(key == "FORMAT" for key, _, _ in entries):
        raise PanoramaError(f"{name} can't be read: its header has no line FORMAT=.", "Save it again.")
    for key, _, value in entries:
        if key == "FORMAT" and value.strip() != "32-bit_rle_rgbe":
            what = "CIE XYZ (32-bit_rle_xyze)" if "xyze" in value else f"the format {value.strip()!r}"
            raise PanoramaError(
                f"{name} holds {what}, not RGB.", "Convert it to RGB with Radiance's ra_xyze -r, or save it as an EXR."
            )
        if key == "PRIMARIES":
            _set_primaries(header, value, name)
    _set_orientation(header, _AXES[axes])
    return header


def _set_primaries(header: Header, value: str, name: str) -> None:
    try:
        chromaticities = tuple(float(number) for number in value.split())
        if len(chromaticities) != 8:
            raise ValueError("it has not 8 numbers")
        if not means_rec709(chromaticities):
            _set_colour(header, from_chromaticities(chromaticities), "PRIMARIES")
    except ValueError as error:
        raise PanoramaError(
            f"The header of {name} has the primaries {value.strip()}, which are no colours: {error}.", "Save it again."
        ) from error


# BMP, TGA


def _bmp(data: Data, name: str, layer: str) -> Header:
    header = Header("BMP")
    (size,) = struct.unpack_from("<I", data, 14)
    (bits,) = struct.unpack_from("<H", data, 28 if size >= 40 else 24)
    if size >= 40 and bits <= 8:
        (colours,) = struct.unpack_from("<I", data, 46)
        palette = bytes(data[14 + size : 14 + size + 4 * (min(colours, 256) or 1 << bits)])
        if palette[::4] == palette[1::4] == palette[2::4]:
            header.refusal = PanoramaError(f"{name} has one channel (grey) and no colour.", _AS_RGB)
    return header


def _tga(data: Data, name: str, layer: str) -> Header:
    header = Header("TGA")
    if data[2] in (3, 11):  # grey, plain or run-length encoded
        header.refusal = PanoramaError(f"{name} has one channel (grey) and no colour.", _AS_RGB)
    return header


READERS: dict[str, Callable[[Data, str, str], Header]] = {
    "EXR": exr.read,
    "Radiance HDR": _radiance,
    "PNG": _png,
    "JPEG": _jpeg,
    "TIFF": _tiff,
    "WebP": _webp,
    "BMP": _bmp,
    "TGA": _tga,
}
