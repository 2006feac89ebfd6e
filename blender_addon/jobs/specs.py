"""The base of what can be asked for: which request the backend gets, and what is built from its reply.

A feature has its own `JobSpec` (perceive/spec.py, generate/spec.py, capture/spec.py); manager, timer and panel know the
base only. A spec holds no datablock, only a scene's `session_uid`, so that it outlives files and undo.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable
from typing import Any

import bpy
from mathutils import Matrix

from ...shared.protocol.messages import JobReply, JobRequest
from ..capture.picture import Picture
from ..capture.render import Render
from ..capture.sources import Capture


@dataclasses.dataclass(eq=False, kw_only=True)
class JobSpec(abc.ABC):
    """One thing asked for, in one scene."""

    #: What the result is called: for datablocks, files and the record.
    name: str
    scene_uid: int
    #: The panorama or picture that it is made from, or the render that makes it; None: there is none.
    source: Capture | Picture | Render | None = None
    #: What the backend is asked, complete but for the source's pixels; None: nothing.
    request: JobRequest | None = None
    #: Whether the result is of no use once it was built, because it is on disk.
    forget_when_built: bool = False

    def __post_init__(self) -> None:
        if self.source is not None and not self.is_rendering:
            self.set_source(self.source)

    @property
    def is_rendering(self) -> bool:
        """Whether the source is still to come out of a render."""
        return isinstance(self.source, Render)

    def set_source(self, source: Capture | Picture) -> None:
        """Take the source, and put its pixels into the request."""
        self.source = source

    def cost(self) -> Hashable:
        """What the time that it takes depends on."""
        return None

    def preview_pose(self) -> Matrix | None:
        """How previews are turned that are shown as the scene's world, 4 × 4; None: they are not shown there."""
        return None

    @abc.abstractmethod
    def build(self, reply: Any, scene: bpy.types.Scene) -> str:
        """Build the result in `scene`; return what was done, in words. Raise OutputError, InputError.

        `reply`: what the backend returned, None where it wasn't asked. May be called more than once.
        """

    def summary(self, reply: Any) -> str:
        """What the reply holds, in two words: "5 maps"."""
        return ""

    def notice(self, reply: Any) -> str:
        """One line that the user should read; "" for none."""
        return ""


@dataclasses.dataclass(eq=False)
class Result:
    """What a job returned. It can be built at any time, into any scene, more than once."""

    spec: JobSpec
    #: None where the backend wasn't asked.
    reply: JobReply | None = None
    #: Whether it is to be built as soon as the user isn't in the middle of something.
    pending: bool = True
    #: What it waits for, in words; "" while it doesn't.
    waits_for: str = ""
    #: Whether it stands, or stood, in a scene.
    built: bool = False

    def build(self, scene: bpy.types.Scene) -> str:
        """Build it in `scene`; return what was done, in words. Raise OutputError, InputError."""
        self.pending = False
        done = self.spec.build(self.reply, scene)
        self.built = True
        return done


def counted(count: int, what: str) -> str:
    """ "1 map", "5 maps"."""
    return f"{count} {what}{'s' if count != 1 else ''}"
