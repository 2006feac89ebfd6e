"""Base class of jobs: the request to the backend, and how to build its reply in a scene.

Each feature has its own `JobSpec` (perceive/spec.py, generate/spec.py, capture/spec.py); manager, timer and panel use
only the base class. A spec holds no reference to a datablock, only a scene's `session_uid`, so that it outlives files
and undo.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Hashable
from typing import Any, ClassVar

import bpy
import numpy as np
from mathutils import Matrix

from ...shared.protocol.messages import JobReply, JobRequest
from ..capture import pixels
from ..capture.picture import CutOut, Picture
from ..capture.render import Render
from ..capture.sources import Capture
from ..translation import tr

_THUMBNAIL_WIDTH_PX = 256
_numbers = itertools.count()


@dataclasses.dataclass(eq=False, kw_only=True)
class JobSpec(abc.ABC):
    """A job for one scene."""

    #: What the job does, as on the button that starts it.
    label: ClassVar[str] = "Job"
    #: Whether its result changes the file: it is then built as an undo step, once nothing blocks that.
    changes_file: ClassVar[bool] = True

    #: Name of the result, for datablocks, files and the record.
    name: str
    scene_uid: int
    #: The input panorama or picture, or the render that produces it; None if there is none.
    source: Capture | Picture | CutOut | Render | None = None
    #: The request, complete except for the source's pixels; None if the backend is not needed.
    request: JobRequest | None = None
    #: Whether the result is removed once it is built, because it is on disk.
    remove_when_built: bool = False
    #: What the panel's buttons call it by while it waits.
    number: int = dataclasses.field(default_factory=lambda: next(_numbers))

    def __post_init__(self) -> None:
        if self.source is not None and not self.is_rendering:
            self.set_source(self.source)

    @property
    def is_rendering(self) -> bool:
        """Whether the source is still being rendered."""
        return isinstance(self.source, Render)

    def poll_render(self) -> Capture | Picture | CutOut | None:
        """Continue the render and set what it made as the source; None while it renders. Raise its errors."""
        source = self.source.poll()
        if source is not None:
            self.set_source(source)
        return source

    def close(self) -> None:
        """Stop the render of the source, if it is running."""
        if self.is_rendering:
            self.source.close()

    def set_source(self, source: Capture | Picture | CutOut) -> None:
        """Set the source and put its pixels into the request."""
        self.source = source

    def cost(self) -> Hashable:
        """Return what the duration of the job depends on."""
        return None

    def preview_pose(self) -> Matrix | None:
        """Return the orientation of previews shown as the scene's world, 4 × 4; None to not show them there."""
        return None

    @abc.abstractmethod
    def build(self, reply: Any, scene: bpy.types.Scene) -> str:
        """Build the result in `scene` and return a report of it. Raise OutputError, InputError.

        `reply`: the backend's reply, None without a request. May be called more than once.
        """

    def follow_up(self, reply: Any) -> JobSpec | None:
        """Return the job to run next in its place, in the same scene; None if the reply is the result.

        Its result replaces this job's. If it fails or is cancelled, this job's result stays, not built.
        """
        return None

    def thumbnail(self) -> np.ndarray | None:
        """Return a small picture of the source, (H, W, 3) uint8 sRGB, top row first; None if it isn't a panorama."""
        if not isinstance(self.source, Capture):
            return None
        panorama = self.source.panorama
        step = max(1, panorama.pixels.shape[1] // _THUMBNAIL_WIDTH_PX)
        shown = pixels.display(panorama._replace(pixels=panorama.pixels[::step, ::step]))
        return (np.nan_to_num(shown) * 255 + 0.5).astype(np.uint8)

    def summary(self, reply: Any) -> str:
        """Return a short summary of the reply, as in "5 maps"."""
        return ""

    def notice(self, reply: Any) -> str:
        """Return a notice for the user; "" for none."""
        return ""


@dataclasses.dataclass(eq=False)
class Result:
    """The result of a job. It can be built at any time, in any scene, more than once."""

    spec: JobSpec
    #: None without a request.
    reply: JobReply | None = None
    #: Whether it is to be built as soon as nothing blocks it.
    pending: bool = True
    #: What blocks building it, as shown in the panel; "" if nothing.
    waits_for: str = ""
    #: Whether it was built in a scene.
    built: bool = False
    #: Name of its thumbnail among the previews.
    preview: str = dataclasses.field(default_factory=lambda: f"result {next(_numbers)}")

    def build(self, scene: bpy.types.Scene) -> str:
        """Build it in `scene` and return a report of it. Raise OutputError, InputError."""
        self.pending = False
        report = self.spec.build(self.reply, scene)
        self.built = True
        return report


def counted(count: int, noun: str) -> str:
    """Return "1 map" or "5 maps"."""
    return tr(f"{{count}} {noun}" if count == 1 else f"{{count}} {noun}s", count=count)
