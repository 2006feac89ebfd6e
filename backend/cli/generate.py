"""`panoform generate`: generate panoramas from a prompt or around a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from ...shared import panorama_file
from ...shared.engines import default_engine
from ...shared.file_errors import display_name
from ...shared.jobs import options as job_options
from ...shared.jobs.generate import (
    METHODS,
    FileFormat,
    GenerateReply,
    GenerateRequest,
    GenerateSettings,
    Recipe,
    View,
    check_generate,
    check_view,
)
from ...shared.protocol.errors import OutputError, SettingError
from ...shared.protocol.messages import JobRequest
from . import options as shared_options


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = job_options.add_generate(commands)
    parser.add_argument(
        "--recipe", type=Path, metavar="JSON", help="generate the panorama of this recipe again, with its settings"
    )
    defaults = {name: default_engine(name) for name in ("text_to_panorama", "outpaint")}
    add_output(parser, f"{defaults['text_to_panorama']} for a prompt, {defaults['outpaint']} for a picture")
    parser.set_defaults(run=run)


def add_output(parser: argparse.ArgumentParser, engine_help: str) -> None:
    """Add the options of generate and edit that only this command line has."""
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help=".exr (linear HDR) or .png (sRGB)")
    parser.add_argument("--method", default=GenerateSettings().method, metavar="M", help=f"one of {', '.join(METHODS)}")
    shared_options.add_engine(parser, "text_to_panorama", "outpaint", "edit", default=None, help=engine_help)
    parser.add_argument(
        "--overwrite", action="store_true", help="also replace files that aren't Panoform's (never a source)"
    )
    parser.add_argument("--json", action="store_true", help="print the recipes as JSON on stdout")


def settings_of(options: argparse.Namespace, **more: Any) -> GenerateSettings:
    """Return the settings from the options. Raise SettingError if they are invalid."""
    settings = GenerateSettings(
        prompt=options.prompt, negative_prompt=options.negative, true_cfg_scale=options.true_cfg,
        method=options.method, lora=options.lora, trigger=options.trigger, height=options.height,
        num_inference_steps=options.steps, guidance_scale=options.guidance, shift=options.shift,
        measure_light=options.measure_light, seeds=options.seed, **more,
    )  # fmt: skip
    check_generate(settings)
    return settings


def file_format(path: Path) -> FileFormat:
    """Return the format of the output file."""
    return "png" if path.suffix.lower() == ".png" else "exr"


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from ..io import generated

    request = _request_from_recipe(options) if options.recipe else _request(options)
    seeds = request.settings.seeds
    sources = (options.image, options.recipe, *shared_options.weights(options))
    generated.check_path(options.out, seeds, *sources, overwrite=options.overwrite)
    return run_and_write(request, options, seeds, sources)


def _request(options: argparse.Namespace) -> GenerateRequest:
    from ..io import photo

    hdr = options.out.suffix.lower() == ".exr" and not options.ldr
    settings = settings_of(options, hdr=hdr, sun_strength=options.sun_strength, sun_threshold=options.sun_threshold)
    engine = shared_options.engine_settings(
        options, default_engine("outpaint" if options.image else "text_to_panorama")
    )
    view = View(fov=options.fov, yaw=options.yaw, pitch=options.pitch, roll=options.roll)
    if not options.image:
        return GenerateRequest(view=view, file_format=file_format(options.out), engine=engine, settings=settings)
    picture = photo.read(options.image)
    if view.fov is None:
        view = msgspec.structs.replace(view, fov=picture.fov)
    check_view(view)
    if view.fov is None:
        raise SettingError(
            f"The EXIF data of {options.image.name} has no field of view.", "Give it in degrees (--fov)."
        )
    return GenerateRequest(
        picture=picture.pixels, view=view, source=display_name(options.image.name),
        file_format=file_format(options.out), engine=engine, settings=settings,
    )  # fmt: skip


def _request_from_recipe(options: argparse.Namespace) -> GenerateRequest:
    """Return the request that the recipe records."""
    from ..io import generated, photo

    recipe = panorama_file.read_recipe(options.recipe)
    if recipe.kind == "edit":
        raise SettingError(
            f"{options.recipe.name} is the recipe of an edit.",
            "Use panoform edit with its panorama, mask and settings.",
        )
    if recipe.encoding == "linear" and options.out.suffix.lower() != ".exr":
        raise OutputError("The recipe's panorama is linear, which a PNG can't store.", "Use an .exr output file.")
    given = {name: _weights(options, recipe, name) for name in ("model", "adapters", "lora")}
    request = GenerateRequest(
        view=recipe.view or View(), file_format=file_format(options.out),
        engine=msgspec.structs.replace(
            recipe.engine, model=given["model"], adapters=given["adapters"], record_paths=options.record_paths
        ),
        settings=msgspec.structs.replace(recipe.settings, lora=given["lora"]),
    )  # fmt: skip
    if recipe.kind == "picture":
        if not options.image:
            raise SettingError(
                f"The panorama was generated around the picture {recipe.source}.", "Give that picture (--image)."
            )
        request.picture, request.source = photo.read(options.image).pixels, display_name(options.image.name)
        if generated.sha256(request.picture) != recipe.source_sha256:
            raise SettingError(f"{options.image.name} is not the picture {recipe.source} of the recipe.")
    return request


def _weights(options: argparse.Namespace, recipe: Recipe, name: str) -> str | None:
    """Return the recipe's model, adapters or LoRA; where it only names them, those of the option, if they are them."""
    from ..models import records

    recorded = getattr(recipe.settings if name == "lora" else recipe.engine, name)
    digest, given = recipe.weights.get(Path(recorded).name) if recorded else None, getattr(options, name)
    if given is None and (digest is None or Path(recorded).exists()):
        return recorded
    if given is None:
        raise SettingError(f"The recipe names {recorded}, but not where it is.", f"Give its path (--{name}).")
    if digest is not None and not (Path(given).exists() and records.digest(Path(given)) == digest):
        raise SettingError(f"{given} is not the {recorded} of the recipe.", "Give the same weights.")
    return given


def run_and_write(
    request: JobRequest, options: argparse.Namespace, seeds: tuple[int, ...], sources: Sequence[Path | None]
) -> int:
    """Run the job, and write a panorama and its recipe for each seed; they replace none of the `sources`."""
    from ..io import generated

    reply = cast("GenerateReply", shared_options.run(request))
    paths = [panorama_file.with_seed(options.out, seed, seeds) for seed in seeds]
    for path, panorama in zip(paths, reply.panoramas, strict=True):
        generated.write(path, panorama, *sources, overwrite=options.overwrite)
    recipes = [panorama.recipe for panorama in reply.panoramas]
    if options.json:
        shared_options.print_json(recipes)
    for notice in dict.fromkeys(line for recipe in recipes for line in recipe.notices):
        print(notice, file=sys.stderr)
    print(f"Wrote {', '.join(map(display_name, paths))} in {reply.compute_seconds:.0f} s.", file=sys.stderr)
    return 0
