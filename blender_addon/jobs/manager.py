"""The state of the add-on: the backend's session, the job under way, the results, the last failure.

    operators → jobs.set_up / begin / cancel / stop          the panel draws what `jobs` holds
    backend   → jobs.poll → job (progress) → results → built by an operator

In a window timer.py calls `poll` from a timer; in the background `wait` does it in a loop. `jobs` outlives files, undo
and deleted scenes: it holds no datablock, only a scene's `session_uid`.
"""

from __future__ import annotations

import atexit
import dataclasses
import platform
import time
import traceback
from collections.abc import Hashable
from enum import Enum
from pathlib import Path

import bpy
import numpy as np

from ...shared import VERSION
from ...shared.protocol import errors
from ...shared.protocol.errors import BackendMissingError, BackendVersionError, BusyError, OutputError, PanoformError
from ...shared.protocol.messages import ErrorReply, Event, JobReply, PreviewEvent, ProgressEvent, QueuedEvent, Reply
from .. import preferences
from ..backend import installer
from ..backend.installer import Found, Setup
from ..backend.process import BackendProcess
from ..backend.session import Session
from .specs import JobSpec, Result

#: Results kept in memory; the oldest that was built goes first.
MAX_RESULTS = 8


class State(Enum):
    """How things stand with the backend."""

    NOT_SET_UP = "Not set up"
    OUT_OF_DATE = "Of another version"
    SETTING_UP = "Setting up"
    STOPPED = "Not running"
    STARTING = "Starting"
    READY = "Ready"


@dataclasses.dataclass(eq=False)
class Job:
    """A job under way; the fields are those of messages.ProgressEvent."""

    spec: JobSpec
    #: None until it was sent.
    id: str | None = None
    stage: str = "Waiting for the backend"
    step: int = 0
    of: int = 0
    fraction: float = 0.0
    seconds_left: float | None = None
    #: Newest preview of each map, (H, W, 3) uint8; the last entry came last.
    previews: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    cancelling: bool = False

    @property
    def text(self) -> str:
        """ "Normal 12/28 · 0:41 left" """
        parts = [f"{self.stage} {self.step}/{self.of}" if self.of else self.stage]
        if self.cancelling:
            parts = ["Cancelling"]
        elif self.seconds_left is not None:
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{minutes}:{seconds:02} left")
        return " · ".join(parts)


@dataclasses.dataclass(eq=False)
class Failure:
    """The last error, as the panel shows it."""

    error: PanoformError
    #: All there is to know, for a bug report.
    details: str


