"""The command line: panoform serve · perceive · evaluate · doctor. Torch is imported only once it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from ...shared.engines import ENGINES, OFFLOADS, EngineSettings, PerceiveSettings, check_engine, check_perceive
from ...shared.maps import DEFAULT_MAPS, MAPS, check_names
from ...shared.protocol.errors import Cancelled, PanoformError
from . import generate

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. The exit code: 0 done, 1 refused or failed (told on stderr), 2 wrong usage, 130 interrupted."""
    # Its warnings about packages that FLUX does not use would stand between ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    given = _parser().parse_args(arguments)
    try:
        return given.run(given)
    except Cancelled as error:
        print(f"panoform: {error}", file=sys.stderr)
        return INTERRUPTED
    except PanoformError as error:
        print(f"panoform: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("panoform: stopped", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="panoform", description="Maps of a panorama by FLUX: distance, normals, materials."
    )
    parser.add_argument("--version", action="version", version=f"panoform {metadata.version('panoform')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    perceive = commands.add_parser("perceive", help="make maps of a panorama, into a folder")
    perceive.add_argument("panorama", type=Path, metavar="PANORAMA", help="EXR, HDR, PNG, JPEG, TIFF or WebP, 2:1")
    perceive.add_argument("--out", type=Path, required=True, metavar="DIR", help="result folder")
    perceive.add_argument(
        "--maps",
        type=_names,
        default=DEFAULT_MAPS,
        metavar="A,B",
        help=f"of {','.join(MAPS)} (default: the first five)",
    )
    _add_engine(perceive)
    perceive.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the engine's)")
    perceive.add_argument("--guidance", type=float, metavar="G", help="FLUX's guidance (default: the engine's)")
    perceive.add_argument("--seed", type=int, default=0, metavar="N", help="one seed gives one result (default: 0)")
    perceive.add_argument(
        "--height", type=int, metavar="H", help="of the maps, a multiple of 16 (default: the engine's)"
    )
    perceive.add_argument("--repair", action="store_true", help="replace NaN, infinite and negative pixels")
    perceive.add_argument("--json", action="store_true", help="print what was made as JSON on stdout")
    perceive.set_defaults(run=_perceive)

    generate.add(commands, _add_engine)

    evaluate = commands.add_parser("evaluate", help="measure an engine against ground truth, beside two baselines")
    evaluate.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="a sub-folder a scene, laid out as README.md tells"
    )
    evaluate.add_argument("--maps", type=_names, default=DEFAULT_MAPS, metavar="A,B", help="as for perceive")
    _add_engine(evaluate)
    evaluate.add_argument("--height", type=int, metavar="N", help="of the maps in pixels (default: the engine's)")
    evaluate.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the engine's)")
    evaluate.add_argument("--limit", type=int, metavar="N", help="only the first N scenes")
    evaluate.add_argument("--json", action="store_true", help="as JSON")
    evaluate.set_defaults(run=_evaluate)

    doctor = commands.add_parser("doctor", help="tell what is installed, and whether an engine can run")
    _add_engine(doctor)
    doctor.add_argument("--json", action="store_true", help="as JSON")
    doctor.set_defaults(run=_doctor)

    serve = commands.add_parser("serve", help="serve Blender (started by the add-on)")
    serve.add_argument(
        "--connection-file", type=Path, required=True, metavar="PATH", help="written with address and keys"
    )
    serve.add_argument("--parent-pipe", action="store_true", help="end when stdin ends")
    serve.set_defaults(run=_serve)
    return parser


def _add_engine(parser: argparse.ArgumentParser, default_told: str = "starter") -> None:
    defaults = EngineSettings()
    parser.add_argument(
        "--engine", default=defaults.engine, metavar="E", help=f"{' or '.join(ENGINES)} (default: {default_told})"
    )
    parser.add_argument("--model", metavar="P", help="diffusers folder, .safetensors file, or hub id of FLUX.1-dev")
    parser.add_argument("--adapters", metavar="P", help="folder or hub id of OmniX's adapters")
    parser.add_argument(
        "--device", default=defaults.device, metavar="D", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument("--dtype", default=defaults.dtype, metavar="T", help="auto, bf16, fp16 or fp32 (default: auto)")
    parser.add_argument(
        "--offload", default=defaults.offload, metavar="M", help=f"{', '.join(OFFLOADS)} (default: none)"
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _engine_settings(given: argparse.Namespace) -> EngineSettings:
    settings = EngineSettings(**{name: getattr(given, name) for name in EngineSettings.__struct_fields__})
    check_engine(settings)
    return settings


def _perceive(given: argparse.Namespace) -> int:
    from ..io import panoramas, results
    from .terminal import Terminal

    # All that can be refused without torch is refused first.
    engine = _engine_settings(given)
    settings = PerceiveSettings(
        maps=check_names(given.maps),
        num_inference_steps=given.steps,
        guidance_scale=given.guidance,
        seed=given.seed,
        height=given.height,
        repair=given.repair,
    )
    check_perceive(settings)
    panorama, encoding = panoramas.read(given.panorama, repair=given.repair)
    results.check_writable(given.out)
    with Terminal() as watch:
        watch.progress("Starting", 0, 0, 0.0, None)
        from ..perception.job import Engine

        perceived = Engine().perceive(
            panorama, encoding=encoding, source=given.panorama.name, engine=engine, settings=settings, watch=watch
        )
    results.write(given.out, perceived)
    info = perceived.info
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(info), indent=2).decode())
    if info.notice:
        print(info.notice, file=sys.stderr)
    print(f"Wrote {', '.join(perceived.maps)} to {given.out} in {info.seconds['all']:.0f} s.", file=sys.stderr)
    return 0


def _evaluate(given: argparse.Namespace) -> int:
    from ..evaluation.evaluate import evaluate, table
    from .terminal import Terminal

    engine = _engine_settings(given)
    settings = PerceiveSettings(maps=check_names(given.maps), height=given.height, num_inference_steps=given.steps)
    check_perceive(settings)
    with Terminal() as watch:
        evaluation = evaluate(given.data, engine, settings, watch, given.limit)
    print(msgspec.json.format(msgspec.json.encode(evaluation), indent=2).decode() if given.json else table(evaluation))
    return 0


def _doctor(given: argparse.Namespace) -> int:
    from .doctor import doctor

    return doctor(_engine_settings(given), as_json=given.json)


def _serve(given: argparse.Namespace) -> int:
    from ..server.server import serve

    return serve(given.connection_file, given.parent_pipe)
