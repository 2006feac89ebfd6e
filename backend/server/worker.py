"""The thread that works: one job at a time, with one engine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
import zmq

from ...shared.engines import EngineSettings, PerceiveSettings
from ...shared.jobs.generate import GenerateSettings, View
from ...shared.protocol import wire
from ...shared.protocol.errors import Cancelled, OutputError, PanoformError, PanoramaError
from ...shared.protocol.messages import (
    EditRequest,
    ErrorReply,
    GenerateReply,
    GenerateRequest,
    JobRequest,
    Message,
    PerceiveReply,
    PerceiveRequest,
    PreviewEvent,
    ProgressEvent,
)
from ..jobs.watch import Watch

if TYPE_CHECKING:
    from ..io.generated import Generated
    from ..io.results import Perceived

#: Longer messages of errors are cut, so that each fits into a header.
_MAX_WORDS = 10_000

log = logging.getLogger("panoform.worker")


class Engine(Protocol):
    """What does the work; backend/perception/job.py has the real one."""

    @property
    def name(self) -> str | None: ...
    @property
    def device(self) -> str | None: ...
    @property
    def memory(self) -> tuple[int, int] | None: ...

    def perceive(
        self,
        panorama: np.ndarray,
        *,
        encoding: Literal["linear", "srgb"],
        source: str,
        engine: EngineSettings,
        settings: PerceiveSettings,
        watch: Watch,
    ) -> Perceived: ...

    def generate(
        self,
        *,
        picture: np.ndarray | None,
        view: View,
        source: str,
        engine: EngineSettings,
        settings: GenerateSettings,
        watch: Watch,
    ) -> list[Generated]: ...

    def edit(
        self,
        *,
        panorama: np.ndarray,
        encoding: Literal["linear", "srgb"],
        mask: np.ndarray | None,
        strength: float,
        extend: bool,
        source: str,
        engine: EngineSettings,
        settings: GenerateSettings,
        watch: Watch,
    ) -> list[Generated]: ...


def load_engine() -> Engine:
    """The real engine. Imports torch, so it is called in the worker, by the first job."""
    from ..perception.job import Engine

    return Engine()


class Job:
    """One request that the engine works on, from its arrival to its reply."""

    def __init__(self, client: bytes, request: JobRequest) -> None:
        self.client = client
        self.request = request
        self.stop = threading.Event()
        #: The position its client was told last.
        self.ahead: int | None = None


class Said(NamedTuple):
    """What the worker says of a job."""

    job: Job
    frames: list[wire.Buffer]
    #: Whether this is the job's reply.
    last: bool


class Worker:
    """Runs jobs in the order they are given. Writes to the inproc endpoint `wake` for each `Said` in `said`."""

    def __init__(self, context: zmq.Context, wake: str, engine_factory: Callable[[], Engine]) -> None:
        self.said: SimpleQueue[Said] = SimpleQueue()
        #: What a StatusReply says of the engine, as it was after its last job.
        self.loaded: dict[str, Any] = {}
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._engine_factory = engine_factory
        self._engine: Engine | None = None
        self._thread = threading.Thread(target=self._run, args=(context, wake), name="panoform-worker", daemon=True)
        self._thread.start()

    def give(self, job: Job) -> None:
        self._jobs.put(job)

    def end(self) -> None:
        """Returns when the last job has ended."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self, context: zmq.Context, wake: str) -> None:
        with context.socket(zmq.PUSH) as waker:
            waker.connect(wake)
            # No name for the job here: it would keep its panorama in memory until the next one comes.
            while self._work_on(self._jobs.get(), waker):
                pass

    def _work_on(self, job: Job | None, waker: zmq.Socket[bytes]) -> bool:
        if job is None:
            return False

        def say(message: Message, *, last: bool = False) -> None:
            self.said.put(Said(job, wire.encode(message), last))
            waker.send(b"")

        try:
            self._engine = self._engine or self._engine_factory()
            reply = _reply(self._engine, job.request, _JobWatch(job, say))
            self.loaded = _describe(self._engine)
            say(reply, last=True)
        # Whatever a library raises there, even SystemExit, its request gets its reply and the server lives.
        except BaseException as error:
            if isinstance(error, PanoformError):
                log.info("job %s: %s", job.request.id, error)
            else:
                log.exception("job %s failed", job.request.id)
            say(error_reply(job.request.id, error), last=True)
        return True


