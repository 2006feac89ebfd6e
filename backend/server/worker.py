"""The worker thread: runs one job at a time, and passes its messages to the server's loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import NamedTuple

import numpy as np
import zmq

from ...shared.file_errors import system_error
from ...shared.plain_text import plain
from ...shared.protocol import wire
from ...shared.protocol.errors import Cancelled, DeviceMemoryError, PanoformError
from ...shared.protocol.messages import (
    ErrorReply,
    JobReply,
    JobRequest,
    Message,
    PreviewEvent,
    ProgressEvent,
)
from ..jobs.progress import ProgressReporter
from ..models.cache import ModelCache
from . import heap

#: Longer error messages are truncated, to fit into a header.
_MAX_MESSAGE = 10_000

#: Runs a job: jobs.registry.run, or a substitute in tests.
Run = Callable[[JobRequest, ModelCache, ProgressReporter], JobReply]
#: What is done before the first job, with the cache that jobs use: jobs.registry.WARM_UP.
WarmUp = Sequence[Callable[[ModelCache], object]]

log = logging.getLogger("panoform.worker")


class Job:
    """One job, from the arrival of its request to its reply."""

    def __init__(self, client: bytes, request: JobRequest) -> None:
        self.client = client
        self.request = request
        self.stop = threading.Event()
        #: The queue position last sent to its client; None before.
        self.ahead: int | None = None


class Output(NamedTuple):
    """A message about a job, on its way to the client."""

    job: Job
    frames: list[wire.Buffer]
    #: Whether this is the job's reply.
    is_reply: bool


class ModelStatus(NamedTuple):
    """The fields of StatusReply that depend on the models in memory."""

    engine: str | None = None
    device: str | None = None
    memory_free: int | None = None
    memory_total: int | None = None
    memory_held: int | None = None


class Worker:
    """Runs jobs in order of submission; sends a message to the inproc endpoint `wake` for each `Output`.

    Until the first job arrives, it does the steps of `warm_up`, one after the other.
    """

    def __init__(self, context: zmq.Context, wake: str, run: Run, warm_up: WarmUp = ()) -> None:
        self.outputs: SimpleQueue[Output] = SimpleQueue()
        #: State after the last job, whether it succeeded or failed.
        self.status = ModelStatus()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._run_job = run
        self._models = ModelCache()
        self._warm_up = warm_up
        #: Whether a step of it is being done, which can't be interrupted.
        self.is_warming_up = bool(warm_up)
        self._thread = threading.Thread(target=self._run, args=(context, wake), name="panoform-worker", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job for execution."""
        self._jobs.put(job)

    def close(self) -> None:
        """Wait for the last job, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self, context: zmq.Context, wake: str) -> None:
        self._do_warm_up()
        with context.socket(zmq.PUSH) as waker:
            waker.connect(wake)
            # No variable for the job here: it would keep its arrays in memory until the next one arrives.
            while self._process(self._jobs.get(), waker):
                pass

    def _do_warm_up(self) -> None:
        try:
            for step in self._warm_up:
                if self._jobs.empty():
                    step(self._models)
        except Exception:
            log.exception("the warm-up failed")  # the job that needs the same reports it
        self._update_status()
        self.is_warming_up = False

    def _process(self, job: Job | None, waker: zmq.Socket[bytes]) -> bool:
        if job is None:
            return False

        def emit(message: Message, *, is_reply: bool = False) -> None:
            self.outputs.put(Output(job, wire.encode(message), is_reply))
            waker.send(b"")

        try:
            reply = self._run_job(job.request, self._models, _JobReporter(job, emit))
            self._update_status()
            emit(reply, is_reply=True)
        # Whatever a library raises, even SystemExit, the request gets a reply and the server keeps running.
        except BaseException as error:
            if isinstance(error, PanoformError):
                log.info("job %s: %s", job.request.id, error)
            else:
                log.exception("job %s failed", job.request.id)
            if isinstance(error, DeviceMemoryError):
                self._models.release_unused()
            self._update_status()
            emit(error_reply(job.request.id, error), is_reply=True)
        heap.release()
        return True

    def _update_status(self) -> None:
        model = self._models.latest
        if model is None:
            self.status = ModelStatus()
            return
        self.status = ModelStatus(model.label, model.device_label, *model.device_memory())


class _JobReporter(NamedTuple):
    """The ProgressReporter of one job."""

    job: Job
    emit: Callable[[Message], None]

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        self.check_cancelled()
        request_id = self.job.request.id
        self.emit(
            ProgressEvent(id=request_id, stage=stage, step=step, of=of, fraction=fraction, seconds_left=seconds_left)
        )

    def preview(self, name: str, picture: np.ndarray) -> None:
        self.check_cancelled()
        self.emit(PreviewEvent(id=self.job.request.id, map=name, picture=picture))

    def check_cancelled(self) -> None:
        if self.job.stop.is_set():
            raise Cancelled("The job was cancelled.")


def error_reply(request_id: str, error: BaseException) -> ErrorReply:
    """Return the reply that reports this error to the client."""
    error = system_error(error) or error
    if isinstance(error, PanoformError):
        return ErrorReply(id=request_id, code=error.code, message=error.message[:_MAX_MESSAGE], hint=error.hint)
    description = plain(f"{type(error).__name__}: {error}"[:500])
    return ErrorReply(
        id=request_id,
        code="error",
        message=f"Unexpected error in the backend ({description}).",
        hint="Please report it; the backend's log has the details.",
    )
