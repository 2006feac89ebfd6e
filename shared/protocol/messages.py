"""The base of every message between Blender and the backend, and the messages that belong to no one kind of job.

    Request   Blender → backend. Carries an id of the client's choosing; everything said about it carries the same id.
    Event     backend → Blender, any number of them before the reply.
    Reply     backend → Blender, exactly one for each request.

A kind of job is a `JobRequest` and a `JobReply` of its own in shared/jobs/; server, worker and client know only the
bases. How messages become ZeroMQ frames: wire.py. Arrays are (H, W, C), C-contiguous, little-endian, the top row first,
in the frame of shared/imaging/sphere.py.
"""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

import msgspec
import numpy as np

#: Raised with every change that an older side would misread.
PROTOCOL_VERSION = 2

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


def new_id() -> str:
    """Return an id that no other request has."""
    return uuid4().hex


class Message(msgspec.Struct, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; the tag on the wire is the class's name."""

    id: Id


class Request(Message, kw_only=True):
    """Base of what Blender asks."""

    id: Id = msgspec.field(default_factory=new_id)


class Event(Message, kw_only=True):
    """Base of what the backend reports about a request before its reply."""


class Reply(Message, kw_only=True):
    """Base of the last message about a request."""


class JobRequest(Request, kw_only=True):
    """Base of the requests that wait in the queue for the device."""


class JobReply(Reply, kw_only=True):
    """Base of what jobs return."""

    @property
    def compute_seconds(self) -> float:
        """How long the backend worked on it, loading included."""
        raise NotImplementedError(type(self).__name__)


# Requests


class StatusRequest(Request, kw_only=True):
    """Ask how the backend is doing. Answered at once by a StatusReply, whatever is running."""


class CancelRequest(Request, kw_only=True):
    """Stop a job, queued or running, within one step. The job itself ends in ErrorReply(code="cancelled")."""

    job: Id


class ShutdownRequest(Request, kw_only=True):
    """End the backend: the running job is cancelled, every request gets its reply, the process exits."""


# Events


class QueuedEvent(Event, kw_only=True):
    """The job waits: `ahead` others come before it."""

    ahead: int


class ProgressEvent(Event, kw_only=True):
    """Work that was done. Sent after it, never before."""

    #: The current stage, as the panel shows it: "Loading FLUX", "Distance", "Decoding Distance".
    stage: str
    #: Steps done in this stage, of how many (0 of 0 where a stage has no steps).
    step: int
    of: int
    #: Share of the whole job done, in [0, 1].
    fraction: float
    #: Estimated from the steps done so far; None until one step has been timed.
    seconds_left: float | None = None


class PreviewEvent(Event, kw_only=True):
    """What a result looks like so far."""

    #: Name of the result: one from maps.MAPS, or "panorama".
    map: str
    #: (H, W, 3) uint8, small (at most 256 wide).
    picture: np.ndarray


# Replies


class StatusReply(Reply, kw_only=True):
    """How the backend is doing."""

    #: Panoform's version, "0.1.0".
    version: str
    pid: int
    #: Id of the job on the device, None when idle; how many wait behind it.
    running: str | None
    queued: int
    #: Label of the model used last that is still in memory ("FLUX + OmniX"), and its device; None while there is none.
    engine: str | None = None
    device: str | None = None
    #: Free and total memory of that device in bytes.
    memory_free: int | None = None
    memory_total: int | None = None


class CancelReply(Reply, kw_only=True):
    """Whether the job was there to be cancelled."""

    cancelled: bool


class ShutdownReply(Reply, kw_only=True):
    """The last message of a backend."""


class ErrorReply(Reply, kw_only=True):
    """The request failed. `errors.from_code` makes the error again."""

    code: str
    message: str
    hint: str = ""
