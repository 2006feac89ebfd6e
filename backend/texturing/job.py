"""The job `texture`: six views of a mesh, drawn or given, baked into one texture."""

from __future__ import annotations

import platform
import time
from importlib import metadata

import numpy as np

from ...shared.jobs import texture as contract
from ...shared.jobs.texture import VIEWS, TextureInfo, TextureReply, TextureRequest
from ..io.encoding import encode_image
from ..io.generated import sha256
from ..jobs.progress import ProgressReporter, Stage, StagedProgress, report_loading
from ..models import device
from ..models.cache import ModelCache
from . import cameras, frame, texture, view_files, views
from .cameras import Mesh
from .views import Drawn

#: Cost of baking in units of a step of the views.
_BAKING = Stage("Baking", 1, 3.0, counted=False)


def run(request: TextureRequest, models: ModelCache, reporter: ProgressReporter) -> TextureReply:
    """Run the request.

    Raise InputError if it is invalid, ModelError if the model can't be loaded or run, and Cancelled from `reporter`
    within one step.
    """
    began = time.monotonic()
    contract.check(request)
    mesh, others = frame.prepare(request)
    size = request.settings.texture_size
    if request.views is None:
        task = views.task_of(request.reference)
        settings = views.resolved(request.settings, request.engine, task)
        control = _control_images(mesh, others, settings.view_size or 0, reporter)
        drawn = views.draw(control, request.reference, request.engine, settings, models, reporter, [_BAKING])
        pictures, files, progress = drawn.views, view_files.encode(drawn.views), drawn.progress
    else:
        drawn, files = None, request.views
        pictures, progress = view_files.decode(files), StagedProgress(reporter, [_BAKING])
        report_loading(reporter, _BAKING.label)
    baked, seen = texture.make(mesh, others, pictures, size, reporter.check_cancelled)
    data = encode_image("texture.png", baked, "sRGB", bits=8)
    progress.step_done()
    info = record(request, drawn, pictures.shape[1], seen, began)
    return TextureReply(id=request.id, texture=np.frombuffer(data, np.uint8), views=files, info=info)


def _control_images(mesh: Mesh, others: Mesh | None, size: int, reporter: ProgressReporter) -> np.ndarray:
    """Return the control images of the six views, (6, size, size, 6) float32."""
    reporter.progress("Control images", 0, 0, 0.0, None)
    whole = mesh if others is None else cameras.joined(mesh, others)
    images = []
    for number in range(len(VIEWS)):
        reporter.check_cancelled()
        images.append(cameras.control_image(cameras.render(whole, number, size)))
    return np.stack(images)


def record(
    request: TextureRequest | contract.ViewsRequest, drawn: Drawn | None, view_size: int, seen: float, began: float
) -> TextureInfo:
    """Return the record of a result; `drawn` is None for given views."""
    source = drawn.source if drawn else None
    return TextureInfo(
        panoform=metadata.version("panoform"),
        task=source.task if source else "",  # pyright: ignore[reportArgumentType]
        engine=source.pinned if source else request.engine,
        model=source.name if source else "",
        adapter=source.adapter_name if source else "",
        settings=drawn.settings if drawn else request.settings,
        source=request.source,
        source_sha256="" if request.reference is None else sha256(request.reference),
        view_size=view_size,
        seen=round(seen, 4),
        notices=drawn.notices if drawn else (),
        device=device.name(source.device) if source else "",
        dtype=device.dtype_name(source.settings, source.dtype) if source else "",
        seconds=round(time.monotonic() - began, 3),
        versions={"python": platform.python_version()}
        | {package: metadata.version(package) for package in ("torch", "diffusers", "numpy")},
    )
