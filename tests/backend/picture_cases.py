"""Panorama files as people have them, and what is read of each: the list of both readers' tests and of docs/files.md.

Files are written by OpenImageIO, Pillow, or byte by byte; expected pixels come from the picture that was to be stored,
or from LittleCMS (ICC) and OpenColorIO (primaries of EXR).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import OpenImageIO as oiio
from PIL import Image, ImageCms, PngImagePlugin

HEIGHT, WIDTH = 16, 32
GPANO = "http://ns.google.com/photos/1.0/panorama/"
P3, ADOBE = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06), (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
D65, D50_XYZ = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)


@dataclass(frozen=True)
class Case:
    """One file."""

    #: What it is, and what becomes of it, as docs/files.md says.
    what: str
    result: str
    #: Write it in a folder, and return its path.
    write: Callable[[Path], Path]
    #: Pixels that are to be read, (H, W, 3), with their encoding and tolerance; None: it is refused.
    pixels: np.ndarray | None = None
    encoding: str = "srgb"
    tolerance: float = 2e-3
    #: Pattern of the message of the refusal.
    refusal: str = ""
    layer: str = ""


@cache
def picture() -> np.ndarray:
    """Return a picture without symmetry, all of whose values exist in 8 bits, (16, 32, 3) float32 in (0, 1)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    colours = np.stack([0.2 + x / 64, 0.25 + y / 32, 0.7 - x / 64], -1)
    return (np.round(colours * 255) / 255).astype(np.float32)


def bytes_of(pixels: np.ndarray) -> np.ndarray:
    return np.round(pixels * 255).astype(np.uint8)


def linear(pixels: np.ndarray) -> np.ndarray:
    """Decode sRGB by OpenColorIO."""
    return converted(pixels, "sRGB Encoded Rec.709 (sRGB)", "Linear Rec.709 (sRGB)")


def converted(pixels: np.ndarray, source: str, target: str) -> np.ndarray:
    """Convert (H, W, 3) between colour spaces of OpenColorIO's built-in configuration."""
    buffer = oiio.ImageBuf(oiio.ImageSpec(pixels.shape[1], pixels.shape[0], 3, "float"))
    buffer.set_pixels(oiio.ROI(), np.ascontiguousarray(pixels, np.float32))
    result = oiio.ImageBufAlgo.colorconvert(buffer, source, target)
    assert not result.has_error, result.geterror()
    return np.asarray(result.get_pixels(oiio.FLOAT))


# Writers


def write_exr(
    path: Path,
    parts: Sequence[tuple[str, Sequence[str], np.ndarray]],
    compression: str = "zip",
    tile: int = 0,
    data_at: tuple[int, int] = (0, 0),
    display: tuple[int, int, int, int] | None = None,
    **attributes: object,
) -> Path:
    """Write parts (name, channels, (H, W, C)); `display`: left, top, width, height."""
    specs = []
    for name, channels, pixels in parts:
        spec = oiio.ImageSpec(pixels.shape[1], pixels.shape[0], len(channels), "float")
        spec.channelnames = list(channels)
        spec.tile_width = spec.tile_height = tile
        spec.x, spec.y = data_at
        spec.full_x, spec.full_y, spec.full_width, spec.full_height = display or (*data_at, *pixels.shape[1::-1])
        spec.attribute("compression", compression)
        if name:
            spec.attribute("oiio:subimagename", name)
        for key, value in attributes.items():
            if key == "chromaticities":
                spec.attribute(key, oiio.TypeDesc("float[8]"), value)
            else:
                spec.attribute(key, value)
        specs.append(spec)
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), tuple(specs) if len(specs) > 1 else specs[0]), output.geterror()
    for number, (_, _, pixels) in enumerate(parts):
        if number:
            assert output.open(str(path), specs[number], "AppendSubimage"), output.geterror()
        assert output.write_image(np.ascontiguousarray(pixels, np.float32)), output.geterror()
    output.close()
    return path


