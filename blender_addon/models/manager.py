"""Ask a backend which models are here, and let it download others, beside the jobs of the queue.

It is a backend process of its own, started for this and stopped when it has had nothing to do for a minute, so that no
job waits for a download of hours. With a backend that runs already (preferences), it is a second connection to that.
"""

from __future__ import annotations

import atexit
import dataclasses
import time

import bpy

from ...shared.jobs.models import DownloadReply, DownloadRequest, ModelsReply, ModelsRequest
from ...shared.protocol import errors
from ...shared.protocol.errors import BackendLostError, PanoformError, SettingError
from ...shared.protocol.messages import ErrorReply, Event, JobRequest, ProgressEvent, QueuedEvent, Reply
from ...shared.weights import WEIGHTS, gigabytes
from .. import preferences
from ..backend.session import Session
from ..jobs.job import duration
from ..jobs.manager import jobs
from ..translation import tr

#: Preference that names the weights, by their name in WEIGHTS.
PREFERENCES = {
    "flux": "flux_model",
    "omnix": "flux_adapters",
    "sd21": "multiview_model",
    "mv-adapter": "multiview_adapters",
}
_WAIT_S = 0.05
#: Seconds without a task until the backend is stopped.
IDLE_S = 60.0


@dataclasses.dataclass(eq=False)
class Task:
    """A request to the backend; progress as in ProgressEvent."""

    request: JobRequest
    #: None until it is sent.
    id: str | None = None
    stage: str = "Starting"
    step: int = 0
    of: int = 0
    fraction: float = 0.0
    seconds_left: float | None = None

    @property
    def text(self) -> str:
        """The progress, as in "1.2 GB of 33.7 GB · 12 min left"."""
        if not self.of:
            return tr(self.stage)
        arrived = tr("{done} of {total}", done=gigabytes(self.step * 1e6), total=gigabytes(self.of * 1e6))
        if self.seconds_left is None:
            return arrived
        return " · ".join((arrived, tr("{time} left", time=duration(self.seconds_left))))


