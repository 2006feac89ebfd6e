"""`panoform texture` and `panoform multiview`: views of a mesh from a reference picture or a prompt, and a texture."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from ...shared import json_file, overwriting
from ...shared.engines import Capability, EngineSettings, default_engine
from ...shared.file_errors import display_name
from ...shared.jobs import texture as contract
from ...shared.jobs.texture import (
    DEFAULT_SIZE,
    FRONTS,
    UPSCALES,
    VIEWS,
    TextureInfo,
    TextureReply,
    TextureRequest,
    TextureSettings,
    ViewsReply,
    ViewsRequest,
    check_texture,
)
from ...shared.protocol.errors import InputError
from . import options as shared_options

if TYPE_CHECKING:
    from ..io.mesh_files import MeshFile

#: Record of a result folder; it tells which files are Panoform's.
INFO_FILENAME = "texture.json"
_DEFAULTS = TextureSettings()


class _Record(msgspec.Struct, kw_only=True):
    """What the record of any version tells about the files of a result."""

    panoform: str
    task: str
    #: Name → SHA-256 of its content; earlier versions didn't record them.
    files: dict[str, str] = {}


def add(commands: Any) -> None:
    """Add both commands to the subparsers."""
    parser = commands.add_parser("texture", help="texture a mesh from a reference picture or a prompt")
    parser.add_argument("mesh", type=Path, metavar="MESH", help=".glb, .gltf, .obj or .ply")
    parser.add_argument("--views", type=Path, metavar="DIR", help="bake the views in this folder, and draw none")
    parser.add_argument(
        "--size",
        type=int,
        default=DEFAULT_SIZE,
        metavar="N",
        help="side of the texture in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--front", choices=FRONTS, default="-Y", help="axis that the front faces, Z up (default: -Y, glTF's +Z)"
    )
    parser.add_argument(
        "--view-size", type=int, metavar="N", help="side of the views in pixels (default: the engine's)"
    )
    model = default_engine("texture_from_prompt")
    _add_drawing(
        parser, "result folder: texture, views, and the textured mesh as .glb", "texture", "texture_from_prompt",
        engine_help=f"{default_engine('texture')}; {model} with --model, --adapters or --prompt",
    )  # fmt: skip
    parser.set_defaults(run=run_texture)

    parser = commands.add_parser("multiview", help="draw six views of an object from control images")
    parser.add_argument(
        "--control", type=Path, required=True, metavar="DIR",
        help=f"folder with position_V and normal_V, an image each, for V of {', '.join(VIEWS)}",
    )  # fmt: skip
    _add_drawing(parser, "result folder: the views", "draw_views", engine_help=default_engine("draw_views"))
    parser.set_defaults(run=run_views)


def _add_drawing(parser: argparse.ArgumentParser, out: str, *capabilities: Capability, engine_help: str) -> None:
    parser.add_argument("--reference", type=Path, metavar="FILE", help="picture of the object, with alpha")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what the object is")
    parser.add_argument("--negative", metavar="TEXT", help="negative prompt (default: the model's)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=out)
    shared_options.add_engine(parser, *capabilities, default=None, help=engine_help)
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the engine's)")
    parser.add_argument("--guidance", type=float, metavar="G", help="guidance (default: 3, without picture 7)")
    for name, what in (("mv", "other views"), ("reference", "the reference picture"), ("control", "the shape")):
        parser.add_argument(
            f"--{name}-scale", type=float, default=1.0, metavar="X", help=f"weight of {what} (default: 1)"
        )
    parser.add_argument("--scheduler", choices=("ddpm", "ddim"), default=_DEFAULTS.scheduler)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same views")
    parser.add_argument(
        "--upscale", choices=UPSCALES, default=_DEFAULTS.upscale, help="enlarge the views by 2 (default: %(default)s)"
    )
    parser.add_argument(
        "--upscaler",
        default="",
        metavar="FILE",
        help="image upscaler, .safetensors, for --upscale file",
    )
    parser.add_argument("--overwrite", action="store_true", help="also replace files that aren't Panoform's")
    parser.add_argument("--json", action="store_true", help="print the record of the result as JSON on stdout")


def _settings(options: argparse.Namespace, **more: Any) -> TextureSettings:
    settings = TextureSettings(
        prompt=options.prompt, negative_prompt=options.negative, num_inference_steps=options.steps,
        guidance_scale=options.guidance, mv_scale=options.mv_scale, reference_scale=options.reference_scale,
        control_scale=options.control_scale, scheduler=options.scheduler, seed=options.seed, upscale=options.upscale,
        upscaler=options.upscaler,
        **more,
    )  # fmt: skip
    check_texture(settings)
    return settings


def _engine(options: argparse.Namespace) -> EngineSettings:
    """Return the engine: without weights that the user names, the one that needs none, if it can."""
    needs_model = options.model or options.adapters or options.prompt or options.reference is None
    return shared_options.engine_settings(options, default_engine("texture_from_prompt" if needs_model else "texture"))


def _reference(options: argparse.Namespace) -> dict[str, Any]:
    from ..io import photo

    if options.reference is None:
        return {}
    return {"reference": photo.read_rgba(options.reference), "source": display_name(options.reference.name)}


def run_texture(options: argparse.Namespace) -> int:
    """Run the command `texture`."""
    from ..io import mesh_files

    settings = _settings(options, texture_size=options.size, view_size=options.view_size, front=options.front)
    views = None if options.views is None else _view_files(options.views)
    # Given views that are in the result folder stay as they are.
    keeps_views = options.views is not None and options.out.is_dir() and options.views.samefile(options.out)
    names = [f"{options.mesh.stem}.glb", "texture.png", *([] if keeps_views else _view_names()), INFO_FILENAME]
    given = [] if options.views is None else [_only(options.views, name) for name in VIEWS]
    sources = [*mesh_files.files(options.mesh), options.reference, *given, *shared_options.weights(options)]
    _check_folder(options.out, names, sources, options.overwrite)
    mesh, notice = _with_uv(mesh_files.read(options.mesh), options.mesh.name)
    assert mesh.uv is not None
    request = TextureRequest(
        corners=mesh.corners, normals=mesh.normals, uv=mesh.uv, views=views, **_reference(options),
        engine=_engine(options), settings=settings,
    )  # fmt: skip
    contract.check(request)
    if notice:
        print(notice, file=sys.stderr)
    reply = cast("TextureReply", shared_options.run(request))
    texture = reply.texture.tobytes()
    files = {names[0]: mesh_files.encode_glb(mesh, texture, options.mesh.stem), names[1]: texture}
    return _write(options, files, {} if keeps_views else reply.views, reply.info, sources)


def _with_uv(mesh: MeshFile, name: str) -> tuple[MeshFile, str]:
    """Return the mesh with its own UV map if it can be used, else with a new one and a notice. Raise InputError."""
    from ..texturing.unwrap import unwrap

    contract.check_count(len(mesh.corners))
    contract.check_finite("corners", mesh.corners)
    contract.check_area(mesh.corners)
    reason = f"{name} has a mesh without UV map."
    if mesh.uv is not None:
        contract.check_finite("uv", mesh.uv)
        try:
            contract.check_uv(mesh.uv, mesh.corners)
            contract.check_overlap(mesh.uv.clip(0, 1))
            return mesh, ""
        except InputError as error:
            reason = error.message
    return dataclasses.replace(mesh, uv=unwrap(mesh.corners)), f"{reason} The result has a new UV map."


def run_views(options: argparse.Namespace) -> int:
    """Run the command `multiview`."""
    settings = _settings(options)
    controls = [_only(options.control, f"{kind}_{view}") for view in VIEWS for kind in ("position", "normal")]
    sources = [options.reference, *controls, *shared_options.weights(options)]
    _check_folder(options.out, [*_view_names(), INFO_FILENAME], sources, options.overwrite)
    request = ViewsRequest(
        control={name: _control(options.control, name) for name in VIEWS}, **_reference(options),
        engine=shared_options.engine_settings(options, default_engine("draw_views")), settings=settings,
    )  # fmt: skip
    contract.check_views(request)
    reply = cast("ViewsReply", shared_options.run(request))
    return _write(options, {}, reply.views, reply.info, sources)


def _view_names() -> list[str]:
    return [f"{name}.png" for name in VIEWS]


def _view_files(folder: Path) -> dict[str, np.ndarray]:
    """Return the contents of the views' files. Raise InputError where one is missing."""
    return {name: np.fromfile(_only(folder, name), np.uint8) for name in VIEWS}


