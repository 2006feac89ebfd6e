"""`blender --background --command panoform batch …`: `panoform batch` with the preferences' backend, engine and device.

It needs no scene, so it runs the backend's own command line.
"""

from __future__ import annotations

import argparse
import subprocess
from typing import Any

from ...shared.engines import QUALITIES, check_engine, engines_for
from ...shared.jobs import options as job_options
from ...shared.maps import DEFAULT_MAPS
from .. import preferences
from ..backend.process import environment
from ..jobs.manager import jobs


def add(verbs: Any) -> None:
    """Add the subparser."""
    parser = job_options.add_batch(verbs)
    parser.add_argument("--maps", default=",".join(DEFAULT_MAPS), help="default: %(default)s")
    parser.add_argument("--quality", choices=QUALITIES, default="standard")
    parser.add_argument("--engine", choices=engines_for("perceive"), help="default: as set in the preferences")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overwrite", action="store_true", help="also replace files that aren't Panoform's")
    parser.add_argument("--repair", action="store_true", help="replace NaN, infinite and negative pixels")


def execute(options: argparse.Namespace) -> int:
    """Run the backend's command and return its exit code. Raise BackendMissingError, BackendVersionError."""
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
    }
    command = [jobs.python(), "-m", "panoform.backend", "batch", options.folder.absolute()]
    command += [f"--{name}={value}" for name, value in values.items() if value is not None]
    command += [f"--{name}" for name in ("overwrite", "repair") if getattr(options, name)]
    return subprocess.run(list(map(str, command)), env=environment(), stdin=subprocess.DEVNULL, check=False).returncode
