"""Every error Panoform raises on purpose, one tree.

    PanoformError
    ├── InputError            what was given can't be used: panorama, map folder, scene
    │   ├── PanoramaError       not 2:1, unreadable, NaN, transparent …
    │   ├── SettingError        unknown map or engine, steps or seed out of range
    │   └── SceneError          the Blender scene lacks what was asked for
    ├── ModelError            the engine can't run
    │   ├── WeightsError        checkpoint missing, gated, damaged, of another architecture
    │   ├── AdapterError        adapter missing, or not filling exactly the modules it must
    │   └── DeviceMemoryError   out of device memory
    ├── OutputError           a result can't be written
    ├── BackendError          the backend process
    │   ├── BackendMissingError   not installed, or not where the preferences point
    │   ├── BackendVersionError   speaks another protocol version
    │   └── BackendLostError      died, or stopped answering
    ├── ProtocolError         a message that isn't one of ours, or too large
    ├── BusyError             can't be done while something else runs
    └── Cancelled             the user stopped the job

Each is raised where its cause is known. `message` says what went wrong and why, `hint` what to do about it; `code`
names the class on the wire, so that an error of the backend is raised again, as the same class, in Blender.
"""

from __future__ import annotations

from typing import ClassVar


class PanoformError(Exception):
    """Base of the tree. Str is the message, and the hint after it where there is one."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(PanoformError):
    code = "input"


class PanoramaError(InputError):
    code = "panorama"


class SettingError(InputError):
    code = "setting"


class SceneError(InputError):
    code = "scene"


class ModelError(PanoformError):
    code = "model"


class WeightsError(ModelError):
    code = "weights"


class AdapterError(ModelError):
    code = "adapter"


class DeviceMemoryError(ModelError):
    code = "device_memory"


class OutputError(PanoformError):
    code = "output"


class BackendError(PanoformError):
    code = "backend"


class BackendMissingError(BackendError):
    code = "backend_missing"


class BackendVersionError(BackendError):
    code = "backend_version"


class BackendLostError(BackendError):
    code = "backend_lost"


class ProtocolError(PanoformError):
    code = "protocol"


class BusyError(PanoformError):
    code = "busy"


class Cancelled(PanoformError):
    code = "cancelled"


def _tree(cls: type[PanoformError]) -> list[type[PanoformError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _tree(child))]


def from_code(code: str, message: str, hint: str = "") -> PanoformError:
    """The error that `code` names, to be raised on the other side of the wire; unknown: a plain PanoformError."""
    for cls in _tree(PanoformError):
        if cls.code == code:
            return cls(message, hint)
    return PanoformError(message, hint)


def unexpected(error: Exception) -> PanoformError:
    """An error of Panoform's for one that it should not have met: a fault of its own. That one is its cause."""
    words = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {words[-1]}" if words else type(error).__name__
    made = PanoformError(f"Something in Panoform failed: {what}", "Copy the details into a bug report.")
    made.__cause__ = error
    return made