def _control(folder: Path, view: str) -> np.ndarray:
    """Read the control image of a view, (H, H, 6) float32 in [0, 1]. Raise InputError."""
    from ..io import data_image

    parts = [data_image.read(_only(folder, f"{kind}_{view}")) for kind in ("position", "normal")]
    if parts[0].shape != parts[1].shape:
        raise InputError(f"The position and normal of {view} are of different sizes.", "Render them in one size.")
    return np.concatenate(parts, axis=-1)


def _only(folder: Path, stem: str) -> Path:
    """Return the image `stem` in a folder. Raise InputError unless there is exactly one."""
    found = sorted(path for path in folder.glob(f"{stem}.*") if path.suffix.lower() != ".json")
    if len(found) != 1:
        state = f"{len(found)} files called" if found else "no file called"
        raise InputError(f"There is {state} {stem}.* in {folder}.", "Give one image each.")
    return found[0]


def _check_folder(folder: Path, names: Iterable[str], sources: Iterable[Path | None], overwrite: bool) -> None:
    """Raise OutputError where results would replace a source, or files that aren't Panoform's, or can't be written."""
    from ..io import atomic
    from ..scene import gltf

    def is_own(path: Path) -> bool:
        record = _record(folder)
        if record is None or path.name == INFO_FILENAME:
            return record is not None
        if record.files:
            return record.files.get(path.name) == overwriting.sha256(path)
        return path.suffix != ".glb" or gltf.generator(path).startswith(gltf.GENERATOR)

    overwriting.check((folder / name for name in names), is_own, sources, overwrite)
    atomic.check_writable(folder)


def _record(folder: Path) -> _Record | None:
    """Return the record of the result in a folder; None if there is none."""
    try:
        return json_file.read(folder / INFO_FILENAME, _Record)
    except (OSError, ValueError):
        return None


def _write(
    options: argparse.Namespace,
    files: Mapping[str, bytes],
    views: Mapping[str, np.ndarray],
    info: TextureInfo,
    sources: Sequence[Path | None],
) -> int:
    """Write the result folder, all files or none, and report it."""
    from ..io import atomic

    contents = {**files, **{f"{name}.png": data.tobytes() for name, data in views.items()}}
    earlier = _record(options.out)
    digests = {} if earlier is None else dict(earlier.files)  # of files that are not written again
    digests |= {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    record = msgspec.to_builtins(info) | {"files": digests}
    contents[INFO_FILENAME] = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    _check_folder(options.out, contents, sources, options.overwrite)  # again: the job takes a while
    with atomic.writing(options.out, last=INFO_FILENAME) as draft:
        for name, data in contents.items():
            (draft / name).write_bytes(data)
    if options.json:
        shared_options.print_json(info)
    for notice in info.notices:
        print(notice, file=sys.stderr)
    written = display_name(", ".join([*files, f"the views to {options.out}"]))
    print(f"Wrote {written} in {info.seconds:.0f} s.", file=sys.stderr)
    return 0
