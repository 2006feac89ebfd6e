"""Models: which weights are on the backend's computer and what it can run, and downloads of what is missing."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ..engines import EngineSettings
from ..protocol.errors import SettingError
from ..protocol.messages import JobReply, JobRequest
from ..weights import WEIGHTS


class FoundFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of another program that could be used."""

    path: str
    bytes: int


class WeightsState(msgspec.Struct, frozen=True, kw_only=True):
    """One of WEIGHTS on the backend's computer. Nothing but headers was read."""

    #: Its name in WEIGHTS.
    name: str
    #: Folder or file that is used; "" where there is none.
    place: str = ""
    bytes: int = 0
    #: Why it can't be used; "" if it can.
    problem: str = ""
    #: Bytes of a download that was stopped and can be resumed.
    incomplete: int = 0
    #: Files of ComfyUI that could be used instead.
    found: tuple[FoundFile, ...] = ()


class DeviceState(msgspec.Struct, frozen=True, kw_only=True):
    """A device of the backend's computer."""

    #: As `EngineSettings.device`: "cpu", "cuda:0".
    name: str
    #: "NVIDIA GeForce RTX 4070"
    label: str
    #: In bytes; for the CPU and Apple's GPUs, those of the computer.
    memory_free: int
    memory_total: int


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine needs in one precision, by the estimate of `panoform doctor`, in bytes of device memory."""

    #: One of DTYPES.
    dtype: str
    #: At least, and with all weights on the device.
    least: int
    everything: int
    #: whole: all weights fit. streams: they arrive from main memory while it computes. no: too little memory is free.
    runs: Literal["whole", "streams", "no"]


class ModelsRequest(JobRequest, kw_only=True):
    """Ask for the state of all weights, and what this computer can run. Ends in a ModelsReply."""

    #: Settings of the engines that are not built in, one for each.
    engines: tuple[EngineSettings, ...]


class ModelsReply(JobReply, kw_only=True):
    """All weights, in the order of WEIGHTS, and what can be run."""

    weights: tuple[WeightsState, ...]
    devices: tuple[DeviceState, ...]
    #: The device that the settings choose, one of `devices` by its name; engine → its precisions there.
    device: str
    #: Why there is none; "" if there is.
    problem: str = ""
    precisions: dict[str, tuple[Precision, ...]]
    #: Folder of downloads, and the free bytes on its disk.
    folder: str
    disk_free: int
    seconds: float

    @property
    def compute_seconds(self) -> float:
        return self.seconds


class DownloadRequest(JobRequest, kw_only=True):
    """Download weights into the models' folder, resuming a download that was stopped. Ends in a DownloadReply."""

    #: A name in WEIGHTS.
    weights: str
    #: Hub id to take them from, also with "@revision"; "": the repository of the weights.
    repository: Annotated[str, msgspec.Meta(max_length=512)] = ""


class DownloadReply(JobReply, kw_only=True):
    """The downloaded weights."""

    #: Their folder, and its size in bytes.
    path: str
    bytes: int
    seconds: float

    @property
    def compute_seconds(self) -> float:
        return self.seconds


def check_download(request: DownloadRequest) -> None:
    """Raise SettingError for unknown weights."""
    if request.weights not in WEIGHTS:
        raise SettingError(f"There are no weights called {request.weights!r}.", f"Choose from {', '.join(WEIGHTS)}.")
