"""Code shared by several commands: engine options, running a job, JSON output."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from ...shared.engines import DTYPES, ENGINES, OFFLOADS, EngineSettings, check_engine
from ...shared.protocol.messages import JobReply, JobRequest
from ..jobs import registry
from ..models.cache import ModelCache
from .terminal import Terminal


def add_engine(parser: argparse.ArgumentParser, default: str | None = EngineSettings().engine, help: str = "") -> None:
    """Add the engine options. `help` describes the default if it depends on other options."""
    defaults = EngineSettings()
    parser.add_argument(
        "--engine", default=default, metavar="E", help=f"{' or '.join(ENGINES)} (default: {help or default})"
    )
    parser.add_argument("--model", metavar="P", help="diffusers folder, .safetensors file, or hub id of FLUX.1-dev")
    parser.add_argument("--adapters", metavar="P", help="folder or hub id of OmniX's adapters")
    parser.add_argument(
        "--device", default=defaults.device, metavar="D", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--dtype", default=defaults.dtype, metavar="T", help=f"one of {', '.join(DTYPES)} (default: auto)"
    )
    parser.add_argument(
        "--offload", default=defaults.offload, metavar="M", help=f"{', '.join(OFFLOADS)} (default: none)"
    )


def engine_settings(options: argparse.Namespace, default: str = "") -> EngineSettings:
    """Return the settings from the options; `default` is the engine if none is given.

    Raise SettingError if they are invalid.
    """
    fields = {name: getattr(options, name) for name in EngineSettings.__struct_fields__}
    settings = EngineSettings(**fields | {"engine": options.engine or default})
    check_engine(settings)
    return settings


def run(request: JobRequest) -> JobReply:
    """Run the job in this process, with its progress on stderr."""
    with Terminal() as terminal:
        terminal.progress("Starting", 0, 0, 0.0, None)
        return registry.run(request, ModelCache(), terminal)


def print_json(value: Any) -> None:
    """Print a struct as JSON on stdout."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
