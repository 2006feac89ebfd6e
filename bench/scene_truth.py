"""Ground truth for scene_geometry.py: random scenes, their maps at one point, and exact views from beside it.

Everything is in the panorama's frame (shared/imaging/sphere.py) in metres, with the panorama's camera at the origin.
Geometry is sampled at pixel centres; albedo is the mean over a grid of OVERSAMPLING² points of each pixel.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import bpy
import numpy as np
import OpenImageIO as oiio
from mathutils import Euler, Vector
from mathutils.bvhtree import BVHTree

from panoform.backend.training.scenes import outdoors, second
from panoform.backend.training.scenes.build import Builder
from panoform.backend.training.scenes.cell import cell
from panoform.backend.training.scenes.hall import hall
from panoform.backend.training.scenes.room import room

#: Makers and seeds of the scenes. The first six are four inside and two outdoors.
SCENES: tuple[tuple[Callable[[Builder], float], int], ...] = (
    (room, 5), (hall, 4), (outdoors.courtyard, 4), (room, 7), (cell, 3), (outdoors.landscape, 4),
    (second.attic, 2), (outdoors.street, 3), (room, 11), (second.terrace, 1), (second.rotunda, 2), (second.deck, 2),
)  # fmt: skip
HEIGHT, VIEW = 512, 256
#: Odd, so that one of the points is the pixel's centre.
OVERSAMPLING = 3
#: Displacements of the cameras in metres.
DISPLACEMENTS = (0.5, 0.5, 1.0, 1.0)
CLEARANCE_M = 0.25
#: Cameras are preferred that the panorama shows most of what they see.
MOST_UNSEEN = 0.04
#: Yaw and pitch of a camera's six views.
TURNS = (*((np.pi / 2 * k, 0.0) for k in range(4)), (0.0, np.pi / 2), (0.0, -np.pi / 2))
#: Cycles' depth is 1e10 where a ray hits nothing.
_FAR_M = 1e6


class Maps(NamedTuple):
    """What a panorama's maps tell a method."""

    #: (H, W) metres, inf for sky (finite in soft maps).
    distance: np.ndarray
    #: (H, W, 3) unit world normals towards the camera, 0 for sky (−ray in soft maps).
    normal: np.ndarray
    #: (H, W, 3) linear, and the same encoded as sRGB.
    albedo: np.ndarray
    albedo_srgb: np.ndarray
    #: (H, W, 3) linear light.
    panorama: np.ndarray
    #: (H, W) index in training.scenes.build.CLASSES; 0 for sky.
    label: np.ndarray


class Truth(NamedTuple):
    """A scene: maps, views from P displaced cameras, and the mesh."""

    name: str
    maps: Maps
    #: (H, W, 3) normals without bumps and smooth shading.
    true_normal: np.ndarray
    #: (H, W) distance along the rays a third of a pixel left of and above the centres.
    between: np.ndarray
    #: (P, 3) cameras, and the distance of each from the origin.
    cameras: np.ndarray
    displacement: np.ndarray
    #: (P, 6, V, V) distance along the rays, inf for sky; (…, 3) linear albedo; whether the origin sees the point.
    distance: np.ndarray
    albedo: np.ndarray
    seen: np.ndarray
    #: (V, 3) and (T, 3): all that the scene consists of.
    vertices: np.ndarray
    triangles: np.ndarray
    #: Height of the panorama's camera over the floor.
    camera_height_m: float


