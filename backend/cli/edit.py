"""`panoform edit`: change a panorama inside a mask, extend it, or vary all of it."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ...shared.engines import default_engine
from ...shared.file_errors import display_name
from ...shared.jobs import options as job_options
from ...shared.jobs.edit import EditRequest
from ...shared.protocol.errors import OutputError, PanoramaError, SettingError
from . import options as shared_options
from .generate import add_output, file_format, run_and_write, settings_of


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = job_options.add_edit(commands)
    add_output(parser, default_engine("edit"))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from ..io import generated, panoramas, photo

    sources = (options.panorama, options.mask, *shared_options.weights(options))
    generated.check_path(options.out, options.seed, *sources, overwrite=options.overwrite)
    settings, engine = settings_of(options), shared_options.engine_settings(options, default_engine("edit"))
    if options.extend and options.mask:
        raise SettingError("Both --mask and --extend are given.", "Omit one of them.")
    panorama, encoding = panoramas.load(options.panorama, options.layer)
    mask = photo.read_mask(options.mask) if options.mask else None
    if options.extend:
        mask = panorama[..., 3:].min(axis=-1, initial=1, keepdims=True) < panoramas.OPAQUE
        if not mask.any():
            raise PanoramaError(f"{options.panorama.name} has no transparent pixels.", "Give a mask (--mask).")
        panorama = panorama[..., :3]
    if encoding == "linear" and options.out.suffix.lower() != ".exr":
        raise OutputError(f"{options.panorama.name} is linear, which a PNG can't store.", "Use an .exr output file.")
    request = EditRequest(
        panorama=panorama, encoding=encoding, mask=None if mask is None else mask.astype(np.uint8),
        strength=options.strength, extend=options.extend, source=display_name(options.panorama.name),
        file_format=file_format(options.out), engine=engine, settings=settings,
    )  # fmt: skip
    return run_and_write(request, options, options.seed, sources)
