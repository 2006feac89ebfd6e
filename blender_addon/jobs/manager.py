"""The state of the add-on: the backend session, the current job and those that wait, the results, the last failure.

    operators → jobs.set_up / submit / cancel / stop         the panel draws the state of `jobs`
    backend   → jobs.poll → job (progress) → results → built by an operator

In a window, timer.py calls `poll` from a timer; in background mode, `wait` calls it in a loop. `jobs` outlives files,
undo and deleted scenes: it holds no reference to a datablock, only a scene's `session_uid`.
"""

from __future__ import annotations

import atexit
import dataclasses
import platform
import time
import traceback
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import bpy

from ...shared import VERSION
from ...shared.file_errors import system_error
from ...shared.protocol import errors
from ...shared.protocol.errors import (
    BackendMissingError,
    BackendVersionError,
    BusyError,
    Cancelled,
    OutputError,
    PanoformError,
)
from ...shared.protocol.messages import ErrorReply, Event, JobReply, PreviewEvent, ProgressEvent, QueuedEvent, Reply
from .. import preferences
from ..backend import installer
from ..backend.environment_task import EnvironmentTask
from ..backend.installer import Installed, Setup
from ..backend.process import STOP_TIMEOUT_S, BackendProcess
from ..backend.removal import Removal
from ..backend.running import RunningBackend
from ..backend.session import Session
from ..translation import tr
from .durations import Durations
from .job import Job, clock
from .queue import Queue
from .specs import JobSpec, Result

#: Most results kept in memory; the oldest built one is removed first.
MAX_RESULTS = 8
#: Seconds without an answer from the backend, until the panel says so.
_SILENCE_S = 5.0
#: Seconds that a backend, whose job did not stop, gets to exit by itself.
_RESTART_TIMEOUT_S = 1.0


class State(Enum):
    """The state of the backend."""

    NOT_SET_UP = "Not set up"
    OUT_OF_DATE = "Version mismatch"
    SETTING_UP = "Setting up"
    STOPPED = "Not running"
    STARTING = "Starting"
    READY = "Ready"


@dataclasses.dataclass(eq=False)
class Failure:
    """The last error, shown in the panel."""

    error: PanoformError
    #: Details for a bug report.
    details: str
    #: The job that failed, if it can be started again.
    job: Job | None = None


