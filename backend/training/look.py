"""A contact sheet of what a starter makes of the eight CC0 panoramas inside bpy: for looking, never for training."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ...shared.engines import EngineSettings, PerceiveSettings
from ...shared.maps import MAPS
from ..cli.terminal import Terminal
from ..evaluation.evaluate import Between
from ..io import panoramas
from ..perception.job import Engine, preview
from .scenes.render_io import write_image


def look(starter: Path | None, file: Path, height: int) -> None:
    """Write a PNG: a row a panorama, first as the model sees it, then its maps in the order of shared.maps.MAPS."""
    world = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world"  # pyright: ignore[reportAttributeAccessIssue]
    engine = EngineSettings(engine="starter", model=str(starter) if starter else None)
    settings = PerceiveSettings(maps=tuple(MAPS), height=height)
    runner, rows = Engine(), []
    with Terminal() as watch:
        for path in sorted(world.glob("*.exr")):
            watch.progress(path.stem, len(rows), 8, len(rows) / 8, None)
            panorama, encoding = panoramas.read(path)
            made = runner.perceive(
                panorama, encoding=encoding, source=path.name, engine=engine, settings=settings, watch=Between(watch)
            )
            shown = [made.panorama, *(preview(name, pixels) / np.float32(255) for name, pixels in made.maps.items())]
            rows.append(np.concatenate([panoramas.resize(picture, 112) for picture in shown], 1))
    write_image(file, np.concatenate(rows), "uint8")