def write_png(path: Path, chunks: Sequence[tuple[bytes, bytes]], stored: np.ndarray, depth: int = 8) -> Path:
    """Write a PNG of RGB with these chunks before its pixels (PNG 3)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = stored.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in np.round(stored))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
        + b"".join(chunk(*one) for one in chunks)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def write_hdr(path: Path, resolution: str, stored: np.ndarray, header: str = "FORMAT=32-bit_rle_rgbe\n") -> Path:
    """Write a Radiance file whose scanlines are the rows of `stored`, not compressed."""
    mantissa, exponent = np.frexp(stored.max(axis=-1))
    scale = mantissa * 256 / stored.max(axis=-1)
    rgbe = np.concatenate([stored * scale[..., None], (exponent + 128)[..., None]], axis=-1).astype(np.uint8)
    path.write_bytes(b"#?RADIANCE\n" + header.encode() + b"\n" + resolution.encode() + b"\n" + rgbe.tobytes())
    return path


def write_pillow(path: Path, pixels: np.ndarray, mode: str = "RGB", **options: object) -> Path:
    """Write 8 bits by Pillow, without loss but in a JPEG; "xmp" is a packet."""
    xmp = options.pop("xmp", None)
    suffix = path.suffix
    if xmp is not None and suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
        options["pnginfo"] = text
    elif xmp is not None and suffix == ".tif":
        options["tiffinfo"] = {700: xmp}
    elif xmp is not None:
        options["xmp"] = xmp
    if suffix in (".jpg", ".insp"):
        options |= {"quality": 100, "subsampling": 0, "format": "JPEG"}
    elif suffix == ".webp":
        options["lossless"] = True
    Image.fromarray(bytes_of(pixels)).convert(mode).save(path, **options)
    return path


def profile(primaries: Sequence[float], gamma: float | None, name: str) -> bytes:
    """Return a version 2 ICC profile of three primaries with a white of D65; gamma None: sRGB's parametric curve."""
    from panoform.shared.imaging import colour_space

    xyz = colour_space.xyz_from_rgb((*primaries, *D65))
    matrix = colour_space.adaptation(xyz.sum(axis=1), np.array(D50_XYZ)) @ xyz

    def fixed(values: Sequence[float]) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    if gamma is None:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    else:
        curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    title = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" * 79
    tags = {b"desc": title + b"\0" * (-len(title) % 4), b"wtpt": b"XYZ \0\0\0\0" + fixed(D50_XYZ)}
    for channel, letter in enumerate(b"rgb"):
        tags[bytes([letter]) + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(matrix[:, channel])
        tags[bytes([letter]) + b"TRC"] = curve
    tags[b"cprt"] = b"text\0\0\0\0none\0\0\0\0"
    place, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, data in tags.items():
        table += struct.pack(">4sII", key, place + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    start = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ") + b"\0" * 12 + b"acsp"
    return start + b"\0" * 28 + fixed(D50_XYZ) + b"\0" * 48 + table + body


def grey_profile(gamma: float) -> bytes:
    """Return a version 2 ICC profile of grey with an exponent."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    white = b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in D50_XYZ)
    start = struct.pack(">4sII", b"kTRC", 156, 16) + struct.pack(">4sII", b"wtpt", 172, 20)
    head = struct.pack(">I4sI4s4s4s", 192, b"none", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + b"\0" * 12 + b"acsp"
    return head.ljust(128, b"\0") + struct.pack(">I", 2) + start + curve + white


def by_littlecms(pixels: np.ndarray, icc: bytes) -> np.ndarray:
    """Convert 8-bit pixels from a profile to sRGB by LittleCMS."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    image = ImageCms.profileToProfile(
        Image.fromarray(bytes_of(pixels)), source, ImageCms.createProfile("sRGB"), renderingIntent=1
    )
    return np.asarray(image, np.float32) / 255


def xmp(as_elements: bool = False, **fields: object) -> bytes:
    """Return an XMP packet of GPano fields, as attributes or as elements."""
    inner = "".join(f"<GPano:{key}>{value}</GPano:{key}>" for key, value in fields.items()) if as_elements else ""
    outer = "" if as_elements else " ".join(f'GPano:{key}="{value}"' for key, value in fields.items())
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="{GPANO}" {outer}>{inner}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


def crop(width: int, height: int, full: tuple[int, int], left: int, top: int, as_elements: bool = False) -> bytes:
    """Return GPano metadata of a crop."""
    return xmp(
        as_elements,
        ProjectionType="equirectangular",
        CroppedAreaImageWidthPixels=width,
        CroppedAreaImageHeightPixels=height,
        FullPanoWidthPixels=full[0],
        FullPanoHeightPixels=full[1],
        CroppedAreaLeftPixels=left,
        CroppedAreaTopPixels=top,
    )


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the stored pixels that EXIF's `orientation` turns to `pixels`, as its table defines row 0 and column 0."""
    stored = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    # Row 0 is the top, top, bottom, bottom, left, right, right, left; column 0 the left, right, right, left, top, …
    if orientation in (3, 4, 6, 7):
        stored = stored[::-1]
    if orientation in (2, 3, 7, 8):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def raw_profile(name: bytes, data: bytes, kind: bytes = b"zTXt") -> tuple[bytes, bytes]:
    """Return the chunk of PNG in which ImageMagick keeps a profile: hexadecimal text in lines of 36 bytes."""
    digits = data.hex().encode()
    lines = b"\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    text = b"\n%s\n%8d\n%s\n" % (name, len(data), lines)
    middle = {b"tEXt": b"\0", b"zTXt": b"\0\0", b"iTXt": b"\0\0\0\0\0"}[kind]
    return kind, b"Raw profile type " + name + middle + (zlib.compress(text) if kind == b"zTXt" else text)


def _exif(damaged: bool = False) -> bytes:
    """Return EXIF data with orientation 3, after a resolution that lies beyond the end where it is `damaged`."""
    entries = [struct.pack("<HHII", 0x011A, 5, 1, 60000)] * damaged + [struct.pack("<HHIHH", 0x0112, 3, 1, 3, 0)]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", 0)


def _with_segment(path: Path, body: bytes, at_end: bool = False) -> Path:
    """Insert a segment APP1 into a JPEG: first, or before its quantisation tables."""
    data = path.read_bytes()
    at = data.index(b"\xff\xdb") if at_end else 2
    path.write_bytes(data[:at] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[at:])
    return path


# Cases


def _exr_cases() -> list[Case]:
    light = linear(picture()) * 3
    grey = np.full_like(light, 0.5)
    rgb, cases = ("R", "G", "B"), []
    for name, space, numbers in (
        ("ACES AP0", "ACES2065-1", (0.7347, 0.2653, 0.0, 1.0, 0.0001, -0.0770, 0.32168, 0.33767)),
        ("ACES AP1 (ACEScg)", "ACEScg", (0.713, 0.293, 0.165, 0.830, 0.128, 0.044, 0.32168, 0.33767)),
        ("P3", "Linear P3-D65", (*P3, *D65)),
        ("Rec.2020", "Linear Rec.2020", (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65)),
    ):
        stored = converted(light, "Linear Rec.709 (sRGB)", space)
        cases.append(
            Case(
                f"EXR, chromaticities of {name}",
                "converted to linear Rec.709",
                lambda folder, stored=stored, numbers=numbers: write_exr(
                    folder / "a.exr", [("", rgb, stored)], chromaticities=numbers
                ),
                light,
                "linear",
            )
        )
    ap1 = converted(light, "Linear Rec.709 (sRGB)", "ACEScg")
    encoded = converted(ap1, "Linear Rec.709 (sRGB)", "sRGB Encoded Rec.709 (sRGB)")  # the curve alone, of AP1's values
    for interop, stored in (("srgb_ap1_scene", encoded), ("g22_ap1_scene", ap1 ** (1 / 2.2))):
        cases.append(
            Case(
                f"EXR, interop ID `{interop}`",
                "converted to linear Rec.709",
                lambda folder, i=interop, s=stored: write_exr(folder / "a.exr", [("", rgb, s)], colorInteropID=i),
                light,
                "linear",
            )
        )
    cases += [
        Case(
            "EXR, interop ID `lin_ap1_scene`",
            "converted to linear Rec.709",
            lambda folder: write_exr(folder / "a.exr", [("", rgb, ap1)], colorInteropID="lin_ap1_scene"),
            light,
            "linear",
        ),
        Case(
            "EXR, ACES container without chromaticities",
            "converted from AP0",
            lambda folder: write_exr(
                folder / "a.exr",
                [("", rgb, converted(light, "Linear Rec.709 (sRGB)", "ACES2065-1"))],
                acesImageContainerFlag=1,
            ),
            light,
            "linear",
        ),
        Case("EXR, another interop ID (`pq_rec2020_display`)", "refused, naming the ID",
             lambda folder: write_exr(folder / "a.exr", [("", rgb, light)], colorInteropID="pq_rec2020_display"),
             refusal=r"encoding of a\.exr is not known \(interop ID pq_rec2020_display\)"),
        Case("EXR, another interop ID, with chromaticities", "converted by the chromaticities",
             lambda folder: write_exr(folder / "a.exr", [("", rgb, ap1)], colorInteropID="acescg_of_a_studio",
                                      chromaticities=(0.713, 0.293, 0.165, 0.830, 0.128, 0.044, 0.32168, 0.33767)),
             light, "linear"),
        Case("EXR, chromaticities of zeros", "linear Rec.709",
             lambda folder: write_exr(folder / "a.exr", [("", rgb, light)], chromaticities=(0.0,) * 8), light, "linear",
             0),
        Case("EXR, R, G, B", "linear Rec.709", lambda folder: write_exr(folder / "a.exr", [("", rgb, light)]), light,
             "linear", 0),
        Case("EXR, V-Ray's channels red, green, blue", "linear Rec.709",
             lambda folder: write_exr(folder / "a.exr", [("", ("red", "green", "blue"), light)]), light, "linear", 0),
    ]  # fmt: skip
    layered = [
        ("one with layers `albedo` and `beauty`", ("albedo", "beauty"), "`beauty`"),
        ("Blender's multilayer", ("View Layer.Combined", "View Layer.Diffuse Color"), "`Combined`"),
        ("Blender's, with its compositor's result", ("Composite.Combined", "ViewLayer.Combined"), "`Composite`"),
        ("layers `rgba` and `N`", ("N", "rgba"), "`rgba`"),
        ("one layer with a name of its own", ("Pano",), "it"),
    ]
    for what, names, result in layered:
        best = 1 if names[0] in ("albedo", "N") else 0
        channels = [f"{name}.{c}" for name in names for c in "RGB"]
        values = np.concatenate([light if i == best else grey for i in range(len(names))], axis=-1)
        for compression, tile in (("zip", 0), ("piz", 16)):
            cases.append(
                Case(
                    f"EXR, {what}",
                    f"{result} is read",
                    lambda folder, c=channels, v=values, k=compression, t=tile: write_exr(
                        folder / "a.exr", [("", (*c, "Z.V"), np.concatenate([v, v[..., :1]], -1))], k, t
                    ),
                    light,
                    "linear",
                    0,
                )
            )
    parts = [("albedo", rgb, grey), ("beauty", rgb, light), ("depth", ("Z",), grey[..., :1])]
    cases += [
        Case("EXR of several parts", "the part `beauty` is read", lambda folder: write_exr(folder / "a.exr", parts),
             light, "linear", 0),
        Case("EXR of several parts, `--layer albedo`", "that part is read",
             lambda folder: write_exr(folder / "a.exr", parts), grey, "linear", 0, layer="albedo"),
        Case("EXR with two view layers", "refused, naming the layers",
             lambda folder: write_exr(folder / "a.exr", [("", [f"{n}.Combined.{c}" for n in "AB" for c in "RGB"],
                                                          np.concatenate([light, grey], -1))]),
             refusal=r"2 layers that show light; its layers are A\.Combined, B\.Combined"),
        *(
            Case(f"EXR with {a} and {b}", "refused, naming the layers",
                 lambda folder, names=(a, b): write_exr(
                     folder / "a.exr",
                     [("", [f"{n}.{c}" for n in names for c in "RGB"], np.concatenate([light, grey], -1))]),
                 refusal=rf"2 layers, and no name says which shows the light; its layers are {b}, {a}")
            for a, b in (("albedo", "N"), ("World", "Normal"), ("wirecolor", "N"), ("tangent", "position"),
                         ("coat", "albedo"))
        ),
        Case("EXR with nothing but ambient occlusion", "it is read",
             lambda folder: write_exr(folder / "a.exr", [("", [f"AO.{c}" for c in "RGB"], light)]), light, "linear", 0),
        Case("EXR, chromaticities that are no colours", "refused by what it is",
             lambda folder: write_exr(folder / "a.exr", [("", rgb, light)], chromaticities=(*P3, 0.0, 0.0)),
             refusal="chromaticities that are no colours"),
        Case("EXR without red, green, blue", "refused, naming its channels",
             lambda folder: write_exr(folder / "a.exr", [("", ("X", "Z"), grey[..., :2])]),
             refusal="no colour: its channels are X, Z"),
        Case("EXR with a data window within its display window", "what is missing is unknown: refused, Extend fills it",
             lambda folder: write_exr(folder / "a.exr", [("", rgb, light[8:])], data_at=(0, 8), display=(0, 0, 32, 16)),
             refusal="don't fill its display window, 32 × 16; 256 of 512 pixels are unknown"),
        Case("EXR with a data window beyond its display window", "the display window is read",
             lambda folder: write_exr(folder / "a.exr", [("", rgb, np.pad(light, ((2, 1), (3, 4), (0, 0))))],
                                      data_at=(-3, -2), display=(0, 0, 32, 16)), light, "linear", 0),
        Case("EXR whose windows start elsewhere", "as it is",
             lambda folder: write_exr(folder / "a.exr", [("", rgb, light)], data_at=(7, 5), display=(7, 5, 32, 16)),
             light, "linear", 0),
    ]  # fmt: skip
    return cases


def _hdr_cases() -> list[Case]:
    light = linear(picture())
    cases = []
    for resolution, orientation in (
        ("-Y 16 +X 32", 1), ("-Y 16 -X 32", 2), ("+Y 16 -X 32", 3), ("+Y 16 +X 32", 4),
        ("+X 32 -Y 16", 5), ("-X 32 -Y 16", 6), ("-X 32 +Y 16", 7), ("+X 32 +Y 16", 8),
    ):  # fmt: skip
        what = "Radiance HDR" if orientation == 1 else f"Radiance HDR, `{resolution[:2]} {resolution[6:8]}`"
        cases.append(
            Case(
                what,
                "linear Rec.709" if orientation == 1 else "turned upright",
                lambda folder, r=resolution, o=orientation: write_hdr(folder / "a.hdr", r, turned(light, o)),
                light,
                "linear",
                8e-3,
            )
        )
    p3 = converted(light, "Linear Rec.709 (sRGB)", "Linear P3-D65")
    head = f"FORMAT=32-bit_rle_rgbe\nPRIMARIES= {' '.join(map(str, (*P3, *D65)))}\n"
    return [
        *cases,
        Case("Radiance HDR with `PRIMARIES`", "converted to linear Rec.709",
             lambda folder: write_hdr(folder / "a.hdr", "-Y 16 +X 32", p3, head), light, "linear", 8e-3),
        Case("Radiance HDR with `PRIMARIES` of zeros, as of Photoshop", "linear Rec.709",
             lambda folder: write_hdr(folder / "a.hdr", "-Y 16 +X 32", light,
                                      "FORMAT=32-bit_rle_rgbe\nPRIMARIES=0 0 0 0 0 0 0 0\n"), light, "linear", 8e-3),
        Case("Radiance HDR without FORMAT", "refused by what it is",
             lambda folder: write_hdr(folder / "a.hdr", "-Y 16 +X 32", light, "SOFTWARE=a\n"),
             refusal="has no line FORMAT"),
        Case("Radiance HDR that was changed as text", "refused by what it is",
             lambda folder: _written(folder / "a.hdr", b"#?RADIANCE\r\nFORMAT=32-bit_rle_rgbe\r\n\r\n-Y 16 +X 32\r\n"),
             refusal="changed as if it were text"),
        Case("Radiance HDR called .pic", "linear Rec.709",
             lambda folder: write_hdr(folder / "a.pic", "-Y 16 +X 32", light), light, "linear", 8e-3),
        Case("Radiance XYZE", "refused by what it is",
             lambda folder: write_hdr(folder / "a.hdr", "-Y 16 +X 32", light, "FORMAT=32-bit_rle_xyze\n"),
             refusal=r"CIE XYZ \(32-bit_rle_xyze\), not RGB"),
    ]  # fmt: skip


def _integer_cases() -> list[Case]:
    cases = []
    narrow = picture() * 0.5 + 0.25
    for name, icc in (
        ("Display P3", profile(P3, None, "Display P3")),
        ("Adobe RGB", profile(ADOBE, 563 / 256, "Adobe RGB (1998)")),
        ("a linear one", profile(P3, 1, "linear P3")),
    ):
        for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG"), (".tif", "TIFF"), (".webp", "WebP")):
            cases.append(
                Case(
                    f"{kind}, ICC profile of {name}",
                    "converted to sRGB",
                    lambda folder, s=suffix, icc=icc: write_pillow(folder / f"a{s}", narrow, icc_profile=icc),
                    by_littlecms(narrow, icc),
                    tolerance=0.02 if suffix == ".jpg" else 4e-3,
                )
            )
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cases.append(
        Case("PNG, ICC profile of sRGB", "as it is",
             lambda folder: write_pillow(folder / "a.png", picture(), icc_profile=standard), picture(), tolerance=1e-6)
    )  # fmt: skip
    light = linear(picture())
    for exponent, what in ((1.0, "1.0"), (1 / 1.8, "0.5556")):
        stored = light**exponent * 65535
        chunk = struct.pack(">I", round(exponent * 100000))
        cases.append(
            Case(f"PNG, gAMA {what}", "converted to sRGB",
                 lambda folder, s=stored, c=chunk: write_png(folder / "a.png", [(b"gAMA", c)], s, 16), picture())
        )  # fmt: skip
    p3 = converted(picture(), "sRGB Encoded Rec.709 (sRGB)", "sRGB Encoded P3-D65")
    srgb_gamma = (b"gAMA", struct.pack(">I", 45455))
    p3_primaries = (b"cHRM", struct.pack(">8I", *(round(v * 100000) for v in (*D65, *P3))))
    for what, chunks, stored in (
        ("gAMA 0.45455", [srgb_gamma], picture()),
        ("gAMA and cHRM of zeros", [srgb_gamma, (b"cHRM", bytes(32))], picture()),
        ("sRGB and another gAMA", [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))], picture()),
        ("gAMA and cHRM of P3", [srgb_gamma, p3_primaries], p3),
        ("cICP of Display P3", [(b"cICP", bytes([12, 13, 0, 1]))], p3),
    ):
        cases.append(
            Case(f"PNG, {what}", "as it is" if stored is picture() else "converted to sRGB",
                 lambda folder, c=chunks, s=stored: write_png(folder / "a.png", c, s * 65535, 16), picture())
        )  # fmt: skip
    for orientation in range(2, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG"), (".tif", "TIFF"), (".webp", "WebP")):
            cases.append(
                Case(
                    f"{kind}, EXIF orientation {orientation}",
                    "turned upright",
                    lambda folder, s=suffix, o=orientation, t=tags: write_pillow(
                        folder / f"a{s}", turned(picture(), o), exif=t
                    ),
                    picture(),
                    tolerance=0.02 if suffix == ".jpg" else 1e-6,
                )
            )
    rgba = np.concatenate([picture(), np.ones_like(picture()[..., :1])], axis=-1)
    clear = rgba.copy()
    clear[:, 16:, 3] = 0
    half = rgba.copy()
    half[:, 16:, 3] = 0.5
    cases += [
        Case("PNG with opaque alpha", "as it is", lambda folder: write_png(folder / "a.png", [], rgba * 255), picture(),
             tolerance=1e-6),
        Case("PNG with a transparent half", "it is unknown: refused, Extend fills it",
             lambda folder: write_png(folder / "a.png", [], clear * 255), refusal="256 of 512 pixels are transparent"),
        Case("PNG with a half-transparent half", "it is unknown: refused, Extend fills it",
             lambda folder: write_png(folder / "a.png", [], half * 255), refusal="256 of 512 pixels are transparent"),
        Case("PNG, 16 bits", "sRGB", lambda folder: write_png(folder / "a.png", [], picture() * 65535, 16), picture()),
        Case("BMP", "sRGB", lambda folder: write_pillow(folder / "a.bmp", picture()), picture(), tolerance=1e-6),
        Case("TGA", "sRGB", lambda folder: write_pillow(folder / "a.tga", picture()), picture(), tolerance=1e-6),
        Case("TIFF of floats", "linear Rec.709", lambda folder: _tiff(folder / "a.tif", light, "float"), light,
             "linear", 0),
        Case("TIFF, 16 bits", "sRGB", lambda folder: _tiff(folder / "a.tif", picture(), "uint16"), picture()),
        Case("PNG, a damaged ICC profile", "refused by what it is",
             lambda folder: write_png(folder / "a.png", [(b"iCCP", b"a\0\0damaged")], picture() * 255),
             refusal="damaged"),
        Case("JPEG of CMYK", "refused by what it is",
             lambda folder: write_pillow(folder / "a.jpg", picture(), "CMYK"), refusal="CMYK"),
        Case("TIFF of CMYK", "refused by what it is",
             lambda folder: write_pillow(folder / "a.tif", picture(), "CMYK"), refusal="CMYK"),
        *(
            Case(f"{kind} of grey", "refused by what it is",
                 lambda folder, s=suffix, m=mode: write_pillow(folder / f"a{s}", picture(), m), refusal="one channel")
            for suffix, kind, mode in ((".jpg", "JPEG", "L"), (".png", "PNG", "L"), (".tif", "TIFF", "L"),
                                       (".bmp", "BMP", "L"), (".tga", "TGA", "L"),
                                       (".png", "PNG with alpha,", "LA"))
        ),
        Case("PNG, cICP of HDR video (PQ)", "refused by what it is",
             lambda folder: write_png(folder / "a.png", [(b"cICP", bytes([9, 16, 0, 1]))], picture() * 255),
             refusal=r"HDR video colour \(PQ\)"),
        Case("GIF", "refused by what it is", lambda folder: write_pillow(folder / "a.gif", picture()),
             refusal="it is a GIF"),
        Case("HEIC, AVIF, JPEG XL, JPEG 2000, PSD, DPX, videos", "refused by what it is",
             lambda folder: _written(folder / "a.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), refusal="a HEIC file"),
        Case("a web page saved as .hdr", "refused by what it is",
             lambda folder: _written(folder / "a.hdr", b"<!DOCTYPE html><html></html>"), refusal="a web page"),
    ]  # fmt: skip
    return cases


def _tiff(path: Path, pixels: np.ndarray, depth: str) -> Path:
    output = oiio.ImageOutput.create(str(path))
    assert output.open(str(path), oiio.ImageSpec(WIDTH, HEIGHT, 3, depth)), output.geterror()
    output.write_image(np.ascontiguousarray(pixels, np.float32))
    output.close()
    return path


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _gpano_cases() -> list[Case]:
    cases = []
    for suffix, kind in ((".jpg", "JPEG"), (".png", "PNG"), (".tif", "TIFF"), (".webp", "WebP")):
        tolerance = 0.02 if suffix == ".jpg" else 1e-6
        for what, packet, result in (
            ("GPano of the whole sphere", crop(32, 16, (32, 16), 0, 0), "as it is"),
            ("GPano with pitch, roll and heading", xmp(ProjectionType="equirectangular", PosePitchDegrees=12,
                                                      PoseRollDegrees=-3, PoseHeadingDegrees=90),
             "as it is, and the pose is told"),
        ):  # fmt: skip
            cases.append(
                Case(f"{kind}, {what}", result,
                     lambda folder, s=suffix, p=packet: write_pillow(folder / f"a{s}", picture(), xmp=p), picture(),
                     tolerance=tolerance)
            )  # fmt: skip
        for what, packet, refusal in (
            ("GPano of a crop, 2:1", crop(32, 16, (64, 32), 16, 8), "32 × 16 of 64 × 32; 1536 of 2048 pixels"),
            ("GPano of a crop, 2:1, scaled down later", crop(320, 160, (640, 320), 160, 80, as_elements=True),
             "320 × 160 of 640 × 320; 1536 of 2048 pixels"),
        ):  # fmt: skip
            cases.append(
                Case(f"{kind}, {what}", "what is missing is unknown: refused, Extend fills it",
                     lambda folder, s=suffix, p=packet: write_pillow(folder / f"a{s}", picture(), xmp=p),
                     refusal=refusal)
            )  # fmt: skip
    flat = xmp(ProjectionType="cylindrical")
    broken = crop(32, 16, (40, 20), 16, 8)
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + crop(32, 16, (32, 16), 0, 0)
    low = np.concatenate([picture(), picture()[:, ::-1]], axis=1)[::2]
    return [
        *cases,
        Case("JPEG, GPano of a crop that isn't 2:1", "what is missing is unknown: refused, Extend fills it",
             lambda folder: write_pillow(folder / "a.jpg", low, xmp=crop(64, 8, (64, 32), 0, 12)),
             refusal="64 × 8 of 64 × 32; 1536 of 2048 pixels are unknown"),
        Case("JPEG, GPano of another projection", "refused by what it is",
             lambda folder: write_pillow(folder / "a.jpg", picture(), xmp=flat), refusal="a cylindrical panorama"),
        Case("JPEG, GPano that contradicts itself", "refused, naming the numbers",
             lambda folder: write_pillow(folder / "a.jpg", picture(), xmp=broken), refusal="columns 16 to 48 of 40"),
        Case("PNG, GPano of a crop without its place", "refused by what it is",
             lambda folder: write_pillow(folder / "a.png", picture(), xmp=xmp(
                 CroppedAreaImageWidthPixels=32, CroppedAreaImageHeightPixels=16, FullPanoWidthPixels=64,
                 FullPanoHeightPixels=32)),
             refusal=r"32 × 16 of 64 × 32 pixels, but not where \(CroppedAreaLeftPixels\)"),
        Case("PNG, GPano with angles that are no numbers", "as it is",
             lambda folder: write_pillow(folder / "a.png", picture(), xmp=xmp(PosePitchDegrees="120/10")), picture(),
             tolerance=1e-6),
        Case("JPEG with another XMP packet after GPano", "what is missing is unknown: refused, Extend fills it",
             lambda folder: _with_segment(write_pillow(folder / "a.jpg", picture(), xmp=crop(32, 16, (64, 32), 16, 8)),
                                          b"http://ns.adobe.com/xap/1.0/\0" + xmp().replace(GPANO.encode(), b"other"),
                                          at_end=True),
             refusal="only a part of the sphere"),
        Case("PNG, GPano of a crop, as ImageMagick writes it", "what is missing is unknown: refused, Extend fills it",
             lambda folder: write_png(folder / "a.png", [raw_profile(b"xmp", crop(32, 16, (64, 32), 16, 8))],
                                      picture() * 255), refusal="only a part of the sphere"),
        *(
            Case(f"PNG, EXIF orientation 3 in {kind.decode()}, as ImageMagick writes it", "turned upright",
                 lambda folder, k=kind: write_png(
                     folder / "a.png", [raw_profile(b"exif", b"Exif\0\0" + _exif(), k)], turned(picture(), 3) * 255),
                 picture(), tolerance=1e-6)
            for kind in (b"tEXt", b"zTXt", b"iTXt")
        ),
        Case("JPEG, EXIF with a damaged tag and an orientation", "turned upright",
             lambda folder: _with_segment(write_pillow(folder / "a.jpg", turned(picture(), 3)),
                                          b"Exif\0\0" + _exif(damaged=True)), picture(), tolerance=0.02),
        Case("JPEG, XMP with entities", "refused by what it is",
             lambda folder: write_pillow(folder / "a.jpg", picture(), xmp=bomb), refusal="it declares entities"),
        Case("dual-fisheye picture (.insp)", "refused by what it is",
             lambda folder: write_pillow(folder / "a.insp", picture()), refusal="a dual-fisheye picture"),
        Case("dual-fisheye picture, renamed .jpg", "refused by what it is",
             lambda folder: _appended(write_pillow(folder / "a.jpg", picture()), b"8db42d694ccc418790edff439fe026bf"),
             refusal="a dual-fisheye picture"),
    ]  # fmt: skip


def _damaged_cases() -> list[Case]:
    light = linear(picture())
    noise = np.random.default_rng(0).random((HEIGHT, WIDTH, 3)).astype(np.float32)  # so that pixels take most bytes

    def changed(path: Path, change: Callable[[bytes], bytes]) -> Path:
        path.write_bytes(change(path.read_bytes()))
        return path

    def cut(path: Path) -> Path:
        return changed(path, lambda data: data[:-40])

    def without_strips(data: bytes) -> bytes:
        """Set the places and lengths of strips (tags 273 and 279) to 0."""
        return re.sub(rb"([\x11\x17]\x01[\x03\x04]\0\x01\0\0\0)....", rb"\1\0\0\0\0", data, flags=re.DOTALL)

    writers: dict[str, Callable[[Path], Path]] = {
        "EXR": lambda folder: write_exr(folder / "a.exr", [("", ("R", "G", "B"), light)]),
        "Radiance HDR": lambda folder: write_hdr(folder / "a.hdr", "-Y 16 +X 32", light),
        **{
            kind: lambda folder, suffix=suffix: write_pillow(folder / f"a{suffix}", noise)
            for kind, suffix in (
                ("JPEG", ".jpg"),
                ("PNG", ".png"),
                ("TIFF", ".tif"),
                ("WebP", ".webp"),
                ("BMP", ".bmp"),
            )
        },
    }
    return [
        Case(f"{kind}, cut short", "refused by what it is", lambda folder, write=write: cut(write(folder)),
             refusal="damaged|can't be read")
        for kind, write in writers.items()
    ] + [
        Case("TIFF, whose strips were never written, as of a program that was ended", "refused by what it is",
             lambda folder: changed(writers["TIFF"](folder), without_strips), refusal="damaged|can't be read"),
        Case("JPEG, without its end marker", "refused: pixels may be missing",
             lambda folder: changed(writers["JPEG"](folder), lambda data: data[:-2]), refusal="its end is missing"),
        Case("JPEG, cut short, with another JPEG behind it", "refused by what it is",
             lambda folder: changed(writers["JPEG"](folder), lambda data: data[:-40] + data),
             refusal="its end is missing"),
        Case("JPEG with another JPEG behind it (a gain map, MPO)", "the first is read",
             lambda folder: changed(write_pillow(folder / "a.jpg", picture()), lambda data: data + data[:-40]),
             picture(), tolerance=0.02),
        Case("JPEG, progressive, with restarts", "as it is",
             lambda folder: write_pillow(folder / "a.jpg", picture(), progressive=True, restart_marker_blocks=1),
             picture(), tolerance=0.02),
    ]  # fmt: skip


def _appended(path: Path, data: bytes) -> Path:
    path.write_bytes(path.read_bytes() + data)
    return path


@cache
def cases() -> list[Case]:
    return [*_exr_cases(), *_hdr_cases(), *_integer_cases(), *_gpano_cases(), *_damaged_cases()]


def identifier(case: Case) -> str:
    return f"{case.what}: {case.result}"


_FORMATS = ("EXR", "Radiance HDR", "PNG", "JPEG", "TIFF", "WebP", "BMP", "TGA")


def table() -> str:
    """Return the list as the table of docs/files.md: what a file is, and what becomes of it."""
    rows: dict[tuple[str, str], list[str]] = {}
    for case in cases():
        kind, _, rest = case.what.partition(", ")
        if kind not in _FORMATS:
            kind, rest = case.what, ""
        rest = re.sub(r"^`[-+][XY] [-+][XY]`$", "turned or mirrored", rest)
        rest = re.sub(r"orientation \d", "orientation 2 to 8", rest)
        kinds = rows.setdefault((rest, case.result), [])
        if kind not in kinds:
            kinds.append(kind)
    lines = ["| File | What becomes of it |", "|---|---|"]
    for (rest, result), kinds in rows.items():
        lines.append(f"| {', '.join(kinds)}{f': {rest}' if rest else ''} | {result} |")
    return "\n".join(lines)
