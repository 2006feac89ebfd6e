"""The registry of jobs: request type → module that runs it.

A module is imported by the first job that needs it, so that the server starts without torch. It defines

    run(request, models: ModelCache, reporter: ProgressReporter) -> JobReply
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ...shared.jobs.edit import EditRequest
from ...shared.jobs.generate import GenerateRequest
from ...shared.jobs.models import DownloadRequest, ModelsRequest
from ...shared.jobs.perceive import PerceiveRequest
from ...shared.jobs.scene import SceneRequest
from ...shared.jobs.texture import TextureRequest, ViewsRequest
from ...shared.protocol.messages import JobReply, JobRequest
from ..models.cache import ModelCache
from .imports import import_job_module
from .progress import ProgressReporter

_BACKEND = __name__.removesuffix(".jobs.registry")

#: What the default engine needs to perceive and to build, in the order in which it is imported.
_FIRST = ("torch", "transformers", f"{_BACKEND}.perception.job", f"{_BACKEND}.scene.job")

_MODULES: dict[type[JobRequest], str] = {
    PerceiveRequest: f"{_BACKEND}.perception.job",
    GenerateRequest: f"{_BACKEND}.generation.job",
    EditRequest: f"{_BACKEND}.generation.edit_job",
    SceneRequest: f"{_BACKEND}.scene.job",
    ModelsRequest: f"{_BACKEND}.inventory.job",
    DownloadRequest: f"{_BACKEND}.inventory.download",
    TextureRequest: f"{_BACKEND}.texturing.job",
    ViewsRequest: f"{_BACKEND}.texturing.views_job",
}


def _load_first(models: ModelCache) -> None:
    import_job_module(_FIRST[2]).load_bundled(models)


#: What a backend that is started before it has a job does, one after the other (`panoform serve --warm-up`): import
#: what the first job most likely needs, then load the model that is built in.
WARM_UP: tuple[Callable[[ModelCache], object], ...] = (
    *(partial(lambda name, _models: import_job_module(name), name) for name in _FIRST),
    _load_first,
)


def register(request_type: type[JobRequest], module: str) -> None:
    """Run requests of this type in `module`, a full module name."""
    _MODULES[request_type] = module


def run(request: JobRequest, models: ModelCache, reporter: ProgressReporter) -> JobReply:
    """Run the job; the reply has the request's id. Raise PanoformError, and Cancelled from `reporter`."""
    return import_job_module(_MODULES[type(request)]).run(request, models, reporter)