class Jobs:
    """The job manager; `jobs` is its only instance."""

    def __init__(self) -> None:
        self.session: Session | None = None
        #: The setup of the environment, or its removal.
        self.setup: EnvironmentTask | None = None
        #: The job that starts once the setup has ended.
        self._after_setup: JobSpec | None = None
        self.job: Job | None = None
        #: Jobs to run after it.
        self.queue = Queue()
        #: Newest first.
        self.results: list[Result] = []
        self.failure: Failure | None = None
        #: Duration in seconds of the last job with each cost (`JobSpec.cost`).
        self.seconds = Durations()
        #: Whether the backend was started in this Blender, after which it isn't started early again.
        self._was_started = False
        self._installed: tuple[float, Path, Installed] | None = None
        #: Backends that were stopped but may still be exiting.
        self._stopping: list[BackendProcess | RunningBackend] = []

    # The backend

    @property
    def state(self) -> State:
        if self.setup is not None:
            return State.SETTING_UP
        if self.session is not None:
            return State.STARTING if self.session.status is None else State.READY
        if preferences.get().running_backend() is not None or preferences.get().python() is not None:
            return State.STOPPED
        installed = self._find_installed()
        if installed is Installed.READY:
            return State.STOPPED
        return State.OUT_OF_DATE if installed is Installed.OTHER_VERSION else State.NOT_SET_UP

    @property
    def has_backend(self) -> bool:
        """Whether a backend runs, or can be started."""
        return self.state in {State.STOPPED, State.STARTING, State.READY}

    @property
    def busy(self) -> bool:
        """Whether a job, the setup or the start of the backend is in progress."""
        return self.job is not None or self.queue.is_due or self.state in {State.SETTING_UP, State.STARTING}

    def _find_installed(self) -> Installed:
        """Return the state of the environment, cached for a second because the panel reads it on each redraw."""
        folder = preferences.get().environment_folder()
        now = time.monotonic()
        if self._installed is None or self._installed[1] != folder or now - self._installed[0] > 1:
            self._installed = (now, folder, installer.find(folder, VERSION))
        return self._installed[2]

    def set_up(self, wheel: Path, python: Path, then: JobSpec | None = None) -> None:
        """Start setting up the environment in the folder from the preferences; `then`: the job that tries it out.

        Raise BusyError, and SettingError for what is no proxy.
        """
        own = preferences.get()
        where = {"packages": own.packages_place(), "proxy": own.proxy_variables()}
        self._start_task(
            lambda: Setup(own.environment_folder(), wheel, python, before=self._wait_until_stopped, **where)
        )
        self._after_setup = then

    def remove_environment(self) -> None:
        """Start removing the environment in the folder from the preferences. Raise BusyError."""
        self._start_task(lambda: Removal(preferences.get().environment_folder(), self._wait_until_stopped))

    def _start_task(self, make: Callable[[], EnvironmentTask]) -> None:
        """Start work on the environment once the backend, which uses it, has stopped. Raise BusyError."""
        if self.setup is not None and self.setup.cancelling:
            raise BusyError("The cancelled setup has not ended yet.", "Try again in a moment.")
        if self.setup is not None:
            raise BusyError("The backend is already being set up or removed.", "Wait until it finishes, or cancel it.")
        self.stop()
        self.failure = self._after_setup = None
        self.setup = make()
        self.setup.start()

    @property
    def can_start_early(self) -> bool:
        """Whether the backend may be started before there is a job: once, where it is set up and the user allows it."""
        return not self._was_started and preferences.get().start_early and self.state is State.STOPPED

    def start(self, *, warm_up: bool = False) -> None:
        """Start the backend, or connect to that of the preferences, unless it is done already.

        `warm_up`: it imports what the first job needs. Raise BackendMissingError, BackendVersionError, OutputError,
        SettingError.
        """
        session = self.session
        if session is not None and session.process.is_own and session.process.has_exited:  # since the last poll
            session.close(wait=False)
            self.session = None
        if self.session is None:
            self._was_started = True
            self.session = self.open_session(warm_up=warm_up)

    def open_session(self, *, warm_up: bool = False) -> Session:
        """Start another backend, or connect to that of the preferences. Raise the errors of `start`."""
        running = preferences.get().running_backend()
        if running is not None:
            return Session(RunningBackend(running))
        folder = preferences.get().environment_folder() / "run"
        try:
            variables = preferences.get().network_variables()
            return Session.start(self.python(), folder, warm_up=warm_up, variables=variables)
        except OSError as error:
            raise OutputError(
                f"{folder} can't be written: {error.strerror}.", "Choose another folder in the preferences."
            ) from error

    def python(self) -> Path:
        """Return the backend's Python: the user's, else that of Panoform's environment.

        Raise BackendMissingError, BackendVersionError.
        """
        own = preferences.get().python()
        if own is not None:
            return own
        folder = preferences.get().environment_folder()
        installed = installer.find(folder, VERSION)
        if installed is Installed.OTHER_VERSION:
            raise BackendVersionError(f"The backend is not version {VERSION} as the add-on is.", "Update it.")
        if installed is not Installed.READY:
            state = "is not set up" if installed is Installed.ABSENT else "is not completely set up"
            raise BackendMissingError(f"The backend {state}.", 'Press "Set Up Backend".')
        return installer.python_in(folder)

    def stop(self, *, wait: bool = bpy.app.background, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the backend and its job, by force after `timeout_s`; `wait` until its process has exited.

        Jobs that wait are held.
        """
        self.queue.held = len(self.queue) > 0
        session, self.session = self.session, None
        if session is not None:
            self._note_stopping(session)
            session.close(wait=wait, timeout_s=timeout_s)
        self._drop()

    def close(self, *, wait: bool = bpy.app.background) -> None:
        """Stop the setup and the backend; `wait` for both. Keep the results. Jobs that wait are removed.

        Without waiting, they end by themselves: the setup's programs and the backend are tied to this process.
        """
        self.queue.clear()
        if self.setup is not None:
            self.setup.cancel(wait=wait)
            self.setup = None
        session, self.session = self.session, None
        if session is not None:
            self._note_stopping(session)
            session.release()
        self._drop()
        if wait:
            self._wait_until_stopped()

    def _wait_until_stopped(self) -> None:
        for process in list(self._stopping):
            process.stop(wait=True)

    def _note_stopping(self, session: Session) -> None:
        """Keep the process until it has exited."""
        self._stopping = [process for process in (*self._stopping, session.process) if not process.has_exited]

    # Jobs

    def submit(self, spec: JobSpec) -> int:
        """Start a job, or let it wait for those before it, and return their number.

        Jobs that were held go on. Raise BusyError where too many wait, and the errors of `start`.
        """
        self.queue.held = False
        if self.job is None and not self.queue:
            self.begin(spec)
            return 0
        self.queue.add(spec)
        return len(self.queue) - (self.job is None)

    def begin(self, spec: JobSpec) -> None:
        """Start a job. Raise BusyError and the errors of `start`."""
        if self.job is not None:
            raise BusyError("Another Panoform job is running.", "Wait until it finishes, or cancel it.")
        self.failure = None
        try:
            self._begin(spec)
        except PanoformError:
            spec.close()
            raise

    def _begin(self, spec: JobSpec) -> None:
        if spec.request is not None:
            self.start()
        self.job = Job(spec)

    def _begin_next(self) -> None:
        """Start the next job if none runs. If the backend can't start, all that wait are held."""
        if self.job is not None or self.setup is not None or not self.queue.is_due:
            return
        try:
            self._begin(self.queue.next)
            self.queue.take()
        except PanoformError as error:
            self.queue.held = True
            self.fail(error)

    def retry(self) -> None:
        """Start the job that failed or was cancelled again, before those that wait. Raise the errors of `begin`."""
        failed = self.failure.job
        self.begin(failed.spec)
        if failed.kept in self.results:
            self.results.remove(failed.kept)
        self.job.kept = failed.kept

    def cancel(self) -> None:
        """Cancel the setup or the job."""
        if self.setup is not None:
            self.setup.cancel()
        if self.job is not None and self.job.id is not None:
            if not self.job.cancelling:
                self.job.cancelling, self.job.cancelled_at = True, time.monotonic()
            self.session.client.cancel(self.job.id)
        elif self.job is not None:
            self._drop()

    def _drop(self) -> None:
        """Discard the job. The result of the job that it follows is listed, not to be built by itself."""
        job, self.job = self.job, None
        if job is None:
            return
        job.spec.close()
        if job.kept is not None:
            job.kept.pending = False
            self._add_result(job.kept)

    def wait(self) -> Result:
        """Poll until the job and those that follow it have ended and print the progress.

        Return the last job's result, or raise its error.
        """
        printed = ""
        try:
            while self.job is not None:
                if self.job.text != printed:
                    printed = self.job.text
                    print(f"Panoform: {printed}", flush=True)
                self.poll()
                time.sleep(0.02)
        except KeyboardInterrupt:
            self.stop(wait=True)
            raise
        if self.failure is not None:
            raise self.failure.error
        return self.results[0]

    def wait_for_setup(self) -> None:
        """Poll until the setup has ended and print its progress. Raise its error."""
        printed = ""
        while self.setup is not None:
            if self.setup.status != printed:
                printed = self.setup.status
                print(f"Panoform: {printed}", flush=True)
            time.sleep(0.1)
            self.poll()
        if self.failure is not None:
            raise self.failure.error

    def poll(self) -> None:
        """Process all pending messages without blocking. An error of the job or the backend stops it."""
        if self.setup is not None and self.setup.done:
            self._finish_setup(self.setup)
        try:
            if self.job is not None and self.job.spec.is_rendering:
                self._poll_render(self.job)
        except Exception as error:
            self.fail(error)
            self._drop()
        self.queue.poll_renders(self.fail)
        if self.session is not None:
            self._poll_session()
        self._begin_next()

    def _poll_session(self) -> None:
        session = self.session  # `_restart` may end it, and then fail
        try:
            for message in session.poll():
                self._handle(message)
            if self.job is not None and self.job.id is None and self.session.status is not None:
                self._send(self.job)
            if self.job is not None and self.job.cancelling and self.job.restart_in_s < 0:
                self._restart()
        except Exception as error:
            self.fail(error, session.process.log_tail(), self.job)
            self.stop()

    def _restart(self) -> None:
        """Restart the backend, whose job does not stop; only connect again to one that isn't this Blender's."""
        done = "the backend was restarted" if self.session.process.is_own else "the connection was closed"
        job = self.job
        self.stop(timeout_s=_RESTART_TIMEOUT_S)
        message = f"The job was cancelled. It did not stop within {Job.PATIENCE_S:.0f} s: {done}."
        self.fail(Cancelled(message), job=job)
        self.start()
        self.queue.held = False

    @property
    def patience(self) -> str:
        """What the panel says of a backend or a job that takes long; "" for nothing."""
        cancelling = self.job is not None and self.job.cancelling
        client = self.session.client if self.session is not None else None
        if client is not None and client.silence_s > _SILENCE_S and not cancelling:
            left = max(client.patience_s - client.silence_s, 0)
            return tr(
                "The backend has not answered for {time}. It is stopped in {left}.",
                time=clock(client.silence_s),
                left=clock(left),
            )
        return self.job.slow if self.job is not None else ""

    def _finish_setup(self, setup: EnvironmentTask) -> None:
        self.setup = self._installed = None
        then, self._after_setup = self._after_setup, None
        if setup.error is not None:
            self.fail(setup.error, setup.log.read_text("utf-8", "replace")[-8000:] if setup.log.exists() else "")
            return
        self._was_started = False
        if then is not None:
            try:
                self.begin(then)
            except PanoformError as error:
                self.fail(error)

    def _poll_render(self, job: Job) -> None:
        job.stage = "Rendering"
        if job.spec.poll_render() is not None and job.spec.request is None:
            self.job = None
            self._add_result(Result(job.spec))

    def _send(self, job: Job) -> None:
        if job.spec.is_rendering:
            return
        job.id = self.session.client.submit(job.spec.request)
        job.stage, job.reported_at = "Sent to the backend", time.monotonic()

    def _handle(self, message: Event | Reply) -> None:
        job = self.job
        if job is None or message.id != job.id:
            return  # a status, or a message of a discarded job
        job.report()
        match message:
            case QueuedEvent():
                job.stage = tr("Queued behind {count}", count=message.ahead) if message.ahead else "Starting"
            case ProgressEvent():
                job.stage, job.step, job.of = message.stage, message.step, message.of
                job.fraction, job.seconds_left = message.fraction, message.seconds_left
            case PreviewEvent():
                job.previews.pop(message.map, None)
                job.previews[message.map] = message.picture
            case JobReply():
                self._finish(job, message)
                self.session.client.status()  # updates the free memory
            case ErrorReply():
                self._drop()
                error = errors.from_code(message.code, message.message, message.hint)
                self.fail(error, self.session.process.log_tail(), job)

    def _finish(self, job: Job, reply: JobReply) -> None:
        """Store the result of the job, or start the job that follows it."""
        job.kept = result = Result(job.spec, reply)  # kept if anything below fails
        self.seconds[job.spec.cost()] = reply.compute_seconds
        next_spec = job.spec.follow_up(reply)
        if next_spec is None:
            self.job = None
            self._add_result(result)
        else:
            self.job = Job(next_spec, kept=result)

    def _add_result(self, result: Result) -> None:
        self.results.insert(0, result)
        while len(self.results) > MAX_RESULTS and any(old.built for old in self.results):
            self.results.remove(next(old for old in reversed(self.results) if old.built))

    def fail(self, error: BaseException, log: str = "", job: Job | None = None) -> None:
        """Store an error for the panel; the details of an unexpected one include its traceback.

        `job`: the one that it ended. It can be started again unless its source was still being rendered.
        """
        if not isinstance(error, PanoformError):
            raised, error = error, system_error(error) or errors.unexpected(error)
            error.__cause__ = raised
        if error.__cause__ is not None:
            log = "\n".join(["".join(traceback.format_exception(error.__cause__)), log])
        system = f"Panoform {VERSION}, Blender {bpy.app.version_string}, {platform.platform()}"
        lines = (system, f"{error.code}: {error.message}", error.hint, log)
        again = job if job is not None and not job.spec.is_rendering else None
        self.failure = Failure(error, "\n".join(line for line in lines if line), again)


def find_scene(uid: int) -> bpy.types.Scene | None:
    return next((scene for scene in bpy.data.scenes if scene.session_uid == uid), None)


#: The only instance.
jobs = Jobs()


def register() -> None:
    atexit.register(jobs.close)


def unregister() -> None:
    atexit.unregister(jobs.close)
    jobs.close()
    jobs.__init__()
