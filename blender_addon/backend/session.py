"""A running backend: its process and the connection to it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...shared.protocol.errors import BackendLostError
from ...shared.protocol.messages import Event, Reply, StatusReply
from .client import Client
from .process import BackendProcess

#: Number of logs that are kept.
MAX_LOGS = 10


class Session:
    """A backend process, started on construction, and its client. `status` is None until the backend has replied.

    Raise the errors of BackendProcess.
    """

    def __init__(self, python: Path, folder: Path, *, warm_up: bool = False) -> None:
        """`python` must have Panoform installed; the connection file and the log are written to `folder`.

        `warm_up`: import what the first job needs at once.
        """
        _delete_old_logs(folder)
        self.process = BackendProcess((str(python), "-m", "panoform.backend"), folder, warm_up=warm_up)
        self.client: Client | None = None
        self.status: StatusReply | None = None

    def poll(self) -> list[Event | Reply]:
        """Return the messages received since the last call. Raise the errors of BackendProcess and Client."""
        if self.client is None:
            connection = self.process.poll()
            if connection is None:
                return []
            self.client = Client(connection)
            self.client.status()
        try:
            messages = self.client.poll()
        except BackendLostError:
            self.process.poll()  # raises a better error if the process has exited
            raise
        for message in messages:
            if isinstance(message, StatusReply):
                self.status = message
        return messages

    def close(self, *, wait: bool) -> None:
        """Close the connection and stop the backend; `wait` until it has exited."""
        if self.client is not None:
            self.client.close()
        self.process.stop(wait=wait)


def _delete_old_logs(folder: Path) -> None:
    """Delete all but the newest logs."""
    logs = sorted(folder.glob("backend-*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
    for log in logs[MAX_LOGS:]:
        with contextlib.suppress(OSError):  # another Blender deleted it, or its backend has it open (Windows)
            log.unlink()
