"""Measure geometry that is built from a panorama's maps against scenes rendered by Cycles.

    python bench/scene_geometry.py [--methods dome,closed,torn,ours] [--soft | --perceived] [--relit] [--scenes 6]
    python bench/scene_geometry.py --methods closed,torn,ours [--soft] --relit --targets

Random scenes are rendered once into --cache: exact maps of 1024 × 512 at one point, and views from cameras 0.5 m and
1 m beside it. Each method turns the maps into surfaces, which are seen from the same cameras with albedo as emission.
"ours" gets the panorama too, as in Perceive.

Columns, for cameras at 0.5 m and at 1 m, means over the scenes; shares are of the pixels that aren't sky:
PSNR of the sRGB albedo over the pixels that the origin sees, and over all; *wrong*: share of the seen pixels whose
distance is off by more than 5 % or that are holes; *hole*: nothing there; *rubber*: over 5 % before what is there;
*beyond*: over 5 % behind it; *false*: their sum; *walled*: share of true sky that geometry covers. *p95*: 95th
percentile of the error of the distance along the origin's rays, through pixel centres and between them. *scale*: error
in percent of the metres per unit that the floor tells, where there is a floor. *relit*: PSNR of the sRGB render by the
light of one lamp, with its shadows, over the pixels that the origin sees; the true scene has the maps' albedo projected
on it, and all faces are flat: geometry alone is compared.
--targets sets "ours" beside what is asked of it: multiples or sums of the better of "closed" and "torn".
The method "truth" is the scene's own mesh with the maps' albedo projected on it: a check, and a bound of "PSNR seen".
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import bpy
import light_data
import numpy as np
import OpenImageIO as oiio
import scene_targets
import scene_truth
from quiet import quiet
from scene_truth import Maps, Truth
from scipy import ndimage

from panoform.backend.lighting import exposure
from panoform.backend.scene import build, textures
from panoform.shared.imaging import sphere
from panoform.shared.imaging.colour import srgb_from_linear

#: Relative error of the distance from which a pixel is wrong.
TOLERANCE = 0.05
#: Ratio of distances above which "torn" drops a triangle.
TEAR = 1.1
#: The views on the sheet: around and down.
SHOWN = [0, 1, 2, 3, 5]


class Surface(NamedTuple):
    """A mesh with a texture, in the panorama's frame with the camera at the origin. The sky is left out."""

    #: (V, 3) metres, (T, 3) indices.
    positions: np.ndarray
    triangles: np.ndarray
    #: (T, 3, 2): u right, v up, repeating; None projects the texture from the origin.
    uv: np.ndarray | None
    #: (H, W, 3) linear.
    albedo: np.ndarray


Method = Callable[[Maps], list[Surface]]


# --- Methods -----------------------------------------------------------------------------------------------------


def _finite(distance: np.ndarray) -> np.ndarray:
    """Replace infinite distances by the largest finite one."""
    solid = np.isfinite(distance)
    return np.where(solid, distance, distance[solid].max())


def dome(maps: Maps) -> list[Surface]:
    """Displace a sphere of 512 × 256 faces, as blender_addon/scene/dome.py does."""
    columns, rows = 512, 256
    height, width = maps.distance.shape
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0, 1, rows + 1))
    row = np.clip(v * height - 0.5, 0, height - 1)
    padded = np.pad(_finite(maps.distance), ((0, 0), (1, 1)), mode="wrap")
    distance = ndimage.map_coordinates(padded, [row, u * width + 0.5], order=1, mode="nearest")
    lon, lat = (0.5 - u) * 2 * np.pi, (0.5 - v) * np.pi
    rays = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1)
    a, b, c, d = corner, corner + columns + 1, corner + columns + 2, corner + 1
    triangles = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
    uv = np.stack([u, 1 - v], -1).reshape(-1, 2)[triangles]
    return [Surface((rays * distance[..., None]).reshape(-1, 3), triangles, uv, maps.albedo)]


