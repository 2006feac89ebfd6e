"""`blender --background --command panoform batch …`: `panoform batch` with the preferences' backend, engine and device.

It needs no scene, so it runs the backend's own command line.
"""

from __future__ import annotations

import argparse
import subprocess
from typing import Any

from ...shared.batch import options as batch_options
from ...shared.engines import QUALITIES, check_engine, engines_for
from ...shared.maps import DEFAULT_MAPS
from .. import preferences
from ..backend.process import environment
from ..jobs.manager import jobs

_COMMAND = ("blender", "--background", "--command", "panoform", "batch")


def add(verbs: Any) -> None:
    """Add the subparser."""
    parser = batch_options.add(verbs)
    parser.add_argument("--maps", default=",".join(DEFAULT_MAPS), help="default: %(default)s")
    parser.add_argument("--quality", choices=QUALITIES, default="standard")
    parser.add_argument("--engine", choices=engines_for("perceive"), help="default: as set in the preferences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="also replace files that aren't Panoform's")
    add_repair(parser)


def add_repair(parser: argparse.ArgumentParser) -> None:
    """Add the option --repair, which --no-repair turns off where a preset has it."""
    parser.add_argument(
        "--repair",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="replace NaN, infinite and negative pixels",
    )


def execute(options: argparse.Namespace) -> int:
    """Run the backend's command and return its exit code, or write a job template, whose tasks start Blender.

    Raise BackendMissingError, BackendVersionError, and for a template SettingError, InputError, OutputError.
    """
    batch_options.check(options)
    if options.job_template:
        batch_options.write_job_template(options, _COMMAND, tuple(_arguments(options)))
        return 0
    engine = preferences.get().engine_settings((options.engine or "auto").upper())
    check_engine(engine, "perceive")
    quality = engine.spec.qualities[options.quality]
    values = {
        "out": options.out.absolute(),
        "maps": options.maps,
        "seed": options.seed,
        "steps": quality.num_inference_steps,
        "height": quality.height,
        "engine": engine.engine,
        "model": engine.model,
        "adapters": engine.adapters,
        "device": engine.device,
        "dtype": engine.dtype,
        "offload": engine.offload,
        "ray": options.ray,
        "workers": options.workers,
        "part": options.part,
    }
    command = [jobs.python(), "-m", "panoform.backend", "batch", options.folder.absolute()]
    command += [f"--{name}={value}" for name, value in values.items() if value is not None]
    command += [f"--{name}" for name in ("overwrite", "repair") if getattr(options, name)]
    return subprocess.run(list(map(str, command)), env=environment(), stdin=subprocess.DEVNULL, check=False).returncode


def _arguments(options: argparse.Namespace) -> list[str]:
    """Return the options of perception as arguments of this verb; each computer has its engine in the preferences."""
    values = {name: getattr(options, name) for name in ("maps", "quality", "engine", "seed")}
    arguments = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return arguments + [f"--{name}" for name in ("overwrite", "repair") if getattr(options, name)]
