"""Time the stages of `panoform mesh` on maps of 4096 × 2048.

    python bench/mesh_stages.py [DIR] [--height 2048]

DIR holds maps; without it, those of a room whose geometry is known in closed form are made: blurred, noisy, with a
window. The command runs twice in processes of its own. First without threads, which gives the processor time of each
stage; then with them, which gives how long each takes. Both are printed in seconds and as shares of the whole; stages
that lie in others are indented. Calls of a stage that run at the same time count once in its wall time; stages that run
beside each other add up to more than the whole. What else the machine does changes all of them: compare shares.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

#: Module of the backend and function.
STAGES = (
    ("io.maps", "read"), ("scene.job", "build_scene"), ("scene.normals", "turn"), ("scene.parts", "visible"),
    ("scene.build", "find_layers"), ("scene.build", "_sampled"), ("scene.planes", "fit"),
    ("scene.regularise", "regularise"), ("scene.regularise", "sharpen_edges"), ("scene.regularise", "smooth"),
    ("scene.flatten", "flatten"), ("scene.sky", "find"), ("scene.skyline", "refine"), ("scene.floor", "find"),
    ("scene.layers", "hidden"), ("scene.layers", "link"), ("scene.build", "mesh"), ("scene.surface", "weld"),
    ("scene.surface", "Blocks"), ("scene.surface", "triangulate"), ("scene.light", "find"),
    ("scene.normals", "confidence"), ("scene.parts", "encode"), ("scene.gltf", "encode"),
)  # fmt: skip


class OneByOne:
    """Runs what an executor would run in threads at once, in the caller's thread."""

    def __init__(self, *_: Any) -> None: ...

    def __enter__(self) -> OneByOne:
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_result(function(*arguments))
        return future

    def map(self, function: Callable[..., Any], *items: Any) -> list[Any]:
        return [function(*some) for some in zip(*items, strict=True)]


def make(folder: Path, height: int) -> None:
    """Write maps of a room of 8 × 6 × 3 m with a ball and a window, and its panorama."""
    from panoform.backend.io import results
    from panoform.backend.io.encoding import encode_image
    from panoform.shared.imaging import sphere
    from panoform.shared.maps import MAPS, PANORAMA_FILENAME

    rays = sphere.directions(height, 2 * height)
    low, high = np.array([-3.0, -2.5, -1.6]), np.array([5.0, 3.5, 1.4])
    with np.errstate(divide="ignore"):
        reached = np.where(rays > 0, high, low) / rays
    axis = reached.argmin(axis=-1)
    distance = reached.min(axis=-1)
    normal = -np.sign(rays) * (axis[..., None] == np.arange(3))
    ball, radius = np.array([2.0, 0.5, -1.0]), 0.6
    along = rays @ ball
    inside = along**2 - (ball @ ball - radius**2)
    hit = (inside > 0) & (along > 0)
    distance[hit] = along[hit] - np.sqrt(inside[hit])
    normal[hit] = (rays[hit] * distance[hit, None] - ball) / radius
    window = ~hit & (axis == 0) & (rays[..., 0] > 0) & (np.abs(rays * distance[..., None])[..., 1:] < 0.8).all(axis=-1)
    distance[window], normal[window] = 30, -rays[window]
    distance = ndimage.gaussian_filter(distance, height / 512, mode=("nearest", "wrap"))
    distance *= 1 + 0.005 * np.random.default_rng(0).standard_normal(distance.shape)
    stripes = (0.5 + 0.3 * np.sin(40 * rays[..., :1]) * np.sin(30 * rays[..., 1:2])).astype(np.float32)
    albedo = stripes * np.array([1, 0.9, 0.8], np.float32)
    maps = {
        "distance": distance[..., None],
        "normal": normal,
        "albedo": albedo,
        "roughness": stripes,
        "metallic": stripes / 4,
    }
    for name, data in results.encode_maps({name: pixels.astype(np.float32) for name, pixels in maps.items()}).items():
        (folder / MAPS[name].filename).write_bytes(data)
    picture = np.where(window[..., None], 1, albedo * (0.6 + 0.4 * normal[..., 2:]))
    (folder / PANORAMA_FILENAME).write_bytes(encode_image(PANORAMA_FILENAME, picture, "sRGB", bits=8))


def measure(folder: Path, threads: bool) -> None:
    """Run the command, and print calls (name, depth, seconds of processor time, begin and end in seconds) as JSON."""
    if not threads:
        concurrent.futures.ThreadPoolExecutor = OneByOne  # type: ignore[misc,assignment]
    began = time.perf_counter(), time.process_time()
    from importlib import import_module

    from panoform.backend.cli.main import main

    calls: list[list[Any]] = []
    depth = 0

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal depth
            call = [name, depth, 0.0, 0.0, 0.0]
            calls.append(call)
            depth += 1
            start = time.process_time(), time.perf_counter()
            result = function(*arguments, **options)
            call[2:] = time.process_time() - start[0], start[1], time.perf_counter()
            depth -= 1
            return result

        return run

    for module, name in STAGES:
        home = import_module(f"panoform.backend.{module}")
        setattr(home, name, timed(f"{module.split('.')[-1]}.{name}", getattr(home, name)))
    calls.append(["imports", 0, time.process_time() - began[1], began[0], time.perf_counter()])
    with tempfile.TemporaryDirectory() as out:
        status = main(["mesh", str(folder), "--out", str(Path(out) / "mesh.glb")])
    calls.append(["whole", 0, time.process_time() - began[1], began[0], time.perf_counter()])
    if status:
        raise SystemExit(status)
    print(json.dumps(calls))


def run(folder: Path, threads: bool) -> list[list[Any]]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--measure", "threads" if threads else "serial"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of these spans (begin, end) lasts."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", metavar="DIR")
    parser.add_argument("--height", type=int, default=2048, help="rows of the maps that are made")
    parser.add_argument("--measure", choices=("serial", "threads"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.measure == "threads")
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            make(folder, options.height)
        serial, threads = run(folder, threads=False), run(folder, threads=True)
    names = dict.fromkeys(call[0] for call in serial)
    walls = {name: covered((begin, end) for other, _, _, begin, end in threads if other == name) for name in names}
    whole = serial[-1][2], walls["whole"]
    print(f"{'stage':32}{'CPU':>8}{'share':>8}{'wall':>10}{'share':>8}")
    for name in names:
        some = [call for call in serial if call[0] == name]
        seconds, wall = sum(call[2] for call in some), walls[name]
        print(
            f"{'  ' * min(call[1] for call in some) + name:32}{seconds:7.2f}s{seconds / whole[0]:8.0%}"
            f"{wall:9.2f}s{wall / whole[1]:8.0%}"
        )


if __name__ == "__main__":
    main()