def _sphere(distance: np.ndarray, albedo: np.ndarray) -> Surface:
    """Return a vertex per pixel centre, connected, wrapped, with fans to a vertex at each pole."""
    height, width = distance.shape
    positions = sphere.directions(height, width) * distance[..., None]
    poles = np.array([[0, 0, distance[0].mean()], [0, 0, -distance[-1].mean()]])
    row, column = np.meshgrid(np.arange(height - 1), np.arange(width), indexing="ij")
    # Corners as (row, column); column = width is column 0 with u beyond 1.
    a, b = np.stack([row, column], -1), np.stack([row + 1, column], -1)
    c, d = np.stack([row + 1, column + 1], -1), np.stack([row, column + 1], -1)
    corners = np.concatenate([np.stack([a, b, c], -2), np.stack([a, c, d], -2)]).reshape(-1, 3, 2)
    grid = corners[..., 0] * width + corners[..., 1] % width
    uv = np.stack([(corners[..., 1] + 0.5) / width, 1 - (corners[..., 0] + 0.5) / height], -1)
    turn = np.arange(width)
    fans, fans_uv = [], []
    for pole, edge, v in ((0, 0, 1.0), (1, height - 1, 0.0)):
        apex = np.full(width, height * width + pole)
        left, right = edge * width + turn, edge * width + (turn + 1) % width
        ring_v = np.full(width, 1 - (edge + 0.5) / height)
        parts = [
            np.stack([turn + 1.0, np.full(width, v * width)], -1) / width,
            np.stack([(turn + 0.5) / width, ring_v], -1),
            np.stack([(turn + 1.5) / width, ring_v], -1),
        ]
        order = [0, 1, 2] if pole == 0 else [0, 2, 1]
        fans.append(np.stack([(apex, left, right)[i] for i in order], -1))
        fans_uv.append(np.stack([parts[i] for i in order], 1))
    return Surface(
        np.concatenate([positions.reshape(-1, 3), poles]),
        np.concatenate([grid, *fans]),
        np.concatenate([uv, *fans_uv]),
        albedo,
    )


def closed(maps: Maps) -> list[Surface]:
    """Connect all pixels, the sky at the largest finite distance (OmniX's way)."""
    return [_sphere(_finite(maps.distance), maps.albedo)]


def torn(maps: Maps) -> list[Surface]:
    """Connect all pixels but where the distances' ratio exceeds TEAR, and without infinite ones."""
    whole = _sphere(_finite(maps.distance), maps.albedo)
    far = np.append(maps.distance.reshape(-1), [maps.distance[0].mean(), maps.distance[-1].mean()])[whole.triangles]
    low, high = far.min(1), far.max(1)
    kept = np.isfinite(high) & (high < TEAR * low)
    assert whole.uv is not None
    return [Surface(whole.positions, whole.triangles[kept], whole.uv[kept], maps.albedo)]


def ours(maps: Maps) -> list[Surface]:
    """Build the mesh of backend/scene/build.py, with textures of the maps' size."""
    picture, _ = exposure.expose(maps.panorama, "linear")
    built = build.build(maps.distance, maps.normal, picture=picture, scale=1.0)
    mesh = built.surface
    ends = np.cumsum((0, *mesh.counts))
    return [
        Surface(
            mesh.positions,
            mesh.triangles[start:end],
            mesh.uv[start:end],
            maps.albedo if index == 0 else textures.continued(maps.albedo, built.layers[index]),
        )
        for index, (start, end) in enumerate(itertools.pairwise(ends))
    ]


