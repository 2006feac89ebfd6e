"""The commands generate and edit of the command line. Torch is imported only once it is needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ...shared import panorama_file
from ...shared.engines import EngineSettings, check_engine
from ...shared.jobs import options
from ...shared.jobs.generate import METHODS, GenerateSettings, View, check_generate, check_view
from ...shared.protocol.errors import OutputError, PanoramaError, SettingError

if TYPE_CHECKING:
    from ..io.generated import Generated


def add(commands: Any, add_engine: Callable[[argparse.ArgumentParser, str], None]) -> None:
    """Adds the two commands to the subparsers."""
    generate = options.add_generate(commands)
    generate.add_argument(
        "--recipe", type=Path, metavar="JSON", help="make the panorama beside this file again (nothing else is asked)"
    )
    edit = options.add_edit(commands)
    for command, engine, run in (
        (generate, "flux for words, starter for a picture", _generate),
        (edit, "flux", _edit),
    ):
        command.add_argument(
            "--out", type=Path, required=True, metavar="FILE", help=".exr for light, .png for a picture"
        )
        command.add_argument(
            "--method", default=GenerateSettings().method, metavar="M", help=f"of {', '.join(METHODS)}"
        )
        add_engine(command, engine)
        command.add_argument("--json", action="store_true", help="print the recipes as JSON on stdout")
        command.set_defaults(engine=None, run=run)


def _settings(given: argparse.Namespace, **more: Any) -> GenerateSettings:
    settings = GenerateSettings(
        prompt=given.prompt, negative_prompt=given.negative, true_cfg_scale=given.true_cfg, method=given.method,
        lora=given.lora, trigger=given.trigger, height=given.height, num_inference_steps=given.steps,
        guidance_scale=given.guidance, shift=given.shift, seeds=given.seed, **more,
    )  # fmt: skip
    check_generate(settings)
    return settings


def _engine(given: argparse.Namespace, default: str) -> EngineSettings:
    fields = {name: getattr(given, name) for name in EngineSettings.__struct_fields__}
    settings = EngineSettings(**fields | {"engine": given.engine or default})
    check_engine(settings)
    return settings


def _generate(given: argparse.Namespace) -> int:
    from ..io import generated, photo

    if given.recipe:
        return _make_again(given)
    generated.check_path(given.out, given.seed, given.image)
    hdr = given.out.suffix.lower() == ".exr" and not given.ldr
    settings = _settings(given, hdr=hdr, sun_strength=given.sun_strength, sun_threshold=given.sun_threshold)
    engine = _engine(given, "starter" if given.image else "flux")
    picture, view = None, View(fov=given.fov, yaw=given.yaw, pitch=given.pitch, roll=given.roll)
    if given.image:
        read = photo.read(given.image)
        picture, view = read.pixels, msgspec.structs.replace(view, fov=read.fov if view.fov is None else view.fov)
        check_view(view)
        if view.fov is None:
            raise SettingError(f"{given.image.name} doesn't tell its field of view.", "Give it in degrees (--fov).")
    return _write(given, _made(given, picture, view, engine, settings))


def _make_again(given: argparse.Namespace) -> int:
    from ..io import generated, photo

    recipe = panorama_file.read_recipe(given.recipe)
    given.seed = recipe.settings.seeds
    generated.check_path(given.out, given.seed, given.image)
    if recipe.kind == "edit":
        raise SettingError(f"{given.recipe.name} is an edit's.", "Give panorama, mask and settings to panoform edit.")
    if recipe.encoding == "linear" and given.out.suffix.lower() != ".exr":
        raise OutputError("It was light, and a PNG can't hold it.", "Name the output .exr.")
    picture = None
    if recipe.kind == "picture":
        if not given.image:
            raise SettingError(f"It was made of the picture {recipe.source}.", "Give that again (--image).")
        picture = photo.read(given.image).pixels
        if generated.sha256(picture) != recipe.source_sha256:
            raise SettingError(f"{given.image.name} is not the picture {recipe.source} that it was made of.")
    return _write(given, _made(given, picture, recipe.view or View(), recipe.engine, recipe.settings))


def _made(
    given: argparse.Namespace,
    picture: np.ndarray | None,
    view: View,
    engine: EngineSettings,
    settings: GenerateSettings,
) -> list[Generated]:
    source = given.image.name if given.image else ""
    with _terminal() as watch:
        from ..perception.job import Engine

        return Engine().generate(
            picture=picture, view=view, source=source, engine=engine, settings=settings, watch=watch
        )


def _edit(given: argparse.Namespace) -> int:
    from ..io import generated, panoramas, photo

    generated.check_path(given.out, given.seed, given.panorama, given.mask)
    settings, engine = _settings(given), _engine(given, "flux")
    if given.extend and given.mask:
        raise SettingError("Both a mask and --extend are given.", "Leave one out.")
    panorama, encoding = panoramas.load(given.panorama)
    mask = photo.read(given.mask).pixels.mean(axis=-1) > 0.5 if given.mask else None
    if given.extend:
        mask = panorama[..., 3:].min(axis=-1, initial=1) < panoramas.OPAQUE
        if not mask.any():
            raise PanoramaError(f"Nothing of {given.panorama.name} is transparent.", "Give a mask (--mask).")
        panorama = panorama[..., :3]
    if encoding == "linear" and given.out.suffix.lower() != ".exr":
        raise OutputError(f"{given.panorama.name} is light, and a PNG can't hold it.", "Name the output .exr.")
    with _terminal() as watch:
        from ..perception.job import Engine

        made = Engine().edit(
            panorama=panorama, encoding=encoding, mask=mask, strength=given.strength, extend=given.extend,
            source=given.panorama.name, engine=engine, settings=settings, watch=watch,
        )  # fmt: skip
    return _write(given, made)


def _terminal() -> Any:
    from .terminal import Terminal

    return Terminal()


def _write(given: argparse.Namespace, made: Sequence[Generated]) -> int:
    from ..io import generated

    places = [panorama_file.with_seed(given.out, seed, given.seed) for seed in given.seed]
    for place, one in zip(places, made, strict=True):
        generated.write(place, one)
    recipes = [one.recipe for one in made]
    if given.json:
        print(msgspec.json.format(msgspec.json.encode(recipes), indent=2).decode())
    for notice in dict.fromkeys(line for recipe in recipes for line in recipe.notices):
        print(notice, file=sys.stderr)
    seconds = sum(recipe.seconds for recipe in recipes)
    print(f"Wrote {', '.join(str(place) for place in places)} in {seconds:.0f} s.", file=sys.stderr)
    return 0
