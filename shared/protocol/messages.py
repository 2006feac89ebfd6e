"""Base classes of the messages between Blender and the backend, and the messages that are common to all jobs.

    Request   Blender → backend. Has an id chosen by the client; all messages about it have the same id.
    Event     backend → Blender, any number of them before the reply.
    Reply     backend → Blender, exactly one for each request.

Each kind of job has its own `JobRequest` and `JobReply` in shared/jobs/; server, worker and client use only the base
classes. The encoding as ZeroMQ frames is in wire.py. Arrays of pixels are (H, W, C), C-contiguous, little-endian, the
top row first, in the frame of shared/imaging/sphere.py; contents of files are (bytes,) uint8.
"""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

import msgspec
import numpy as np

#: Incremented with every incompatible change.
PROTOCOL_VERSION = 6

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


def new_id() -> str:
    """Return a unique id."""
    return uuid4().hex


class Message(msgspec.Struct, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; its tag on the wire is the name of the class."""

    id: Id


class Request(Message, kw_only=True):
    """Base of all requests from Blender."""

    id: Id = msgspec.field(default_factory=new_id)


class Event(Message, kw_only=True):
    """Base of the messages about a request before its reply."""


class Reply(Message, kw_only=True):
    """Base of the last message about a request."""


class JobRequest(Request, kw_only=True):
    """Base of the requests that are queued for the device."""


class JobReply(Reply, kw_only=True):
    """Base of the replies to jobs."""

    @property
    def compute_seconds(self) -> float:
        """Computing time in seconds, loading included."""
        raise NotImplementedError(type(self).__name__)


# Requests


class StatusRequest(Request, kw_only=True):
    """Ask for the backend's status. Answered at once by a StatusReply, even while a job runs."""


class CancelRequest(Request, kw_only=True):
    """Stop a job, queued or running, within one step. The job itself ends in ErrorReply(code="cancelled")."""

    job: Id


class ShutdownRequest(Request, kw_only=True):
    """Shut down the backend: all jobs are cancelled, every request gets its reply, the process exits."""


# Events


class QueuedEvent(Event, kw_only=True):
    """The job is queued: `ahead` other jobs come before it."""

    ahead: int


class ProgressEvent(Event, kw_only=True):
    """Progress of a job. Sent when work has been done, never before."""

    #: The current stage, as the panel shows it: "Loading FLUX", "Distance", "Decoding Distance".
    stage: str
    #: Steps done in this stage, and their total (0 of 0 where a stage has no steps).
    step: int
    of: int
    #: Completed share of the whole job, in [0, 1].
    fraction: float
    #: Estimated from the steps done so far; None before the first.
    seconds_left: float | None = None


class PreviewEvent(Event, kw_only=True):
    """An intermediate state of a result."""

    #: Name of the result: one from maps.MAPS, "panorama", or "views" (six, three in a row).
    map: str
    #: (H, W, 3) uint8, small (at most 256 wide).
    picture: np.ndarray


# Replies


class StatusReply(Reply, kw_only=True):
    """Status of the backend."""

    #: Panoform's version, "0.1.0".
    version: str
    pid: int
    #: Id of the running job, None when idle; number of jobs queued after it.
    running: str | None
    queued: int
    #: Label of the model used last that is still in memory ("FLUX + OmniX"), and its device; None while there is none.
    engine: str | None = None
    device: str | None = None
    #: Free and total memory of that device in bytes.
    memory_free: int | None = None
    memory_total: int | None = None
    #: What the backend holds of it, in bytes.
    memory_held: int | None = None


class CancelReply(Reply, kw_only=True):
    """Reply to a CancelRequest."""

    #: False where there is no such job.
    cancelled: bool


class ShutdownReply(Reply, kw_only=True):
    """The last message of a backend."""


class ErrorReply(Reply, kw_only=True):
    """The request failed. `errors.from_code` restores the error."""

    code: str
    message: str
    hint: str = ""
