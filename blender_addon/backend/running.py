"""A backend that somebody else started: `panoform serve --connection-file FILE`, here or behind an SSH tunnel."""

from __future__ import annotations

from pathlib import Path

from ...shared.protocol import connection
from ...shared.protocol.connection import Connection
from ...shared.protocol.errors import BackendMissingError
from .process import STOP_TIMEOUT_S


class RunningBackend:
    """Used as BackendProcess is, but it is neither started nor stopped."""

    is_own = False
    #: Nothing waits for it to exit.
    has_exited = True

    def __init__(self, connection_path: Path) -> None:
        self._path = connection_path
        self._connection: Connection | None = None

    def poll(self) -> Connection:
        """Return the connection. Raise BackendMissingError, BackendVersionError, ProtocolError."""
        if self._connection is None:
            try:
                self._connection = connection.read(self._path)
            except OSError as error:
                raise BackendMissingError(
                    f"The connection file {self._path} can't be read: {error.strerror}.",
                    "Start that backend (panoform serve --connection-file FILE), or clear Running Backend in the "
                    "preferences.",
                ) from error
        return self._connection

    def log_tail(self, lines: int = 20) -> str:
        """Return where the log is."""
        return "The log is where the backend was started."

    def stop(self, *, wait: bool = False, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Do nothing: who has started it stops it. The closed connection cancels this Blender's jobs."""

    def release(self) -> None:
        """Do nothing."""