def perceived(truth: Truth, cache: Path) -> Maps:
    """Return the starter's maps of a scene's panorama, of half the size, in metres as their median tells.

    Albedo and panorama stay the true ones, so that the views differ by the geometry alone.
    """
    shown, _ = exposure.expose(truth.maps.panorama, "linear")
    maps = light_data.perceived(shown.astype(np.float32), cache, truth.name, scene_truth.HEIGHT // 2)
    true = truth.maps.distance[1::2, 1::2]
    solid = np.isfinite(true)
    scale = np.float32(np.median(true[solid] / maps.distance[solid]))
    return truth.maps._replace(distance=maps.distance * scale, normal=maps.normal)


def scale_error(maps: Maps, camera_height_m: float) -> float:
    """Return the error in percent of the metres per unit that the floor tells; NaN without a floor."""
    found = build.find_layers(maps.distance, maps.normal, camera_height_m=camera_height_m)
    return np.nan if found.floor is None else 100 * abs(found.scale - 1)


METHODS: dict[str, Method] = {"dome": dome, "closed": closed, "torn": torn, "ours": ours}


def soft(maps: Maps, seed: int = 0) -> Maps:
    """Return maps as a good model gives them: blurred, noisy, with a finite sky."""
    distance = maps.distance
    solid = np.isfinite(distance)
    distance = np.where(solid, distance, 1.5 * distance[solid].max())
    normal = np.where(solid[..., None], maps.normal, -sphere.directions(*distance.shape))
    distance = ndimage.gaussian_filter(distance, 1, mode=("nearest", "wrap"))
    distance = distance * (1 + 0.005 * np.random.default_rng(seed).standard_normal(distance.shape))
    normal = ndimage.gaussian_filter(normal, (1, 1, 0), mode=("nearest", "wrap", "nearest"))
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    return maps._replace(distance=distance.astype(np.float32), normal=normal.astype(np.float32))


# --- Rebuilt scenes in Cycles --------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A rebuilt scene from a scene's cameras: see Truth; `centre` and `between` from the origin."""

    distance: np.ndarray
    albedo: np.ndarray
    centre: np.ndarray
    between: np.ndarray


def _material(index: int, surface: Surface, lit: bool) -> bpy.types.Material:
    """Return a material of the surface's texture, which is also written to the AOV "albedo": emission, or matt."""
    height, width, _ = surface.albedo.shape
    image = bpy.data.images.new(f"albedo {index}", width, height, float_buffer=True, is_data=True)
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :3] = surface.albedo[::-1]
    image.pixels.foreach_set(pixels.ravel())
    image.update()
    material = bpy.data.materials.new(f"surface {index}")
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    if surface.uv is None:
        texture = nodes.new("ShaderNodeTexEnvironment")
        links.new(nodes.new("ShaderNodeNewGeometry").outputs["Position"], texture.inputs["Vector"])
    else:
        texture = nodes.new("ShaderNodeTexImage")
    texture.image = image
    shader = nodes.new("ShaderNodeBsdfDiffuse" if lit else "ShaderNodeEmission")
    output = nodes.new("ShaderNodeOutputMaterial")
    aov = nodes.new("ShaderNodeOutputAOV")
    aov.aov_name = "albedo"
    links.new(texture.outputs["Color"], shader.inputs["Color"])
    links.new(texture.outputs["Color"], aov.inputs["Color"])
    links.new(shader.outputs[0], output.inputs["Surface"])
    return material


def _add(index: int, surface: Surface, lit: bool = False) -> None:
    """Add a surface to the open file, as emission of its albedo, or matt."""
    count = len(surface.triangles)
    mesh = bpy.data.meshes.new(f"surface {index}")
    mesh.vertices.add(len(surface.positions))
    mesh.attributes["position"].data.foreach_set("vector", np.asarray(surface.positions, np.float32).ravel())
    mesh.loops.add(3 * count)
    mesh.attributes[".corner_vert"].data.foreach_set("value", np.asarray(surface.triangles, np.int32).ravel())
    mesh.polygons.add(count)
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
    mesh.polygons.foreach_set("use_smooth", np.zeros(count, bool))
    mesh.update(calc_edges=True)
    if surface.uv is not None:
        half = 0.5 / len(surface.albedo)
        uv = np.array(surface.uv, np.float32)
        # A repeating texture would blend zenith and nadir.
        uv[..., 1] = np.clip(uv[..., 1], half, 1 - half)
        mesh.uv_layers.new(name="UVMap", do_init=False).uv.foreach_set("vector", uv.ravel())
    mesh.materials.append(_material(index, surface, lit))
    bpy.context.scene.collection.objects.link(bpy.data.objects.new(mesh.name, mesh))


def see(surfaces: list[Surface], cameras: np.ndarray) -> Seen:
    """Render surfaces from the origin and from cameras (P, 3)."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for index, surface in enumerate(surfaces):
        if len(surface.triangles):
            _add(index, surface)
    scene_truth.prepare()
    depth = scene_truth.finite_distance(scene_truth.panorama(scene_truth.HEIGHT)["Depth"])[..., 0]
    views = [[scene_truth.view(at, turn) for turn in scene_truth.TURNS] for at in cameras]
    return Seen(
        np.array([[distance for distance, _ in some] for some in views]),
        np.array([[albedo for _, albedo in some] for some in views]),
        scene_truth.centres(depth),
        scene_truth.centres(depth, -1),
    )


def relight(surfaces: list[Surface], cameras: np.ndarray, lamp: np.ndarray) -> np.ndarray:
    """Render surfaces from cameras (P, 3) by the direct light of a point at `lamp` (3,), (P, 6, V, V, 3) linear."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    for index, surface in enumerate(surfaces):
        if len(surface.triangles):
            _add(index, surface, lit=True)
    scene_truth.prepare()
    light = bpy.data.lights.new("lamp", "POINT")
    light.energy, light.shadow_soft_size = 1000, 0
    thing = bpy.data.objects.new("lamp", light)
    thing.location = lamp
    bpy.context.scene.collection.objects.link(thing)
    return np.array([[scene_truth.lit_view(at, turn) for turn in scene_truth.TURNS] for at in cameras])


