"""The job `texture`: a texture from six views of a mesh, drawn or given, or from a picture projected onto it."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import msgspec
import numpy as np
import torch

from ...shared.jobs import texture as contract
from ...shared.jobs.texture import VIEWS, TextureInfo, TextureReply, TextureRequest
from ..io.encoding import encode_image
from ..io.generated import sha256
from ..jobs.progress import ProgressReporter, Stage, StagedProgress, report_loading
from ..models import device, records
from ..models.cache import ModelCache
from . import cameras, completion, frame, projection, texture, view_files, views
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
    if request.views is not None:
        return _bake(request, mesh, others, reporter, began)
    if request.engine.spec.family == "projection":
        return _project(request, mesh, others, reporter, began)
    return _draw(request, mesh, others, models, reporter, began)


def _draw(
    request: TextureRequest, mesh: Mesh, others: Mesh | None, models: ModelCache, reporter: ProgressReporter,
    began: float,
) -> TextureReply:  # fmt: skip
    """Draw six views and bake them."""
    settings = views.resolved(request.settings, request.engine, views.task_of(request.reference))
    control = _control_images(mesh, others, settings.view_size or 0, reporter)
    drawn = views.draw(control, request.reference, request.engine, settings, models, reporter, [_BAKING])
    files = view_files.encode(drawn.views)
    baked, seen = texture.make(mesh, others, drawn.views, settings.texture_size, reporter.check_cancelled)
    data = _encoded(baked)
    drawn.progress.step_done()
    return TextureReply(id=request.id, texture=data, views=files, info=record_drawn(request, drawn, seen, began))


def _bake(
    request: TextureRequest, mesh: Mesh, others: Mesh | None, reporter: ProgressReporter, began: float
) -> TextureReply:
    """Bake the given views."""
    assert request.views is not None
    report_loading(reporter, _BAKING.label)
    pictures, progress = view_files.decode(request.views), StagedProgress(reporter, [_BAKING])
    baked, seen = texture.make(mesh, others, pictures, request.settings.texture_size, reporter.check_cancelled)
    data = _encoded(baked)
    progress.step_done()
    settings = msgspec.structs.replace(request.settings, upscale="off", upscaler="")  # nothing is drawn
    info = _record(request, began, task="", settings=settings, view_size=pictures.shape[1], seen=seen)
    return TextureReply(id=request.id, texture=data, views=request.views, info=info)


def _project(
    request: TextureRequest, mesh: Mesh, others: Mesh | None, reporter: ProgressReporter, began: float
) -> TextureReply:
    """Project the reference picture."""
    assert request.reference is not None  # checked: the engine can't do without
    report_loading(reporter, _BAKING.label)
    progress = StagedProgress(reporter, [_BAKING])
    side = request.settings.view_size or request.engine.spec.qualities["standard"].height
    settings = msgspec.structs.replace(request.settings, view_size=side)
    made = projection.project(
        mesh, others, request.reference, side, settings.texture_size, reporter.check_cancelled, completion.bundled
    )  # fmt: skip
    data, files = _encoded(made.texture), view_files.encode(made.views)
    progress.step_done()
    info = _record(
        request, began, task="projection", settings=settings, view_size=side, seen=made.seen, notices=made.notices,
        **(_record_of_the_built_in() if made.guessed else {}),
    )  # fmt: skip
    return TextureReply(id=request.id, texture=data, views=files, info=info)


def _record_of_the_built_in() -> dict[str, Any]:
    """Return the fields of a record that name the model which comes with Panoform."""
    return {
        "model": completion.NAME,
        "adapter": completion.NAME,
        "weights": {completion.NAME: records.digest(completion.BUNDLED)},
        "device": device.name(torch.device("cpu")),
        "dtype": "fp32",
        "packages": ("torch", "diffusers"),
    }


def _encoded(baked: np.ndarray) -> np.ndarray:
    return np.frombuffer(encode_image("texture.png", baked, "sRGB", bits=8), np.uint8)


def _control_images(mesh: Mesh, others: Mesh | None, size: int, reporter: ProgressReporter) -> np.ndarray:
    """Return the control images of the six views, (6, size, size, 6) float32."""
    reporter.progress("Control images", 0, 0, 0.0, None)
    whole = mesh if others is None else cameras.joined(mesh, others)
    images = []
    for number in range(len(VIEWS)):
        reporter.check_cancelled()
        images.append(cameras.control_image(cameras.render(whole, number, size)))
    return np.stack(images)


def record_drawn(
    request: TextureRequest | contract.ViewsRequest, drawn: Drawn, seen: float, began: float
) -> TextureInfo:
    """Return the record of drawn views."""
    source, settings = drawn.source, drawn.settings
    upscaler = settings.upscaler if settings.upscale == "file" else ""
    return _record(
        request, began, task=source.task, engine=source.pinned, model=records.name(source.name, source.settings),
        adapter=records.name(source.adapter_name, source.settings),
        weights=records.digests(source.name, source.adapter_name, upscaler),
        settings=msgspec.structs.replace(settings, upscaler=upscaler and records.name(upscaler, source.settings)),
        view_size=drawn.views.shape[1], seen=seen, notices=drawn.notices,
        device=device.name(source.device), dtype=device.dtype_name(source.settings, source.dtype),
        packages=("torch", "diffusers"),
    )  # fmt: skip


def _record(
    request: TextureRequest | contract.ViewsRequest, began: float, *, seen: float, packages: Sequence[str] = (), **more
) -> TextureInfo:
    more["engine"] = records.engine(more.get("engine", request.engine))
    return TextureInfo(
        **{"model": "", "adapter": "", "notices": (), "device": "", "dtype": ""} | more,
        panoform=metadata.version("panoform"),
        source=request.source,
        source_sha256="" if request.reference is None else sha256(request.reference),
        seen=round(seen, 4),
        seconds=round(time.monotonic() - began, 3),
        versions={"python": platform.python_version()}
        | {package: metadata.version(package) for package in (*packages, "numpy")},
    )
