"""What can be asked for, and what came of it. An order holds no datablock, only a scene's `session_uid`."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path

import numpy as np
from mathutils import Matrix

from ...shared.engines import EngineSettings
from ...shared.jobs.generate import GenerateReply, GenerateSettings, View
from ...shared.jobs.perceive import PerceiveReply, PerceiveSettings
from ..backend.client import Client
from ..capture.picture import Picture
from ..capture.render import Render
from ..capture.sources import Capture


@dataclasses.dataclass(eq=False, kw_only=True)
class Order:
    """For which scene, and what of. This one asks for no more than the panorama itself, as an image."""

    #: The panorama or picture, or the render that is to make it; None: there is none.
    source: Capture | Picture | Render | None
    #: What the result is called: for datablocks, files and the record.
    name: str
    scene_uid: int


@dataclasses.dataclass(eq=False, kw_only=True)
class BackendOrder(Order, abc.ABC):
    """One that the backend works on."""

    engine: EngineSettings

    @abc.abstractmethod
    def send(self, client: Client) -> str:
        """Hand it over, its source being there; returns the job's id."""

    @abc.abstractmethod
    def cost(self) -> tuple:
        """What the time for it depends on."""


@dataclasses.dataclass(eq=False, kw_only=True)
class PerceiveOrder(BackendOrder):
    """Maps of a panorama, and the scene that is built from them."""

    settings: PerceiveSettings
    #: Folder for the maps as files, "" for none.
    directory: str = ""
    #: Height of the camera over the floor in metres.
    camera_height_m: float = 1.6

    def send(self, client: Client) -> str:
        return client.perceive(
            self.source.panorama.pixels,
            encoding=self.source.panorama.encoding,
            source=self.name,
            engine=self.engine,
            settings=self.settings,
            directory=self.directory,
        )

    def cost(self) -> tuple:
        return (self.engine, self.settings.num_inference_steps, self.settings.height, self.settings.maps)


@dataclasses.dataclass(eq=False, kw_only=True)
class GenerateOrder(BackendOrder):
    """A panorama for each seed, of words, or around a picture; the first as the scene's world."""

    settings: GenerateSettings
    #: Where it is to be written (`with_seed`). None: in the panoramas' folder, under names that are free.
    path: Path | None = None

    @property
    def world_from_panorama(self) -> Matrix:
        """How the panorama is turned, 4 × 4."""
        return Matrix.Identity(4)

    def send(self, client: Client) -> str:
        return client.generate(
            self.source.pixels if self.source else None,
            view=self.source.view if self.source else View(),
            source=self.source.source if self.source else "",
            engine=self.engine,
            settings=self.settings,
        )

    def cost(self) -> tuple:
        settings = self.settings
        of = (self.source is None, settings.method, settings.num_inference_steps, settings.height)
        return (self.engine, *of, len(settings.seeds))


@dataclasses.dataclass(eq=False, kw_only=True)
class EditOrder(GenerateOrder):
    """A panorama that is changed."""

    #: As in messages.EditRequest.
    mask: np.ndarray | None
    strength: float
    extend: bool

    @property
    def world_from_panorama(self) -> Matrix:
        return self.source.world_from_panorama

    def send(self, client: Client) -> str:
        return client.edit(
            self.source.panorama.pixels,
            encoding=self.source.panorama.encoding,
            mask=self.mask,
            strength=self.strength,
            extend=self.extend,
            source=self.source.source,
            engine=self.engine,
            settings=self.settings,
        )

    def cost(self) -> tuple:
        return (*super().cost(), self.strength)


@dataclasses.dataclass(eq=False)
class Result:
    """What came of an order. It is built into the scene that it was asked for, and again into any, at any time."""

    order: Order
    #: None where only the panorama was wanted.
    reply: PerceiveReply | GenerateReply | None = None
    #: To be built as soon as the user's hands are free.
    pending: bool = True
    #: What it waits for, in words; "" while it doesn't.
    waits_for: str = ""
    #: Whether it stands, or stood, in a scene.
    built: bool = False
    #: Its panoramas that are on disk already.
    paths: list[Path] = dataclasses.field(default_factory=list)


def took_s(reply: PerceiveReply | GenerateReply) -> float:
    """Seconds of work."""
    match reply:
        case PerceiveReply():
            return reply.info.seconds["all"]
        case GenerateReply():
            return sum(recipe.seconds for recipe in reply.recipes)
