"""`panoform batch`: write maps of all panoramas in a folder, each to a result folder of its own."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ...shared import json_file
from ...shared.engines import EngineSettings
from ...shared.file_errors import display_name
from ...shared.jobs.perceive import Info, PerceiveReply, PerceiveRequest, PerceiveSettings
from ...shared.maps import INFO_FILENAME, MAPS
from ...shared.protocol.errors import (
    AdapterError,
    Cancelled,
    DeviceMemoryError,
    InputError,
    OutputError,
    PanoformError,
    SettingError,
    WeightsError,
    unexpected,
)
from ..jobs import registry
from ..models.cache import ModelCache
from . import options as shared_options
from . import perceive
from .terminal import Terminal

SUFFIXES = (".exr", ".hdr", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser("batch", help="write maps of all panoramas in a folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of panoramas, as for perceive")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="receives a result folder for each, and a summary"
    )
    perceive.add_settings(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command. Return 1 if a panorama failed, after all others are done."""
    from ..io import summary

    engine = shared_options.engine_settings(options)
    settings = perceive.settings_of(options)
    sources = find(options.folder)
    summary.check(options.out, overwrite=options.overwrite)
    from ..models.flux import loader  # after the checks, as torch takes seconds
    from ..perception.job import identity

    with Terminal(stages=False) as terminal:
        wanted = identity(engine, settings, loader.find(engine, terminal))
    models = ModelCache()
    rows: list[summary.Row] = []
    try:
        for index, (source, name) in enumerate(sources.items(), start=1):
            began = time.monotonic()
            row = summary.Row(
                panorama=display_name(source.name), status="written", folder=display_name(name), engine=engine.engine
            )
            rows.append(row)
            try:
                info = finished(options.out / name, source, wanted, settings.maps)
                row.status = "finished earlier" if info else "written"
                if info is None:
                    folder = options.out / name
                    info = _perceive(source, folder, engine, settings, list(sources), options.overwrite, models)
                row.maps, row.seconds = tuple(info.maps), info.seconds["all"]
            except (Cancelled, KeyboardInterrupt):
                rows.remove(row)
                raise
            except Exception as error:
                row.status, row.error = "failed", _text(error)
                if isinstance(error, (SettingError, WeightsError, AdapterError)):
                    raise  # the others would fail in the same way
                if isinstance(error, DeviceMemoryError):
                    models.release_unused()
            print(f"[{index}/{len(sources)}] {source.name}: {_line(row, time.monotonic() - began)}", flush=True)
    finally:
        summary.write(options.out, rows, overwrite=options.overwrite)
    count = Counter(row.status for row in rows)
    print(", ".join(f"{number} {status}" for status, number in count.items()), file=sys.stderr)
    return 1 if count["failed"] else 0


def find(folder: Path) -> dict[Path, str]:
    """Return the panoramas in a folder and the names of their result folders. Raise InputError if there is none.

    These are the file names without extension, or with it where several files differ only in that.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Give the folder of the panoramas.")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{folder} has no panoramas.", "Panoramas are EXR, HDR, PNG, JPEG, TIFF or WebP files.")
    stems = Counter(file.stem.lower() for file in files)
    return {file: file.stem if stems[file.stem.lower()] == 1 else file.name for file in files}


def finished(directory: Path, source: Path, wanted: Mapping[str, Any], maps: Sequence[str]) -> Info | None:
    """Return the record of the result in `directory` if it is of this panorama, as `wanted`, and complete.

    `wanted`: fields of the record (`job.identity`).

    Raise OutputError for the result of another panorama.
    """
    path = directory / INFO_FILENAME
    try:
        info = json_file.read(path, Info)
    except (OSError, ValueError):
        return None  # writing a result there reports what is wrong
    if info.source != display_name(source.name):
        raise OutputError(f"{directory} holds the result of {info.source}.", "Choose another folder, or move it away.")
    same = all(getattr(info, name) == value for name, value in wanted.items())
    complete = all(name in info.maps and (directory / MAPS[name].filename).exists() for name in maps)
    newer = path.stat().st_mtime >= source.stat().st_mtime
    return info if same and complete and newer else None


def _perceive(
    source: Path,
    directory: Path,
    engine: EngineSettings,
    settings: PerceiveSettings,
    sources: Sequence[Path],
    overwrite: bool,
    models: ModelCache,
) -> Info:
    """Write the result of one of the `sources`, of which it replaces none."""
    request: PerceiveRequest = perceive.request(source, directory, engine, settings, sources, overwrite=overwrite)
    with Terminal(stages=False) as terminal:
        terminal.progress(display_name(source.name), 0, 0, 0.0, None)
        return cast("PerceiveReply", registry.run(request, models, terminal)).info


def _text(error: Exception) -> str:
    """Return the error in a line; print the traceback of an unexpected one."""
    if not isinstance(error, PanoformError):
        traceback.print_exception(error)
        error = unexpected(error)
    return " ".join(str(error).split())


def _line(row: Any, seconds: float) -> str:
    match row.status:
        case "written":
            return f"{', '.join(row.maps)} in {seconds:.0f} s"
        case "finished earlier":
            return "skipped, finished earlier"
        case _:
            return f"failed: {row.error}"
