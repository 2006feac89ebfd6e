"""Code shared by several commands: engine options, running a job, JSON output."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ...shared.engines import DTYPES, ENGINES, OFFLOADS, Capability, EngineSettings, check_engine, engines_for
from ...shared.protocol.messages import JobReply, JobRequest
from ..jobs import registry
from ..jobs.progress import ProgressReporter
from ..models.cache import ModelCache
from .terminal import Terminal

#: Of the engine of a family: the base model, and the adapters.
_WEIGHTS = {"flux": ("FLUX.1-dev", "OmniX's adapters"), "sd21": ("Stable Diffusion 2.1", "MV-Adapter")}


def add_engine(
    parser: argparse.ArgumentParser,
    *capabilities: Capability,
    default: str | None = EngineSettings().engine,
    help: str = "",
) -> None:
    """Add the engine options, for engines with any of `capabilities`, or all.

    `help` describes the default if it depends on other options.
    """
    defaults = EngineSettings()
    names = engines_for(*capabilities) if capabilities else list(ENGINES)
    parser.set_defaults(capabilities=capabilities)
    families = dict.fromkeys(ENGINES[name].family for name in names if ENGINES[name].family in _WEIGHTS)
    models, adapters = (" or ".join(_WEIGHTS[family][index] for family in families) for index in (0, 1))
    parser.add_argument(
        "--engine", default=default, metavar="E", help=f"{' or '.join(names)} (default: {help or default})"
    )
    parser.add_argument("--model", metavar="P", help=f"diffusers folder, single file, or hub id of {models}")
    parser.add_argument("--adapters", metavar="P", help=f"folder or hub id of {adapters}")
    parser.add_argument(
        "--device", default=defaults.device, metavar="D", help="auto, cpu, cuda, cuda:1, xpu, mps (default: auto)"
    )
    parser.add_argument(
        "--dtype", default=defaults.dtype, metavar="T", help=f"one of {', '.join(DTYPES)} (default: auto)"
    )
    parser.add_argument(
        "--record-paths",
        action="store_true",
        help="name local weights by their paths in records, not by name and SHA-256",
    )
    parser.add_argument(
        "--offload", default=defaults.offload, metavar="M", help=f"{', '.join(OFFLOADS)} (default: auto)"
    )
    parser.add_argument(
        "--memory", type=float, metavar="GB", help="most memory of the GPU that FLUX takes (default: what is free)"
    )
    parser.add_argument(
        "--attention", default=defaults.attention, metavar="A", help="kernel of FLUX's attention (default: auto)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile FLUX's blocks: a minute or more, then faster while it is loaded"
    )


def engine_settings(options: argparse.Namespace, default: str = "") -> EngineSettings:
    """Return the settings from the options; `default` is the engine if none is given.

    Raise SettingError if they are invalid.
    """
    fields: dict[str, Any] = {name: getattr(options, name) for name in EngineSettings.__struct_fields__}
    settings = EngineSettings(**{**fields, "engine": options.engine or default})
    check_engine(settings, *options.capabilities)
    return settings


def weights(options: argparse.Namespace) -> list[Path]:
    """Return the files and folders of weights that the options name, which no result replaces; hub ids with them."""
    given = [getattr(options, name, None) for name in ("model", "adapters", "lora", "turbo", "upscaler")]
    return [Path(path) for path in given if path]


def run(
    request: JobRequest, job: Callable[[JobRequest, ModelCache, ProgressReporter], JobReply] = registry.run
) -> JobReply:
    """Run the job in this process, with its progress on stderr."""
    with Terminal() as terminal:
        terminal.progress("Starting", 0, 0, 0.0, None)
        return job(request, ModelCache(), terminal)


def print_json(value: Any) -> None:
    """Print a struct as JSON on stdout."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