def prepare(aovs: tuple[str, ...] = ("albedo",)) -> None:
    """Set up the open file for renders of geometry and colour without light."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.threads_mode, scene.render.threads = "FIXED", 1
    scene.render.use_persistent_data = True
    settings = scene.render.image_settings
    settings.file_format, settings.color_depth, settings.exr_codec = "OPEN_EXR_MULTILAYER", "32", "NONE"
    scene.view_settings.view_transform = "Raw"
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.max_bounces = "CPU", 1, 0
    cycles.use_denoising = cycles.use_adaptive_sampling = False
    # One sample at the pixel's centre.
    cycles.pixel_filter_type, cycles.filter_width = "GAUSSIAN", 0.01
    layer = scene.view_layers[0]
    layer.use_pass_z = True
    for name in aovs:
        aov = layer.aovs.add()
        aov.name, aov.type = name, "COLOR"
    camera = bpy.data.cameras.new("camera")
    camera.clip_start, camera.clip_end = 0.01, 1e5
    camera.angle, camera.panorama_type = np.pi / 2, "EQUIRECTANGULAR"
    scene.camera = bpy.data.objects.new("camera", camera)
    scene.collection.objects.link(scene.camera)


def render(width: int, height: int) -> dict[str, np.ndarray]:
    """Render through the scene's camera: layer → (height, width, C) channels in the order of their names."""
    scene = bpy.context.scene
    scene.render.resolution_x, scene.render.resolution_y = width, height
    with tempfile.TemporaryDirectory() as folder:
        scene.render.filepath = str(Path(folder) / "passes.exr")
        bpy.ops.render.render(write_still=True)
        image = oiio.ImageInput.open(scene.render.filepath)
        names, pixels = image.spec().channelnames, image.read_image("float")
        image.close()
    layers: dict[str, dict[str, np.ndarray]] = {}
    for index, name in enumerate(names):
        _, layer, channel = name.split(".")
        layers.setdefault(layer, {})[channel] = pixels[..., index]
    # As R, G, B and X, Y, Z; A is dropped.
    return {
        layer: np.stack([channels[key] for key in ("RGB" if "R" in channels else sorted(channels))], -1)
        for layer, channels in layers.items()
    }


