"""Every message between Blender and the backend: the contract.

A request carries an id of the client's choosing; everything said about it carries the same id. It ends in exactly one
reply (`…Reply` or `ErrorReply`), with any number of `…Event`s before it. How messages become ZeroMQ frames: wire.py.

Arrays are (H, W, C), C-contiguous, little-endian, the top row first; the frame is sphere.py's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from ..engines import EngineSettings, PerceiveSettings
from ..jobs.generate import GenerateSettings, View

#: Raised with every change that an older side would misread.
PROTOCOL_VERSION = 1

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Message(msgspec.Struct, kw_only=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages; the tag on the wire is the class's name."""

    id: Id


# Requests, Blender → backend


class StatusRequest(Message, kw_only=True):
    """Answered at once by a StatusReply, whatever is running."""


class PerceiveRequest(Message, kw_only=True):
    """Perceive maps from one panorama. Queued-, Progress- and PreviewEvents come before its PerceiveReply."""

    #: (H, W, 3) float32, W = 2·H to within 1 %. Finite; negative only where a colour lies outside Rec.709.
    panorama: np.ndarray
    #: "linear": scene-referred linear Rec.709 light, any exposure. "srgb": display-referred, in [0, 1].
    encoding: Literal["linear", "srgb"]
    #: Where it came from, for the record ("interior.exr").
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    engine: EngineSettings
    settings: PerceiveSettings
    #: Absolute path of a result folder that the backend writes too, as `panoform perceive --out` does; "": none.
    directory: Annotated[str, msgspec.Meta(max_length=4096)] = ""


class GenerateRequest(Message, kw_only=True):
    """Make a panorama for each seed, of words or of a picture. Ends in a GenerateReply; events as for perception."""

    #: (h, w, 3) float32 sRGB in [0, 1], a perspective picture to be completed; None: of the words alone.
    picture: np.ndarray | None = None
    #: Where the picture's camera looked, and its field of view, which must be given with a picture.
    view: View = View()
    #: The picture's name, for the record ("holiday.jpg").
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    engine: EngineSettings
    settings: GenerateSettings


class EditRequest(Message, kw_only=True):
    """Change a panorama where the mask is, once for each seed. Ends in a GenerateReply; events as for perception."""

    #: (H, W, 3) float32, W = 2·H exactly. Finite and not negative.
    panorama: np.ndarray
    #: As in PerceiveRequest; the results are in the same.
    encoding: Literal["linear", "srgb"]
    #: (H, W, 1) uint8, 0 where the panorama keeps every bit. None: all of it may change.
    mask: np.ndarray | None = None
    #: How far it may go from what was there, in (0, 1]: 1 forgets that, 0.3 is a variation.
    strength: float = 1.0
    #: Whether nothing is known in the mask: what the panorama has there is not looked at.
    extend: bool = False
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    engine: EngineSettings
    settings: GenerateSettings


class CancelRequest(Message, kw_only=True):
    """Stop that job, queued or running, within one step. The job itself ends in ErrorReply(code="cancelled")."""

    job: Id


class ShutdownRequest(Message, kw_only=True):
    """End the backend: the running job is cancelled, every request gets its reply, the process exits."""


# Events, backend → Blender


class QueuedEvent(Message, kw_only=True):
    """The job waits: `ahead` others come before it."""

    ahead: int


class ProgressEvent(Message, kw_only=True):
    """Work that was done. Sent after it, never before."""

    #: What is going on, in words for the panel: "Loading FLUX", "Distance", "Decoding Distance".
    stage: str
    #: Steps done in this stage, of how many (0 of 0 where a stage has no steps).
    step: int
    of: int
    #: Share of the whole job done, in [0, 1].
    fraction: float
    #: Estimated from the steps done so far; None until one step has been timed.
    seconds_left: float | None = None


class PreviewEvent(Message, kw_only=True):
    """What a map looks like so far."""

    #: Name from maps.MAPS, or "panorama".
    map: str
    #: (H, W, 3) uint8, small (at most 256 wide).
    picture: np.ndarray


# Replies, backend → Blender


