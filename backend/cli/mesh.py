"""`panoform mesh`: build a textured mesh from maps, as a glTF file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from ...shared.file_errors import display_name
from ...shared.jobs.scene import (
    DEFAULT_TEXTURE_WIDTH,
    DEFAULT_TRIANGLES,
    SceneReply,
    SceneRequest,
    SceneSettings,
    check_scene,
)
from ...shared.protocol.errors import OutputError
from . import options as shared_options


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("mesh", help="build a textured mesh from maps, as a glTF file")
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="result folder, or your own maps under the same names"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".glb: metres, the floor at y = 0")
    parser.add_argument(
        "--camera-height", type=float, default=SceneSettings().camera_height_m, metavar="M",
        help="height of the panorama's camera over the floor in metres (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--triangles", type=int, default=DEFAULT_TRIANGLES, metavar="N", help="at most about N (default: %(default)s)"
    )
    parser.add_argument(
        "--texture-width", type=int, default=DEFAULT_TEXTURE_WIDTH, metavar="W",
        help="largest width of the textures in pixels (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--scale", type=float, metavar="S", help="metres per unit of distance (default: by the camera's height)"
    )
    parser.add_argument(
        "--no-level-floor", action="store_true", help="don't turn the mesh so that a tilted floor is level"
    )
    parser.add_argument("--align-walls", action="store_true", help="turn the mesh so that walls stand along the axes")
    parser.add_argument(
        "--match-panorama", action=argparse.BooleanOptionalAction, default=True,
        help="change a model's albedo so that the mesh, under its own light, looks like the panorama (default: yes)",
    )  # fmt: skip
    parser.add_argument(
        "--objects", action="store_true", help="a closed mesh for each thing in the semantic map, which is required"
    )
    parser.add_argument("--overwrite", action="store_true", help="also replace a file that isn't Panoform's")
    parser.add_argument("--json", action="store_true", help="print how the mesh was made as JSON on stdout")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from ...shared import result_folder
    from ...shared.atomic_write import atomic_write
    from ..io import maps, panoramas
    from ..lighting import exposure
    from ..scene import gltf, job

    files = maps.find_in(options.directory)
    settings = SceneSettings(
        camera_height_m=options.camera_height,
        scale=options.scale,
        max_triangles=options.triangles,
        texture_width=options.texture_width,
        level_floor=not options.no_level_floor,
        align_walls=options.align_walls,
        match_panorama=options.match_panorama and ("albedo" not in files or result_folder.is_own(files["albedo"])),
        objects=options.objects,
    )
    check_scene(settings)
    sources = list(files.values())
    check_path(options.out, sources, overwrite=options.overwrite)
    found = maps.read(options.directory)
    request = SceneRequest(files={}, settings=settings)
    reply = cast(
        "SceneReply",
        shared_options.run(
            request, lambda _, models, reporter: job.build_scene(request, found, reporter, gltf.encoded_maps)
        ),
    )
    sky = None
    if found.panorama is not None and reply.info.sky > 0:
        panorama, encoding = found.panorama
        height = min(len(panorama), settings.texture_width // 2)
        sky, _ = exposure.expose(panoramas.resize(panorama, height), encoding)
    data = gltf.encode(reply, sky)
    check_path(options.out, sources, overwrite=options.overwrite)  # again: the job takes a while
    atomic_write(options.out, data, make_folders=True)
    count = len(reply.triangles)
    if options.json:
        shared_options.print_json(
            {
                "file": display_name(options.out),
                "triangles": count,
                "settings": settings,
                **msgspec.structs.asdict(reply.info),
            }
        )
    for notice in reply.info.notices:
        print(notice, file=sys.stderr)
    size = f"{count:,} triangles, {len(data) / 1e6:.1f} MB"
    print(f"Wrote {display_name(options.out)} ({size}) in {reply.info.seconds:.0f} s.", file=sys.stderr)
    return 0


def check_path(path: Path, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Raise OutputError where the file isn't a .glb, can't be written, or would replace a source or a user's file."""
    from ...shared import overwriting
    from ..io import atomic
    from ..scene import gltf

    if path.suffix.lower() != ".glb":
        raise OutputError(f"{path.name} is not a .glb file.", "Name it .glb: binary glTF is the format written.")
    overwriting.check([path], lambda found: gltf.generator(found).startswith(gltf.GENERATOR), sources, overwrite)
    atomic.check_writable(path.parent)
