"""The first job after a set-up: it shows that the backend works, and how long the built-in model takes here."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import ClassVar

import bpy
import numpy as np

from ...shared.jobs.perceive import PerceiveReply, PerceiveRequest
from ...shared.maps import DEFAULT_MAPS
from .. import preferences
from ..jobs.specs import JobSpec
from .spec import cost, settings_from

#: What the panel has at first.
_DEFAULTS = {"maps": DEFAULT_MAPS, "quality": "standard", "seed": 0, "repair": False}


@dataclasses.dataclass(eq=False, kw_only=True)
class TrialSpec(JobSpec):
    """Perceive a panorama without content by the built-in model, and drop the maps."""

    label: ClassVar = "Try Out"
    changes_file: ClassVar = False

    request: PerceiveRequest

    def cost(self) -> Hashable:
        return cost(self.request.engine, self.request.settings)

    def build(self, reply: PerceiveReply, scene: bpy.types.Scene) -> str:
        return ""


def trial(scene: bpy.types.Scene) -> TrialSpec:
    """Return the job, with the panel's first settings."""
    engine = preferences.get().engine_settings("STARTER")
    settings = settings_from(_DEFAULTS.__getitem__, engine)
    assert settings.height is not None
    panorama = np.full((settings.height, 2 * settings.height, 3), 0.5, np.float32)
    request = PerceiveRequest(panorama=panorama, encoding="srgb", engine=engine, settings=settings)
    return TrialSpec(name="trial", scene_uid=scene.session_uid, request=request)