class StatusReply(Message, kw_only=True):
    """How the backend is doing."""

    #: Panoform's version, "0.1.0".
    version: str
    pid: int
    #: Id of the job on the device, None when idle; how many wait behind it.
    running: str | None
    queued: int
    #: The model in memory, in words ("FLUX + OmniX"), None before the first job; the device it is on.
    engine: str | None = None
    device: str | None = None
    #: Free and total memory of that device in bytes, None before the first job.
    memory_free: int | None = None
    memory_total: int | None = None


class Info(msgspec.Struct, kw_only=True):
    """What was made, by what, from what. `maps.json` in a result folder is this as JSON."""

    panoform: str
    #: "starter" or "flux"; the checkpoint and adapters it loaded, as given.
    engine: str
    model: str
    adapters: str
    #: One plain line where the user must know something (an untrained model), else "".
    notice: str
    #: Maps in this result: name → what its numbers mean.
    maps: dict[str, str]
    #: What x, y and z of the normals are, in words.
    frame: str
    #: Where the panorama came from; size of it as given, (height, width) in pixels; size the model saw.
    source: str
    source_size: tuple[int, int]
    size: tuple[int, int]
    #: How HDR became the [0, 1] picture the model saw (backend/lighting/exposure.py); None for an sRGB picture.
    exposure: dict[str, float | str] | None
    seed: int
    num_inference_steps: int
    guidance_scale: float
    device: str
    dtype: str
    #: Seconds for each map, and in all.
    seconds: dict[str, float]
    #: Versions of what computed it: python, torch, diffusers …
    versions: dict[str, str]


class PerceiveReply(Message, kw_only=True):
    """The maps."""

    #: Map name → (H, W, channels) float32, as maps.MAPS tells.
    maps: dict[str, np.ndarray]
    #: The panorama as the model saw it, (H, W, 3) float32 sRGB in [0, 1], the size of the maps.
    panorama: np.ndarray
    info: Info


class Recipe(msgspec.Struct, kw_only=True):
    """Everything needed to make a panorama again; its sidecar is this as JSON."""

    panoform: str
    kind: Literal["words", "picture", "edit"]
    engine: EngineSettings
    #: The checkpoint and, where OmniX took part, the adapters it loaded, as given.
    model: str
    adapters: str
    #: Nothing in them is left to a default; the one seed is this panorama's.
    settings: GenerateSettings
    #: Of a picture.
    view: View | None = None
    #: Of an edit.
    strength: float | None = None
    extend: bool = False
    exposure: dict[str, float | str] | None = None
    encoding: Literal["linear", "srgb"] = "srgb"
    #: How Blender's world turned what was edited, which no pixel depends on: Euler angles (XYZ) in degrees.
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: What it was made from: name, SHA-256 of the pixels (float32, from the top) and of the mask (a byte each).
    source: str
    source_sha256: str = ""
    mask_sha256: str = ""
    #: Height and width in pixels.
    size: tuple[int, int]
    #: Plain lines that the user should read.
    notices: tuple[str, ...]
    device: str
    dtype: str
    seconds: float
    #: Versions of what computed it: python, torch, diffusers …
    versions: dict[str, str]


class GenerateReply(Message, kw_only=True):
    """A panorama for each seed, in that order."""

    #: (H, W, 3) float32 each, in its recipe's encoding.
    panoramas: tuple[np.ndarray, ...]
    recipes: tuple[Recipe, ...]


class CancelReply(Message, kw_only=True):
    """Whether the job was there to be cancelled."""

    cancelled: bool


class ShutdownReply(Message, kw_only=True):
    """The last thing a backend says."""


class ErrorReply(Message, kw_only=True):
    """The request failed. `errors.from_code` makes the error again."""

    code: str
    message: str
    hint: str = ""


#: Those that wait for the device.
JobRequest = PerceiveRequest | GenerateRequest | EditRequest
Request = StatusRequest | JobRequest | CancelRequest | ShutdownRequest
Event = QueuedEvent | ProgressEvent | PreviewEvent
Reply = StatusReply | PerceiveReply | GenerateReply | CancelReply | ShutdownReply | ErrorReply