class Jobs:
    def __init__(self) -> None:
        self.session: Session | None = None
        self.setup: Setup | None = None
        self.job: Job | None = None
        #: Newest first.
        self.results: list[Result] = []
        self.failure: Failure | None = None
        #: Seconds that the last job took, by its spec's cost.
        self.seconds: dict[Hashable, float] = {}
        self._found: tuple[float, Path, Found] | None = None
        #: Backends that were told to end, without anybody waiting for it.
        self._ending: list[BackendProcess] = []

    # The backend

    @property
    def state(self) -> State:
        if self.setup is not None:
            return State.SETTING_UP
        if self.session is not None:
            return State.STARTING if self.session.status is None else State.READY
        if preferences.get().python() is not None:
            return State.STOPPED
        found = self._look()
        if found is Found.READY:
            return State.STOPPED
        return State.OUT_OF_DATE if found is Found.OTHER_VERSION else State.NOT_SET_UP

    @property
    def busy(self) -> bool:
        """Whether something is under way that somebody waits for."""
        return self.job is not None or self.state in {State.SETTING_UP, State.STARTING}

    def _look(self) -> Found:
        """What is in the environment's folder; looked at once a second, as the panel asks at every draw."""
        folder = preferences.get().environment_folder()
        now = time.monotonic()
        if self._found is None or self._found[1] != folder or now - self._found[0] > 1:
            self._found = (now, folder, installer.find(folder, VERSION))
        return self._found[2]

    def set_up(self, wheel: Path, python: Path) -> None:
        """Make the backend's environment in the preferences' folder."""
        if self.setup is not None and self.setup.cancelling:
            raise BusyError("The set-up that was cancelled has not ended yet.", "Try again in a moment.")
        if self.setup is not None:
            raise BusyError("The backend is being set up already.", "Wait for it, or cancel it.")
        self.stop()
        self.failure = None
        self.setup = Setup(preferences.get().environment_folder(), wheel, python, before=self._wait_for_ends)
        self.setup.start()

    def start(self) -> None:
        """Start the backend, if it isn't running. Raises BackendMissingError, BackendVersionError, OutputError."""
        if self.session is None:
            chosen = preferences.get()
            folder = chosen.environment_folder() / "run"
            try:
                self.session = Session(chosen.python() or self._own_python(), folder)
            except OSError as error:
                raise OutputError(
                    f"{folder} can't be written: {error.strerror}.", "Choose another folder in the preferences."
                ) from error

    def _own_python(self) -> Path:
        folder = preferences.get().environment_folder()
        found = installer.find(folder, VERSION)
        if found is Found.OTHER_VERSION:
            raise BackendVersionError(f"The backend is not of version {VERSION}, as the add-on is.", "Update it.")
        if found is not Found.READY:
            why = "is not set up" if found is Found.ABSENT else "was not set up to the end"
            raise BackendMissingError(f"The backend {why}.", 'Press "Set up the backend".')
        return installer.python_in(folder)

    def stop(self, *, wait: bool = bpy.app.background) -> None:
        """Begin to end the backend, and with it what it was doing; `wait` until its process is gone."""
        session, self.session = self.session, None
        if session is not None:
            self._ending.append(session.process)
            session.close(wait=wait)
        self._drop()

    def close(self) -> None:
        """End all that runs, and wait for it; results are kept."""
        if self.setup is not None:
            self.setup.cancel(wait=True)
            self.setup = None
        self.stop(wait=True)
        self._wait_for_ends()

    def _wait_for_ends(self) -> None:
        for process in list(self._ending):
            process.stop(wait=True)
            self._ending.remove(process)

    # Jobs

    def begin(self, spec: JobSpec) -> None:
        """Begin a job. Raise BusyError, and what `start` raises."""
        if self.job is not None:
            raise BusyError("Panoform works on one panorama already.", "Wait for it, or cancel it.")
        self.failure = None
        try:
            if spec.request is not None:
                self.start()
        except PanoformError:
            _close(spec)
            raise
        self.job = Job(spec)

    def cancel(self) -> None:
        """Ask for the end of whatever runs: the set-up, or the job."""
        if self.setup is not None:
            self.setup.cancel()
        if self.job is not None and self.job.id is not None:
            self.job.cancelling = True
            self.session.client.cancel(self.job.id)
        elif self.job is not None:
            self._drop()

    def _drop(self) -> None:
        """Forget the job."""
        job, self.job = self.job, None
        if job is not None:
            _close(job.spec)

    def wait(self) -> Result:
        """Poll until the job has ended, telling of it on stdout. Raises the error that it ended in."""
        job, said = self.job, ""
        try:
            while self.job is job:
                if job.text != said:
                    said = job.text
                    print(f"Panoform: {said}", flush=True)
                self.poll()
                time.sleep(0.02)
        except KeyboardInterrupt:
            self.stop(wait=True)
            raise
        if self.failure is not None:
            raise self.failure.error
        return self.results[0]

    def wait_for_setup(self) -> None:
        """Poll until the set-up has ended, telling of it on stdout. Raises the error that it ended in."""
        said = ""
        while self.setup is not None:
            if self.setup.status != said:
                said = self.setup.status
                print(f"Panoform: {said}", flush=True)
            time.sleep(0.1)
            self.poll()
        if self.failure is not None:
            raise self.failure.error

    def poll(self) -> None:
        """Take in whatever has happened. Never waits. Whatever goes wrong with the job or the backend ends them."""
        if self.setup is not None and self.setup.done:
            self._setup_ended(self.setup)
        try:
            if self.job is not None and self.job.spec.is_rendering:
                self._rendering(self.job)
        except Exception as error:
            self.fail(error)
            self._drop()
        if self.session is None:
            return
        try:
            for message in self.session.poll():
                self._take(message)
            if self.job is not None and self.job.id is None and self.session.status is not None:
                self._send(self.job)
        except Exception as error:
            self.fail(error, self.session.process.log_tail())
            self.stop()

    def _setup_ended(self, setup: Setup) -> None:
        self.setup = self._found = None
        if setup.error is not None:
            self.fail(setup.error, setup.log.read_text("utf-8", "replace")[-8000:] if setup.log.exists() else "")

    def _rendering(self, job: Job) -> None:
        job.stage = "Rendering"
        source = job.spec.source.poll()
        if source is None:
            return
        job.spec.set_source(source)
        if job.spec.request is None:
            self.job = None
            self._keep(Result(job.spec))

    def _send(self, job: Job) -> None:
        if job.spec.is_rendering:
            return
        job.id = self.session.client.submit(job.spec.request)
        job.stage = "Sent to the backend"

    def _take(self, message: Event | Reply) -> None:
        job = self.job
        if job is None or message.id != job.id:
            return  # a status, or an event of a job that was dropped
        match message:
            case QueuedEvent():
                job.stage = f"Waiting for {message.ahead} others" if message.ahead else "Beginning"
            case ProgressEvent():
                job.stage, job.step, job.of = message.stage, message.step, message.of
                job.fraction, job.seconds_left = message.fraction, message.seconds_left
            case PreviewEvent():
                job.previews.pop(message.map, None)
                job.previews[message.map] = message.picture
            case JobReply():
                self.job = None
                self.seconds[job.spec.cost()] = message.compute_seconds
                self._keep(Result(job.spec, message))
                self.session.client.status()  # how much memory is left now
            case ErrorReply():
                self.job = None
                error = errors.from_code(message.code, message.message, message.hint)
                self.fail(error, self.session.process.log_tail())

    def _keep(self, result: Result) -> None:
        self.results.insert(0, result)
        while len(self.results) > MAX_RESULTS and any(old.built for old in self.results):
            self.results.remove(next(old for old in reversed(self.results) if old.built))

    def fail(self, error: Exception, log: str = "") -> None:
        """Remember an error for the panel; the details of one that isn't Panoform's hold its traceback."""
        if not isinstance(error, PanoformError):
            error = errors.unexpected(error)
        if error.__cause__ is not None:
            log = "\n".join(["".join(traceback.format_exception(error.__cause__)), log])
        system = f"Panoform {VERSION}, Blender {bpy.app.version_string}, {platform.platform()}"
        lines = (system, f"{error.code}: {error.message}", error.hint, log)
        self.failure = Failure(error, "\n".join(line for line in lines if line))


def _close(spec: JobSpec) -> None:
    """Stop the render of its source, if that is under way."""
    if spec.is_rendering:
        spec.source.close()


def find_scene(uid: int) -> bpy.types.Scene | None:
    return next((scene for scene in bpy.data.scenes if scene.session_uid == uid), None)


#: The one there is.
jobs = Jobs()


def register() -> None:
    atexit.register(jobs.close)


def unregister() -> None:
    atexit.unregister(jobs.close)
    jobs.close()
    jobs.__init__()