class _JobWatch(NamedTuple):
    """The watch.Watch of one job."""

    job: Job
    say: Callable[[Message], None]

    def progress(self, stage: str, step: int, of: int, fraction: float, seconds_left: float | None) -> None:
        self.check()
        request_id = self.job.request.id
        self.say(
            ProgressEvent(id=request_id, stage=stage, step=step, of=of, fraction=fraction, seconds_left=seconds_left)
        )

    def preview(self, name: str, picture: np.ndarray) -> None:
        self.check()
        self.say(PreviewEvent(id=self.job.request.id, map=name, picture=picture))

    def check(self) -> None:
        if self.job.stop.is_set():
            raise Cancelled("The job was cancelled.")


def _describe(engine: Engine) -> dict[str, Any]:
    free, total = engine.memory or (None, None)
    return {"engine": engine.name, "device": engine.device, "memory_free": free, "memory_total": total}


def _reply(engine: Engine, request: JobRequest, watch: Watch) -> Message:
    match request:
        case PerceiveRequest():
            return _perceive(engine, request, watch)
        case GenerateRequest():
            made = engine.generate(
                picture=request.picture, view=request.view, source=request.source,
                engine=request.engine, settings=request.settings, watch=watch,
            )  # fmt: skip
        case EditRequest():
            made = engine.edit(
                panorama=request.panorama, encoding=request.encoding, mask=_bool_mask(request.mask),
                strength=request.strength, extend=request.extend, source=request.source,
                engine=request.engine, settings=request.settings, watch=watch,
            )  # fmt: skip
    panoramas, recipes = zip(*((one.panorama, one.recipe) for one in made), strict=True)
    return GenerateReply(id=request.id, panoramas=panoramas, recipes=recipes)


def _bool_mask(mask: np.ndarray | None) -> np.ndarray | None:
    """(H, W, 1) uint8 → (H, W) bool. Raises PanoramaError for another shape."""
    if mask is None:
        return None
    if mask.ndim != 3 or mask.shape[2] != 1:
        raise PanoramaError(f"The mask has shape {mask.shape}, not (height, width, 1).")
    return mask[..., 0] > 0


def _perceive(engine: Engine, request: PerceiveRequest, watch: Watch) -> PerceiveReply:
    from ..io import results  # OpenImageIO: nearly half of the start, were it above

    directory = Path(request.directory) if request.directory else None
    if directory:
        if not directory.is_absolute():
            raise OutputError(f"{directory} isn't an absolute path.", "Say the whole path of the folder.")
        results.check_writable(directory)
    perceived = engine.perceive(
        request.panorama,
        encoding=request.encoding,
        source=request.source,
        engine=request.engine,
        settings=request.settings,
        watch=watch,
    )
    if directory:
        results.write(directory, perceived)
    return PerceiveReply(id=request.id, maps=perceived.maps, panorama=perceived.panorama, info=perceived.info)


def error_reply(request_id: str, error: BaseException) -> ErrorReply:
    """How that error is told to the client."""
    if isinstance(error, PanoformError):
        return ErrorReply(id=request_id, code=error.code, message=error.message[:_MAX_WORDS], hint=error.hint)
    what = f"{type(error).__name__}: {error}"[:500]
    return ErrorReply(
        id=request_id,
        code="error",
        message=f"The backend failed in a way it should not ({what}).",
        hint="The backend's log has the details; please report it.",
    )