def place_lamp(distance: np.ndarray) -> np.ndarray:
    """Return a place (3,) beside and above the origin, well before what the distances (H, W) show there."""
    height, width = distance.shape
    row, column = height // 3, width // 3
    near = min(1.0, 0.5 * float(distance[row - 20 : row + 21, column - 20 : column + 21].min()))
    return near * sphere.directions(height, width)[row, column]


# --- Scores ----------------------------------------------------------------------------------------------------------


def _psnr(error: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean(error**2) + 1e-12)) if error.size else np.nan


def _percent(mask: np.ndarray) -> float:
    return float(100 * mask.mean()) if mask.size else np.nan


def _p95(true: np.ndarray, rebuilt: np.ndarray) -> float:
    """Return the 95th percentile of the relative error in percent, where both are finite."""
    both = np.isfinite(true) & np.isfinite(rebuilt)
    return float(100 * np.percentile(np.abs(rebuilt[both] / true[both] - 1), 95)) if both.any() else np.nan


def score(truth: Truth, seen: Seen) -> dict[str, float]:
    """Return the measures of a rebuilt scene; those of the views end with " 0.5" or " 1"."""
    out = {"p95": _p95(truth.maps.distance, seen.centre), "p95 between": _p95(truth.between, seen.between)}
    for far in sorted(set(truth.displacement.tolist())):
        some = truth.displacement == far
        true, rebuilt, visible = truth.distance[some], seen.distance[some], truth.seen[some]
        solid = np.isfinite(true)
        error = srgb_from_linear(seen.albedo[some]) - srgb_from_linear(truth.albedo[some])
        ratio = np.where(solid, rebuilt, 1) / np.where(solid, true, 1)
        hole = ~np.isfinite(rebuilt)
        rubber, beyond = ratio < 1 - TOLERANCE, (ratio > 1 + TOLERANCE) & ~hole
        wrong = hole | rubber | beyond
        values = {
            "seen dB": _psnr(error[solid & visible]),
            "all dB": _psnr(error[solid]),
            "wrong": _percent(wrong[solid & visible]),
            "hole": _percent(hole[solid]),
            "rubber": _percent(rubber[solid]),
            "beyond": _percent(beyond[solid]),
            "false": _percent(wrong[solid]),
            "walled": _percent(~hole[~solid]),
            "unseen": _percent(~visible[solid]),
        }
        out |= {f"{name} {far:g}": value for name, value in values.items()}
    return out


def relit_score(truth: Truth, true: np.ndarray, rebuilt: np.ndarray) -> dict[str, float]:
    """Return "relit" of a rebuilt scene for each displacement; the pictures are those of `relight`."""
    exposure = 0.2 / max(float(np.median(true[true > 0])), 1e-9)
    error = srgb_from_linear(np.clip(rebuilt * exposure, 0, 1)) - srgb_from_linear(np.clip(true * exposure, 0, 1))
    counted = truth.seen & np.isfinite(truth.distance)
    return {
        f"relit {far:g}": _psnr(error[some][counted[some]])
        for far in sorted(set(truth.displacement.tolist()))
        for some in (truth.displacement == far,)
    }


# --- Command line ------------------------------------------------------------------------------------------------


def _strip(albedo: np.ndarray) -> np.ndarray:
    """Put the views of the first and the last camera side by side at half size, sRGB."""
    views = np.concatenate([albedo[0, SHOWN], albedo[-1, SHOWN]])[:, ::2, ::2]
    return srgb_from_linear(np.concatenate(list(views), axis=1))


def _errors(truth: Truth, seen: Seen) -> np.ndarray:
    """Paint what is wrong in the views of `_strip`: holes black, rubber red, beyond blue, walls in the sky yellow."""
    true, rebuilt = (np.concatenate([d[0, SHOWN], d[-1, SHOWN]])[:, ::2, ::2] for d in (truth.distance, seen.distance))
    colour = np.full((*true.shape, 3), 0.8)
    solid, hole = np.isfinite(true), ~np.isfinite(rebuilt)
    colour[~solid] = 1
    colour[~solid & ~hole] = 1, 0.8, 0
    ratio = np.where(solid, rebuilt, 1) / np.where(solid, true, 1)
    colour[ratio < 1 - TOLERANCE] = 1, 0, 0
    colour[ratio > 1 + TOLERANCE] = 0, 0, 1
    colour[solid & hole] = 0
    return np.concatenate(list(colour), axis=1)