def _means(pixels: np.ndarray) -> np.ndarray:
    """Average blocks of OVERSAMPLING² pixels."""
    height, width, channels = pixels.shape
    k = OVERSAMPLING
    return pixels.reshape(height // k, k, width // k, k, channels).mean((1, 3))


def _aim_panorama() -> None:
    camera = bpy.context.scene.camera
    camera.data.type, camera.location, camera.rotation_euler = "PANO", (0, 0, 0), (np.pi / 2, 0, -np.pi / 2)


def panorama(height: int) -> dict[str, np.ndarray]:
    """Render an oversampled panorama from the origin; see `render`."""
    _aim_panorama()
    return render(2 * height * OVERSAMPLING, height * OVERSAMPLING)


def finite_distance(depth: np.ndarray) -> np.ndarray:
    """Turn Cycles' depth where a ray hits nothing into inf."""
    return np.where(depth < _FAR_M, depth, np.inf).astype(np.float32)


def centres(pixels: np.ndarray, offset: int = 0) -> np.ndarray:
    """Return the samples at the pixels' centres, or `offset` points right of and below them."""
    first = OVERSAMPLING // 2 + offset
    return pixels[first::OVERSAMPLING, first::OVERSAMPLING]


def _rotation(turn: tuple[float, float]) -> Euler:
    yaw, pitch = turn
    return Euler((np.pi / 2 + pitch, 0, yaw - np.pi / 2))


def view_rays(turn: tuple[float, float]) -> np.ndarray:
    """Return a view's rays with depth 1 along its axis, (V, V, 3)."""
    place = (np.arange(VIEW) + 0.5) / VIEW * 2 - 1
    x, y = np.meshgrid(place, -place)
    return np.stack([x, y, np.full_like(x, -1)], -1) @ np.array(_rotation(turn).to_matrix()).T


def view(at: np.ndarray, turn: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Render a square view of 90°: distance along the rays (V, V), inf for nothing, and linear albedo (V, V, 3)."""
    camera = bpy.context.scene.camera
    camera.data.type, camera.location, camera.rotation_euler = "PERSP", tuple(at), _rotation(turn)
    passes = render(VIEW * OVERSAMPLING, VIEW * OVERSAMPLING)
    depth = finite_distance(centres(passes["Depth"])[..., 0])
    albedo = _means(np.clip(passes["albedo"], 0, 1))
    return (depth * np.linalg.norm(view_rays(turn), axis=-1)).astype(np.float32), albedo.astype(np.float32)


def lit_view(at: np.ndarray, turn: tuple[float, float]) -> np.ndarray:
    """Render a square view of 90° in the light of the open file's lamps, (V, V, 3) linear."""
    camera = bpy.context.scene.camera
    camera.data.type, camera.location, camera.rotation_euler = "PERSP", tuple(at), _rotation(turn)
    return render(VIEW, VIEW)["Combined"]


def _collect() -> tuple[np.ndarray, np.ndarray]:
    """Return all meshes of the open file as one: vertices (V, 3) and triangles (T, 3)."""
    graph = bpy.context.evaluated_depsgraph_get()
    vertices, triangles, count = [], [], 0
    for thing in bpy.context.scene.objects:
        if thing.type != "MESH":
            continue
        mesh = thing.evaluated_get(graph).to_mesh()
        points = np.empty(3 * len(mesh.vertices), np.float32)
        mesh.vertices.foreach_get("co", points)
        mesh.calc_loop_triangles()
        corners = np.empty(3 * len(mesh.loop_triangles), np.int32)
        mesh.loop_triangles.foreach_get("vertices", corners)
        matrix = np.array(thing.matrix_world)
        vertices.append(points.reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3])
        triangles.append(corners.reshape(-1, 3) + count)
        count += len(mesh.vertices)
    return np.concatenate(vertices).astype(np.float32), np.concatenate(triangles)


def _unseen(tree: BVHTree, camera: Vector, directions: np.ndarray) -> float:
    """Return the share of what lies in `directions` (N, 3) from the camera that the origin doesn't see."""
    hits = [tree.ray_cast(camera, ray)[0] for ray in directions.tolist()]
    points = np.array([hit for hit in hits if hit is not None])
    return float(1 - _seen(tree, points).mean()) if len(points) else 0.0


def place_cameras(tree: BVHTree, rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Choose a camera for each of DISPLACEMENTS that the origin sees, clear of objects: (P, 3), NaN where none is.

    The first with little unseen is taken, or the one with the least. Return the shares of unseen, too.
    """
    origin, out, shares = Vector((0, 0, 0)), np.full((len(DISPLACEMENTS), 3), np.nan), []
    directions = rng.normal(size=(1000, 3))
    for index, far in enumerate(DISPLACEMENTS):
        least = 1.0
        for _ in range(60):
            angle = rng.uniform(0, 2 * np.pi)
            ray = Vector((np.cos(angle), np.sin(angle), 0))
            camera = origin + ray * far
            if tree.ray_cast(origin, ray, far)[3] is None and (tree.find_nearest(camera)[3] or 0) > CLEARANCE_M:
                share = _unseen(tree, camera, directions)
                if share < least:
                    least, out[index] = share, camera
                if share < MOST_UNSEEN:
                    break
        shares.append(least)
    return out, shares


def _seen(tree: BVHTree, points: np.ndarray) -> np.ndarray:
    """Tell which points (N, 3) the origin sees."""
    length = np.linalg.norm(points, axis=-1)
    origin = Vector((0, 0, 0))
    hits = [tree.ray_cast(origin, point)[3] for point in points.tolist()]
    first = np.array([np.inf if hit is None else hit for hit in hits])
    return first >= length * 0.998 - 0.002


def _lit(samples: int) -> np.ndarray:
    """Render the lit panorama, (H, W, 3) linear."""
    scene = bpy.context.scene
    cycles = scene.cycles
    kept = cycles.samples, cycles.max_bounces, cycles.pixel_filter_type, cycles.filter_width
    cycles.samples, cycles.max_bounces, cycles.use_denoising = samples, 4, True
    cycles.pixel_filter_type, cycles.filter_width, cycles.sample_clamp_indirect = "BLACKMAN_HARRIS", 1.5, 8.0
    scene.world.cycles.sampling_method, scene.world.cycles.sample_map_resolution = "MANUAL", 128
    _aim_panorama()
    light = render(2 * HEIGHT, HEIGHT)["Combined"]
    cycles.samples, cycles.max_bounces, cycles.pixel_filter_type, cycles.filter_width = kept
    cycles.use_denoising = False
    return np.clip(light, 0, 60000)


def _drop_shading() -> None:
    """Replace the surfaces by emission of their base colour, which renders several times as fast."""
    for material in bpy.data.materials:
        if not material.use_nodes:
            continue
        nodes, links = material.node_tree.nodes, material.node_tree.links
        base = next(node for node in nodes if node.type == "BSDF_PRINCIPLED").inputs["Base Color"]
        glow = nodes.new("ShaderNodeEmission")
        if base.is_linked:
            links.new(base.links[0].from_socket, glow.inputs["Color"])
        else:
            glow.inputs["Color"].default_value = base.default_value
        output = next(node for node in nodes if node.type == "OUTPUT_MATERIAL")
        links.new(glow.outputs["Emission"], output.inputs["Surface"])


def _add_true_normals() -> None:
    for material in bpy.data.materials:
        if material.use_nodes:
            nodes, links = material.node_tree.nodes, material.node_tree.links
            output = nodes.new("ShaderNodeOutputAOV")
            output.aov_name = "true_normal"
            links.new(nodes.new("ShaderNodeNewGeometry").outputs["True Normal"], output.inputs["Color"])


def make(index: int, light_samples: int = 3) -> dict[str, np.ndarray]:
    """Build and render scene `index`. Return what is stored of it."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    maker, seed = SCENES[index]
    rng = np.random.default_rng(seed)
    height = maker(Builder(rng))
    _add_true_normals()
    prepare(("albedo", "true_normal"))
    scene = bpy.context.scene
    for thing in scene.objects:
        thing.location.z -= height
    bpy.context.view_layer.update()
    scene.view_layers[0].use_pass_normal = scene.view_layers[0].use_pass_object_index = True
    vertices, triangles = _collect()
    tree = BVHTree.FromPolygons(vertices.tolist(), triangles.tolist(), all_triangles=True)
    out = {"panorama": _lit(light_samples)}
    for thing in scene.objects:
        thing.hide_render = thing.type == "LIGHT"
    scene.world = None

    passes = render(2 * HEIGHT, HEIGHT)
    normals = {"normal": passes["Normal"], "true_normal": passes["true_normal"]}
    index_layer = next(name for name in passes if name in ("IndexOB", "Object Index"))
    label = np.rint(passes[index_layer][..., 0])
    scene.view_layers[0].use_pass_normal = scene.view_layers[0].use_pass_object_index = False
    _drop_shading()
    passes = panorama(HEIGHT)
    distance = finite_distance(passes["Depth"])[..., 0]
    out |= {"distance": centres(distance), "between": centres(distance, -1)}
    sky = ~np.isfinite(out["distance"])
    for name, normal in normals.items():
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        out[name] = np.where(sky[..., None] | (length < 1e-3), 0, normal / np.maximum(length, 1e-3))
    out["albedo"] = _means(np.clip(passes["albedo"], 0, 1))
    out["label"] = np.where(sky, 0, label).astype(np.uint8)

    cameras, _ = place_cameras(tree, rng)
    found = np.isfinite(cameras[:, 0])
    cameras = cameras[found]
    views = [[view(at, turn) for turn in TURNS] for at in cameras]
    depth = np.array([[distance for distance, _ in some] for some in views])
    rays = np.array([view_rays(turn) for turn in TURNS])
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    solid = np.isfinite(depth)
    points = cameras[:, None, None, None] + rays * np.where(solid, depth, 1)[..., None]
    seen = np.zeros(depth.shape, bool)
    seen[solid] = _seen(tree, points[solid])
    out |= {
        "cameras": cameras, "displacement": np.array(DISPLACEMENTS)[found], "view_distance": depth, "view_seen": seen,
        "view_albedo": np.array([[albedo for _, albedo in some] for some in views]),
        "vertices": vertices, "triangles": triangles, "camera_height_m": np.array(height),
    }  # fmt: skip
    return {key: value.astype(np.float32) if value.dtype == np.float64 else value for key, value in out.items()}


def load(cache: Path, index: int) -> Truth:
    """Return scene `index`, from `cache` or rendered and kept there."""
    from panoform.shared.imaging.colour import srgb_from_linear

    name = f"{index:02d}-{SCENES[index][0].__name__}"
    path = cache / f"{name}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        with draft.open("wb") as file:
            np.savez_compressed(file, **make(index))
        draft.rename(path)
    with np.load(path) as file:
        data = dict(file)
    albedo = data["albedo"]
    maps = Maps(
        data["distance"], data["normal"], albedo, srgb_from_linear(albedo), data["panorama"], data["label"]
    )  # fmt: skip
    return Truth(
        name, maps, data["true_normal"], data["between"], data["cameras"], data["displacement"],
        data["view_distance"], data["view_albedo"], data["view_seen"], data["vertices"], data["triangles"],
        float(data["camera_height_m"]),
    )  # fmt: skip