class Models:
    """What is known of the models; `models` is the only instance."""

    def __init__(self) -> None:
        #: The last answer; None before the first.
        self.state: ModelsReply | None = None
        self.tasks: list[Task] = []
        #: Last error of each download, by the name of the weights; "": that of asking for the state.
        self.failures: dict[str, PanoformError] = {}
        self._session: Session | None = None
        #: When the last task ended (`time.monotonic`).
        self._idle_since = 0.0
        #: The settings that `state` was asked for.
        self._asked: tuple | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a backend."""
        return self._session is not None

    @property
    def is_current(self) -> bool:
        """Whether the state was asked for with the settings of the preferences."""
        return self._asked == _engines()

    @property
    def checking(self) -> bool:
        return any(isinstance(task.request, ModelsRequest) for task in self.tasks)

    def download_of(self, name: str) -> Task | None:
        """Return the download of these weights that runs or waits."""
        found = (task for task in self.tasks if isinstance(task.request, DownloadRequest))
        return next((task for task in found if task.request.weights == name), None)

    def check(self) -> None:
        """Ask for the state. Raise SettingError, and the errors of starting a backend."""
        self._asked = _engines()
        self.failures.pop("", None)
        if not self.checking:
            self._submit(ModelsRequest(engines=self._asked))

    def download(self, name: str) -> None:
        """Download the weights called `name`. Raise the errors of starting a backend."""
        self.failures.pop(name, None)
        if self.download_of(name) is None:
            self._submit(DownloadRequest(weights=name))

    def cancel(self, name: str) -> None:
        """Stop a download; what has arrived is kept."""
        task = self.download_of(name)
        if task is None:
            return
        self.tasks.remove(task)
        if task.id is not None:
            self._session.client.cancel(task.id)
        self._check_again()

    def _submit(self, request: JobRequest) -> None:
        if self._session is None:
            self._session = jobs.open_session()
        self.tasks.append(Task(request))

    def _check_again(self) -> None:
        """Ask for the state again, as something has changed, after the tasks that wait."""
        if not self.checking:
            self._submit(ModelsRequest(engines=_engines()))
            self._asked = _engines()

    def poll(self) -> None:
        """Process all pending messages without blocking."""
        session = self._session
        if session is None:
            return
        try:
            for message in session.poll():
                self._handle(message)
            if session.status is not None:
                for task in self.tasks:
                    if task.id is None:
                        task.id = session.client.submit(task.request)
                        task.stage = "Waiting"
        except PanoformError as error:
            self._fail_all(error)
        self._stop_if_idle()

    def wait(self, timeout_s: float) -> None:
        """Poll until nothing is left to do. Raise BackendLostError after `timeout_s` seconds."""
        by = time.monotonic() + timeout_s
        while self.tasks:
            self.poll()
            if time.monotonic() > by:
                raise BackendLostError("The backend did not answer.", "Try again.")
            time.sleep(_WAIT_S)

    def close(self, *, wait: bool = bpy.app.background) -> None:
        """Stop the backend. Downloads are kept as far as they have come."""
        session, self._session = self._session, None
        self.tasks.clear()
        if session is not None:
            session.close(wait=wait)

    def _fail_all(self, error: PanoformError) -> None:
        for task in self.tasks:
            self.failures[_name(task)] = error
        self.close()

    def _stop_if_idle(self) -> None:
        if self.tasks:
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > IDLE_S:
            self.close()

    def _handle(self, message: Event | Reply) -> None:
        task = next((task for task in self.tasks if task.id == message.id), None)
        if task is None:
            return
        match message:
            case QueuedEvent():
                task.stage = "Waiting" if message.ahead else "Starting"
            case ProgressEvent():
                task.stage, task.step, task.of = message.stage, message.step, message.of
                task.fraction, task.seconds_left = message.fraction, message.seconds_left
            case ModelsReply():
                self.tasks.remove(task)
                self.state = message
                _keep_found(task.request, message)
            case DownloadReply():
                self.tasks.remove(task)
                _use_download(_name(task), message.path)
                self._check_again()
            case ErrorReply():
                self.tasks.remove(task)
                self.failures[_name(task)] = errors.from_code(message.code, message.message, message.hint)


def use(name: str, path: str) -> None:
    """Set the preference that names these weights. Raise SettingError for weights without one."""
    if name not in PREFERENCES:
        raise SettingError(f"{WEIGHTS[name].label} has no setting in the preferences.", "Choose it where it is used.")
    preferences.change(PREFERENCES[name], path)


def _use_download(name: str, path: str) -> None:
    """Let textures be made with a downloaded model, unless the user has chosen another.

    All other weights are found by themselves in the folder of downloads.
    """
    if name == "sd21" and not getattr(preferences.get(), PREFERENCES[name]):
        use(name, path)


def _keep_found(request: ModelsRequest, reply: ModelsReply) -> None:
    """Keep in the preferences where FLUX and its adapters are, for the engine Automatic, or that they aren't."""
    own = preferences.get()
    if own.running_backend() is not None or any(engine.model for engine in request.engines if engine.engine == "flux"):
        return
    states = {state.name: state for state in reply.weights}
    here = all(name in states and states[name].place and not states[name].problem for name in ("flux", "omnix"))
    found = states["flux"].place if here else ""
    if found != own.flux_found:
        preferences.change("flux_found", found)


def _name(task: Task) -> str:
    """Return the name of the weights that the task downloads; "" for one that asks for the state."""
    return task.request.weights if isinstance(task.request, DownloadRequest) else ""


def _engines() -> tuple:
    """Return the settings of the engines with weights, from the preferences."""
    own = preferences.get()
    return tuple(own.model_settings(engine) for engine in dict.fromkeys(spec.engine for spec in WEIGHTS.values()))


#: The only instance.
models = Models()


def register() -> None:
    atexit.register(models.close)


def unregister() -> None:
    atexit.unregister(models.close)
    models.close()
    models.__init__()
