"""The parts of a mesh, what is visible and what lies hidden behind edges, with their textures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ...shared.jobs.scene import Part, Texture
from ...shared.maps import MAPS
from ..io import panoramas, parallel
from ..io.encoding import encode_image
from ..io.maps import Maps
from ..lighting import exposure
from . import textures
from .build import Built, Layered
from .layers import Layer
from .light import Lights

#: The maps that become textures.
NAMES = ("albedo", "roughness", "metallic", "normal")
#: Encodes maps, by their names, as textures; it may leave some out.
EncodeMaps = Callable[[dict[str, np.ndarray]], dict[str, Texture]]
#: Share of the pixels below which it doesn't matter where the normal map and the mesh disagree.
_AGREE = 5e-3


def visible(maps: Maps, limit: int) -> dict[str, np.ndarray]:
    """Return the textures of what is visible, as sharp as the panorama, of at most `limit` rows.

    Without an albedo map, the panorama serves as one.
    """
    own = {name: maps.maps[name] for name in NAMES if name in maps.maps}
    picture = None
    if maps.panorama is not None:
        pixels, encoding = maps.panorama
        picture, _ = exposure.expose(panoramas.resize(pixels, min(len(pixels), limit)), encoding)
        own.setdefault("albedo", picture)
    return {
        name: textures.sharpen(pixels, picture)
        if picture is not None and name != "normal" and len(picture) > len(pixels)
        else panoramas.resize(pixels, min(len(pixels), limit))
        for name, pixels in own.items()
    }


def unlit(visible: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the textures of what is visible that are the same for lamps: all but the albedo."""
    return {name: pixels for name, pixels in visible.items() if name != "albedo"}


def encode(
    layered: Layered,
    visible: dict[str, np.ndarray],
    small: dict[str, np.ndarray],
    lights: Lights | None,
    confidence: np.ndarray | None,
    limit: int,
    encode_maps: EncodeMaps,
    encoded: dict[str, Texture],
) -> list[dict[str, Texture]]:
    """Return the textures of each layer, of at most `limit` rows.

    `visible`: see above. `small`: the maps at the size of the distance map. `confidence`: of the normals, (H, W).
    `encoded`: the textures of `unlit`.
    """
    shown = {name: pixels for name, pixels in visible.items() if name not in encoded}
    hidden = {
        name: panoramas.resize(small.get(name, pixels), len(layered.sky))
        for name, pixels in visible.items()
        if name != "normal"
    }
    if lights is not None and lights.emission.any():
        shown["emission"] = panoramas.resize(lights.emission, min(len(lights.emission), limit))
        if "albedo" in shown:  # a lamp isn't lit by others too
            shown["albedo"] = shown["albedo"] * ~textures.nearest(lights.lamps[..., None], len(shown["albedo"]))
    if confidence is not None and (confidence < 1).mean() > _AGREE:
        shown["confidence"] = panoramas.resize(confidence[..., None], len(visible["normal"]))
    found = [{**encoded, **encode_maps(shown)}]
    for layer in layered.layers[1:]:
        if not layer.solid.any() or not hidden:
            found.append({})
            continue
        continued = textures.continued(np.concatenate(list(hidden.values()), axis=-1), layer)
        ends = np.cumsum([pixels.shape[-1] for pixels in hidden.values()])
        behind = dict(zip(hidden, np.split(continued, ends[:-1], axis=-1), strict=True))
        if lights is not None:
            _shine_on(behind, lights, layer)
        found.append(
            encode_maps({name: panoramas.resize(pixels, min(len(pixels), limit)) for name, pixels in behind.items()})
        )
    return found


def _shine_on(behind: dict[str, np.ndarray], lights: Lights, layer: Layer) -> None:
    """Continue what shines in the maps of a hidden layer, `behind`. The albedo of lamps is black."""
    shines = lights.emission.any(axis=-1)
    lit = dataclasses.replace(layer, solid=layer.solid & shines.ravel()[layer.source])
    both = np.stack([shines, lights.lamps], axis=-1).astype(np.float32)
    shining, lamps = np.split(textures.continued(both, layer) > 0.5, 2, axis=-1)
    if not shining.any():
        return
    behind["emission"] = textures.continued(lights.emission, lit) * shining
    if "albedo" in behind:
        behind["albedo"] = behind["albedo"] * ~lamps


def parts(built: Built, encoded: list[dict[str, Texture]]) -> tuple[Part, ...]:
    """Return the parts of a mesh, with the textures of its layers."""
    counts = built.surface.counts
    found = [Part(name="visible", triangles=counts[0], textures=encoded[0])]
    for count, layer in zip(counts[1:], encoded[1:], strict=True):
        if count:
            found.append(Part(name="hidden", triangles=count, textures=layer))
    if built.things:
        found.append(Part(name="back", triangles=sum(solid.back for solid in built.things), textures={}))
    return tuple(found)


def encoded_maps(maps: dict[str, np.ndarray]) -> dict[str, Texture]:
    """Encode textures, side by side."""
    return dict(zip(maps, parallel.in_threads(lambda name: encoded(name, maps[name]), maps), strict=True))


def encoded(name: str, pixels: np.ndarray) -> Texture:
    """Encode a texture: light in floats, normals in half floats, all else in 8 bits."""
    if name in ("emission", "environment"):
        filename, colorspace, bits = f"{name}.exr", "Linear Rec.709", 32
    elif name == "normal":
        filename, colorspace, bits = f"{name}.exr", "Non-Color", 16
    else:
        filename, colorspace, bits = f"{name}.png", MAPS[name].colorspace if name in MAPS else "Non-Color", 8
    data = np.frombuffer(encode_image(filename, pixels, colorspace, bits=bits), np.uint8)
    return Texture(filename=filename, colorspace=colorspace, data=data)
