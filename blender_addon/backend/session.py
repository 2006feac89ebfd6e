"""One backend in use: its process and the connection to it, from the start of the one to the end of both."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...shared.protocol.errors import BackendLostError
from ...shared.protocol.messages import Event, Reply, StatusReply
from .client import Client
from .process import BackendProcess

#: Logs of past backends that are kept.
MAX_LOGS = 10


class Session:
    """Starts a backend at once; `status` is None until it has answered. Raises what BackendProcess raises."""

    def __init__(self, python: Path, folder: Path) -> None:
        """`python` has Panoform installed; `folder` takes the connection file and the log."""
        _sweep(folder)
        self.process = BackendProcess((str(python), "-m", "panoform.backend"), folder)
        self.client: Client | None = None
        self.status: StatusReply | None = None

    def poll(self) -> list[Event | Reply]:
        """What the backend has said. Raises, when it is lost or unfit, what BackendProcess and Client raise."""
        if self.client is None:
            connection = self.process.poll()
            if connection is None:
                return []
            self.client = Client(connection)
            self.client.status()
        try:
            messages = self.client.poll()
        except BackendLostError:
            self.process.poll()  # knows its last words, if it has ended
            raise
        for message in messages:
            if isinstance(message, StatusReply):
                self.status = message
        return messages

    def close(self, *, wait: bool) -> None:
        """End the connection and begin to end the backend; `wait` until it is gone."""
        if self.client is not None:
            self.client.close()
        self.process.stop(wait=wait)


def _sweep(folder: Path) -> None:
    """Delete the oldest logs."""
    logs = sorted(folder.glob("backend-*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
    for log in logs[MAX_LOGS:]:
        with contextlib.suppress(OSError):  # another Blender sweeps too, or its backend holds the file (Windows)
            log.unlink()
