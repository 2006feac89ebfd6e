"""The job `views`: six views from control images, without a mesh."""

from __future__ import annotations

import time

import msgspec
import numpy as np

from ...shared.jobs import texture as contract
from ...shared.jobs.texture import VIEWS, ViewsReply, ViewsRequest
from ..jobs.progress import ProgressReporter
from ..models.cache import ModelCache
from . import view_files, views
from .job import record_drawn


def run(request: ViewsRequest, models: ModelCache, reporter: ProgressReporter) -> ViewsReply:
    """Run the request. Errors as of the job `texture`."""
    began = time.monotonic()
    contract.check_views(request)
    control = np.stack([request.control[name] for name in VIEWS])
    settings = msgspec.structs.replace(request.settings, view_size=control.shape[1])
    settings = views.resolved(settings, request.engine, views.task_of(request.reference))
    drawn = views.draw(control, request.reference, request.engine, settings, models, reporter)
    info = record_drawn(request, drawn, 1.0, began)
    return ViewsReply(id=request.id, views=view_files.encode(drawn.views), info=info)