def _write(path: Path, picture: np.ndarray) -> None:
    sheet = oiio.ImageBuf(np.ascontiguousarray(picture, np.float32))
    sheet.set_write_format("uint8")
    if not sheet.write(str(path)):
        raise SystemExit(sheet.geterror())


def _table(rows: dict[str, dict[str, float]]) -> None:
    for far in ("0.5", "1"):
        views = ("seen dB", "all dB", "wrong", "hole", "rubber", "beyond", "false", "walled", "unseen", "relit")
        whole = ("p95", "p95 between", "scale", "seconds", "triangles")
        print(f"\n{far + ' m':12}" + "".join(f"{name:>9}" for name in views) + "".join(f"{name:>12}" for name in whole))
        for method, row in rows.items():
            line = "".join(f"{row.get(f'{name} {far}', np.nan):9.2f}" for name in views)
            line += "".join(f"{row.get(name, np.nan):12.3f}" for name in whole[:-1])
            print(f"{method:12}{line}{row['triangles']:12,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".cache/scene_geometry"))
    parser.add_argument("--methods", default="dome,closed,torn,ours", help="some of: truth, " + ", ".join(METHODS))
    parser.add_argument("--scenes", type=int, default=6, help=f"the first N of {len(scene_truth.SCENES)}")
    parser.add_argument("--only", help="indices of scenes, as 0,5, instead of the first N")
    parser.add_argument("--soft", action="store_true", help="blur the maps, add noise, make the sky finite")
    parser.add_argument("--perceived", action="store_true", help="the starter's maps")
    parser.add_argument("--true-normals", action="store_true", help="without bumps and smooth shading")
    parser.add_argument("--each", action="store_true", help="print each scene's table")
    parser.add_argument("--relit", action="store_true", help="render by the light of a lamp too")
    parser.add_argument("--targets", action="store_true", help="print what is asked beside what is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sheet", type=Path, help="write views: truth, then each method and where it is wrong")
    options = parser.parse_args()
    if options.targets and not {"closed", "torn", "ours"} <= set(options.methods.split(",")):
        parser.error("--targets compares ours with closed and torn")
    results: dict[str, dict[str, dict[str, float]]] = {method: {} for method in options.methods.split(",")}
    pictures = []
    for index in [int(text) for text in options.only.split(",")] if options.only else range(options.scenes):
        with quiet():
            truth = scene_truth.load(options.cache, index)
        print(f"{truth.name}: {len(truth.cameras)} cameras", file=sys.stderr, flush=True)
        maps = truth.maps._replace(normal=truth.true_normal) if options.true_normals else truth.maps
        maps = soft(maps, index) if options.soft else maps
        if options.perceived:
            with quiet():
                maps = perceived(truth, options.cache)
        pictures.append(_strip(truth.albedo))
        whole = [Surface(truth.vertices, truth.triangles, None, truth.maps.albedo)]
        lamp = place_lamp(truth.maps.distance)
        with quiet():
            true_light = relight(whole, truth.cameras, lamp) if options.relit else np.empty(0)
        for method, scores in results.items():
            start = time.perf_counter()
            surfaces = whole if method == "truth" else METHODS[method](maps)
            seconds = time.perf_counter() - start
            with quiet():
                seen = see(surfaces, truth.cameras)
            count = float(sum(len(surface.triangles) for surface in surfaces))
            scores[truth.name] = score(truth, seen) | {"triangles": count, "seconds": seconds}
            if options.relit:
                with quiet():
                    scores[truth.name] |= relit_score(truth, true_light, relight(surfaces, truth.cameras, lamp))
            if method == "ours":
                scores[truth.name]["scale"] = scale_error(maps, truth.camera_height_m)
            pictures += [_strip(seen.albedo), _errors(truth, seen)]
        if options.each:
            _table({method: scores[truth.name] for method, scores in results.items()})
    # Scenes without sky have no "walled", and a small one may have no camera at 1 m.
    means = {}
    for method, scores in results.items():
        names = dict.fromkeys(name for row in scores.values() for name in row)
        means[method] = {name: float(np.nanmean([row.get(name, np.nan) for row in scores.values()])) for name in names}
    if options.json:
        print(json.dumps({"mean": means, "scenes": results}, indent=1))
    else:
        _table(means)
        if options.targets:
            scene_targets.report(means, options.soft)
    if options.sheet:
        _write(options.sheet, np.concatenate(pictures))


if __name__ == "__main__":
    main()
