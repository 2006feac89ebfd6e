"""The tree of all errors that Panoform raises on purpose.

    PanoformError
    ├── InputError            invalid input: panorama, map folder, scene
    │   ├── PanoramaError       not 2:1, unreadable, NaN, transparent …
    │   ├── SettingError        unknown map or engine, steps or seed out of range
    │   └── SceneError          the Blender scene lacks something that is needed
    ├── ModelError            the engine can't run
    │   ├── WeightsError        checkpoint missing, gated, damaged, of another architecture
    │   ├── AdapterError        adapter missing, or with missing or unknown modules
    │   ├── NumericsError       NaN or infinite values while computing
    │   └── DeviceMemoryError   out of device memory
    ├── OutputError           a result can't be written
    ├── BackendError          the backend process
    │   ├── BackendMissingError   not installed, or not where the preferences point
    │   ├── BackendVersionError   uses another protocol version
    │   └── BackendLostError      exited, or does not respond
    ├── ProtocolError         an invalid or too large message
    ├── BusyError             not possible while another operation runs
    └── Cancelled             the user stopped the job

Each is raised where its cause is known. `message` describes the error and its cause, `hint` the remedy; `code`
identifies the class on the wire, so that an error of the backend is raised as the same class in Blender.
"""

from __future__ import annotations

from typing import ClassVar

from ..plain_text import plain


class PanoformError(Exception):
    """Base class of all errors. `str` is the message, followed by the hint if there is one, in one line.

    Both are made plain, because they name files, and repeat what other programs say.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = plain(message), plain(hint)
        super().__init__(self.message, self.hint)

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


class NumericsError(ModelError):
    code = "numerics"


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
    """Return an error of the class that `code` names on the wire; a plain PanoformError for an unknown code."""
    for cls in _tree(PanoformError):
        if cls.code == code:
            return cls(message, hint)
    return PanoformError(message, hint)


def memory_error() -> PanoformError:
    """Return the error to tell where main memory is used up."""
    return PanoformError("There is not enough main memory.", "Close other programs, or choose a smaller size.")


def unexpected(error: BaseException) -> PanoformError:
    """Return a PanoformError for an unexpected error, mostly a bug in Panoform; `error` is its cause."""
    lines = str(error).strip().splitlines()
    description = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
    wrapped = PanoformError(f"Unexpected error in Panoform: {description}", "Copy the details into a bug report.")
    if isinstance(error, MemoryError):
        wrapped = memory_error()
    elif isinstance(error, KeyboardInterrupt):
        wrapped = Cancelled("It was interrupted.", "Nothing was changed.")
    wrapped.__cause__ = error
    return wrapped
