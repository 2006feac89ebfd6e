"""Contact sheet of a starter's maps of the eight CC0 panoramas that ship with bpy, which are never used in training."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ...shared.engines import EngineSettings
from ...shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from ...shared.maps import MAPS
from ..cli.terminal import Terminal
from ..io import panoramas
from ..jobs.progress import Silent
from ..models.cache import ModelCache
from ..perception.job import perceive, preview
from . import output
from .scenes.render_io import write_image


def look(starter: Path | None, file: Path, height: int, *, overwrite: bool = False) -> None:
    """Write a PNG with a row per panorama: the model's input, then its maps in the order of shared.maps.MAPS.

    An existing file is replaced only if `overwrite` is set. Raise OutputError.
    """
    world = Path(bpy.utils.resource_path("LOCAL")) / "datafiles" / "studiolights" / "world"  # pyright: ignore[reportAttributeAccessIssue]
    engine = EngineSettings(engine="starter", model=str(starter) if starter else None)
    settings = PerceiveSettings(maps=tuple(MAPS), height=height)
    models, rows = ModelCache(), []
    with Terminal() as reporter:
        for path in sorted(world.glob("*.exr")):
            reporter.progress(path.stem, len(rows), 8, len(rows) / 8, None)
            panorama, encoding = panoramas.read(path)
            request = PerceiveRequest(
                panorama=panorama, encoding=encoding, source=path.name, engine=engine, settings=settings
            )
            made = perceive(request, models, Silent(reporter))
            shown = [made.panorama, *(preview(name, pixels) / np.float32(255) for name, pixels in made.maps.items())]
            rows.append(np.concatenate([panoramas.resize(picture, 112) for picture in shown], 1))
    with output.file(file, overwrite=overwrite) as draft:
        write_image(draft, np.concatenate(rows), "uint8")
