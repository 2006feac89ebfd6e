"""`blender --background --command panoform …`: generate panoramas and build scenes without a window.

    perceive --panorama P --save OUT.blend [--maps distance,normal,…] [--quality …] [--engine …] [--seed N] [--out DIR]
    build --maps DIR --save OUT.blend [--kind MESH | OBJECTS | DOME] [--camera-height M | --scale S]
          [--triangles N] [--texture-width W] [--no-level-floor] [--align-walls] [--no-match-panorama]
          [--lamps-as-lights] [--export OUT.glb] [--overwrite]
    batch FOLDER --out DIR [--maps …] [--quality …] [--engine …] [--seed N] [--ray auto [--workers N]] [--overwrite] …
    import --directory DIR --save OUT.blend
    generate PROMPT --out OUT.exr [--image PHOTO [--fov DEG] [--yaw DEG] …] [--height H] [--steps N] [--seed N[,N…]] …
    edit PANORAMA [PROMPT] --out OUT.exr [--mask M | --extend] [--strength S] …
    texture --blend F --object O (--reference R | --prompt T) --save OUT.blend [--size N] [--front AXIS] …

generate and edit take the options of `panoform generate` and `panoform edit`; engine and device are those of the
preferences. With --save OUT.blend they also write a scene lit by the panorama, with --sun-lamp its sun as a Sun lamp.
perceive, batch, generate, edit and texture take the settings of a preset, saved or a file, with --preset NAME|FILE;
options that are given come before it, as --no-repair.
With --connect FILE before the verb, they use a backend that runs already (panoform serve --connection-file FILE).
The exit code is 0 only if the files were written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bpy

from ..shared import maps, overwriting
from ..shared.engines import QUALITIES, engines_for
from ..shared.jobs import options as job_options
from ..shared.jobs import scene
from ..shared.protocol.errors import OutputError, PanoformError, SettingError
from .generate import command
from .perceive import batch
from .presets import command as presets_command
from .scene import export
from .texture import command as texture_command

#: Kinds of scenes; OBJECTS need a semantic map.
KINDS = ("MESH", "OBJECTS", "DOME")
_handle = None


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments, those of a preset as defaults. Raise SystemExit, and InputError for a preset."""
    parser, verbs = _parsers()
    options = parser.parse_args(arguments)
    if getattr(options, "preset", None):
        verbs[options.verb].set_defaults(**presets_command.defaults(options.verb, options.preset))
        options = parser.parse_args(arguments)
    return options


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser, and those of the verbs."""
    parser = argparse.ArgumentParser(prog="blender --background --command panoform", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--connect", type=Path, metavar="FILE", help="use the running backend with this connection file"
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    batch.add(verbs)
    perceive = verbs.add_parser("perceive", help="perceive maps from a panorama and build the scene from them")
    perceive.add_argument("--panorama", required=True, type=Path, help="EXR, HDR, PNG, JPEG, TIFF or WebP, 2:1")
    job_options.add_layer(perceive)
    perceive.add_argument("--maps", default=",".join(maps.DEFAULT_MAPS), help="default: %(default)s")
    perceive.add_argument("--quality", choices=QUALITIES, default="standard")
    perceive.add_argument("--engine", choices=engines_for("perceive"), help="default: as set in the preferences")
    perceive.add_argument("--seed", type=int, default=0)
    batch.add_repair(perceive)
    perceive.add_argument("--out", type=Path, help="also write the maps to this folder")

    build = verbs.add_parser("build", help="build a mesh or a dome from a folder of maps")
    build.add_argument("--maps", required=True, type=Path, help="folder of distance.exr, normal.exr …")
    build.add_argument("--scale", type=float, help="metres per unit of distance (default: by the camera's height)")
    build.add_argument("--lamps-as-lights", action="store_true", help="make the lamps of a mesh area lights")
    build.add_argument(
        "--export", action="append", default=[], type=Path, metavar="FILE",
        help="also export it: .glb, .gltf, .usd, .usda, .usdc, .usdz, .obj or .fbx (repeatable)",
    )  # fmt: skip

    import_ = verbs.add_parser("import", help="build a dome from a folder of maps")
    import_.add_argument("--directory", required=True, type=Path, help="folder of distance.exr, normal.exr …")

    for verb in (perceive, build):
        verb.add_argument("--kind", type=str.upper, choices=KINDS, default="MESH", help="default: MESH")
        verb.add_argument(
            "--triangles", type=int, default=scene.DEFAULT_TRIANGLES, help="at most, of a mesh (default: %(default)s)"
        )
        verb.add_argument(
            "--texture-width", type=int, default=scene.DEFAULT_TEXTURE_WIDTH, help="in pixels (default: %(default)s)"
        )
        for name, default, what in (
            ("level-floor", True, "its floor is level"),
            ("align-walls", False, "walls stand along the axes"),
        ):
            verb.add_argument(
                f"--{name}",
                action=argparse.BooleanOptionalAction,
                default=default,
                help=f"turn a mesh so that {what}",
            )
        verb.add_argument(
            "--match-panorama",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="change a model's albedo so that a mesh, under its own light, looks like the panorama",
        )
    for verb in (perceive, build, import_):
        verb.add_argument("--camera-height", type=float, default=1.6, help="metres above the floor (default: 1.6)")
        verb.add_argument("--save", required=True, type=Path, help="the .blend to write")
    command.add(verbs)
    texture_command.add(verbs)
    for name, verb in verbs.choices.items():
        if name != "batch":  # has it
            verb.add_argument("--overwrite", action="store_true", help="replace existing files of --save and --export")
        if name in presets_command.KINDS:
            presets_command.add(verb)
    return parser, verbs.choices


def run(arguments: Sequence[str]) -> int:
    """Run the command and return the exit code."""
    try:
        options = _parse(arguments)
        if options.connect:
            if options.verb == "batch":
                raise SettingError("batch runs a process of its own.", "Leave out --connect.")
            os.environ["PANOFORM_CONNECTION_FILE"] = str(options.connect.resolve())
        if options.verb == "batch":
            return batch.execute(options)
        _execute(options)
    except SystemExit as stop:  # --help, or a usage error that argparse has printed
        return int(stop.code or 0)
    except (PanoformError, RuntimeError) as error:
        text = str(error).strip()
        if isinstance(error, PanoformError) or not text.startswith("Error: "):  # Blender has printed operators' reports
            print(f"panoform: {text}", file=sys.stderr)
        return 1
    return 0


def _execute(options: argparse.Namespace) -> None:
    save = options.save and options.save.resolve()
    if save and not save.parent.is_dir():
        raise OutputError(f"There is no folder {save.parent}.", "Create it, or choose another folder.")
    _check_save(save, options)
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    match options.verb:
        case "perceive":
            command.check_seeds(options.seed)
            bpy.ops.panoform.perceive(
                source="FILE",
                filepath=str(options.panorama.resolve()),
                layer=options.layer,
                maps={name.upper() for name in maps.check_names(options.maps.split(","))},
                quality=options.quality,
                engine=options.engine.upper() if options.engine else "AUTO",
                seed=options.seed,
                repair=options.repair,
                **_scene_properties(options),
                out_directory=str(options.out.resolve()) if options.out else "",
            )
        case "build":
            exported = [path.resolve() for path in options.export]
            for path in exported:
                export.check_path(path, overwrite=options.overwrite)
            bpy.ops.panoform.build_scene(directory=str(options.maps.resolve()), **_scene_properties(options))
            if options.lamps_as_lights:
                bpy.ops.panoform.lamps_as_lights()
            for path in exported:
                bpy.ops.panoform.export_scene(filepath=str(path), overwrite=options.overwrite)
                print(f"panoform: wrote {path}")
        case "import":
            directory = str(options.directory.resolve())
            bpy.ops.panoform.import_maps(directory=directory, camera_height=options.camera_height)
        case "texture":
            texture_command.execute(options)
        case _:
            command.execute(options)
    if save:
        _check_save(save, options)  # again: the job takes a while
        bpy.ops.wm.save_as_mainfile(filepath=str(save))
        print(f"panoform: wrote {save}")


def _check_save(save: Path | None, options: argparse.Namespace) -> None:
    """Raise OutputError where the .blend would replace a file: even Panoform's own may hold the user's work."""
    if save:
        overwriting.check([save], lambda _: False, [getattr(options, "blend", None)], options.overwrite)


def _scene_properties(options: argparse.Namespace) -> dict[str, Any]:
    """Return the operators' properties of how a scene is built. Raise SettingError: Blender would clamp the values."""
    scale = getattr(options, "scale", None)  # of build only
    scene.check_scene(
        scene.SceneSettings(
            camera_height_m=options.camera_height,
            max_triangles=options.triangles,
            texture_width=options.texture_width,
            scale=scale,
        )
    )
    given = {} if scale is None else {"scale": scale}
    return given | {
        "kind": options.kind,
        "camera_height": options.camera_height,
        "detail": options.triangles,
        "texture_width": options.texture_width,
        "level_floor": options.level_floor,
        "align_walls": options.align_walls,
        "match_panorama": options.match_panorama,
    }


def register() -> None:
    global _handle
    _handle = bpy.utils.register_cli_command("panoform", run)


def unregister() -> None:
    bpy.utils.unregister_cli_command(_handle)
