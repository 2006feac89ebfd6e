"""`panoform models`: which weights are here and what this computer can run; `panoform models NAME` downloads them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, cast

from ...shared.engines import ENGINES, EngineSettings
from ...shared.file_errors import display_name
from ...shared.jobs.models import DownloadReply, DownloadRequest, ModelsReply, ModelsRequest, Precision, check_download
from ...shared.weights import WEIGHTS, gigabytes
from . import options as shared_options


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("models", help="show which models are here and what can run, or download some")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"download: {', '.join(WEIGHTS)}")
    parser.add_argument("--device", default="auto", metavar="D", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if not options.names:
        engines = dict.fromkeys(spec.engine for spec in WEIGHTS.values())
        settings = tuple(EngineSettings(engine=engine, device=options.device) for engine in engines)
        reply = cast("ModelsReply", shared_options.run(ModelsRequest(engines=settings)))
        if options.json:
            shared_options.print_json(reply)
        else:
            print("\n".join(lines(reply)))
        return 0
    requests = [DownloadRequest(weights=name) for name in options.names]
    for request in requests:
        check_download(request)
    for request in requests:
        downloaded = cast("DownloadReply", shared_options.run(request))
        if options.json:
            shared_options.print_json(downloaded)
        else:
            print(f"{WEIGHTS[request.weights].label}: {display_name(downloaded.path)}, {gigabytes(downloaded.bytes)}")
    return 0


def lines(reply: ModelsReply) -> Iterator[str]:
    """Yield the lines that are printed."""
    for state in reply.weights:
        spec = WEIGHTS[state.name]
        yield f"{spec.name:11} {spec.label}: {spec.purpose}"
        yield f"            {spec.licence}: {spec.page}{' (accept it there)' if spec.gated else ''}"
        if state.place:
            yield f"            {state.place}, {gigabytes(state.bytes)}"
        else:
            begun = f", {gigabytes(state.incomplete)} have arrived" if state.incomplete else ""
            yield f"            missing: about {gigabytes(spec.bytes)}{begun}"
        if state.place and state.problem:
            yield f"            {state.problem}"
        for file in state.found:
            yield f"            ComfyUI has {file.path}, {gigabytes(file.bytes)}"
    for engine, precisions in reply.precisions.items():
        here = next(device for device in reply.devices if device.name == reply.device)
        yield f"{ENGINES[engine].short_label} on {here.label}, {gigabytes(here.memory_free)} free:"
        for precision in precisions:
            yield f"            {precision.dtype:5} {describe(precision)}"
    if reply.problem:
        yield reply.problem
    yield f"Downloads go to {reply.folder}, where {gigabytes(reply.disk_free)} are free."


def describe(precision: Precision) -> str:
    """Return what runs in that precision, as text."""
    match precision.runs:
        case "whole":
            return f"fits: {gigabytes(precision.everything)}"
        case "streams":
            return f"fits in parts: at least {gigabytes(precision.least)}, whole {gigabytes(precision.everything)}"
    return f"too large: at least {gigabytes(precision.least)}"
