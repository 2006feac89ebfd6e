"""A running backend: its process and the connection to it."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from ...shared.protocol import connection
from ...shared.protocol.errors import BackendLostError, PanoformError
from ...shared.protocol.messages import Event, Reply, StatusReply
from .client import Client
from .process import STOP_TIMEOUT_S, BackendProcess
from .running import RunningBackend

#: Number of logs that are kept.
MAX_LOGS = 10
#: Seconds that an ended process may take to be known as such, after its connection was lost.
_EXIT_S = 1.0
_CONNECTION = re.compile(r"backend-[0-9a-f]{12}\.json")
_LOG = re.compile(r"backend-[0-9a-f]{12}\.log")
#: The largest number of a process, on all systems.
_MAX_PID = 2**31 - 1


class Session:
    """A backend process and its client. `status` is None until the backend has replied."""

    def __init__(self, process: BackendProcess | RunningBackend) -> None:
        self.process = process
        self.client: Client | None = None
        self.status: StatusReply | None = None
        #: When the connection was lost.
        self._lost_at: float | None = None

    @classmethod
    def start(cls, python: Path, folder: Path, **options: Any) -> Session:
        """Start a backend. `python` must have Panoform installed; its connection file and log are written to `folder`.

        `options`, errors: as of BackendProcess.
        """
        _delete_old_logs(folder)
        _delete_stale_connections(folder)
        return cls(BackendProcess((str(python), "-m", "panoform.backend"), folder, **options))

    def poll(self) -> list[Event | Reply]:
        """Return the messages received since the last call. Raise the errors of the process and of Client."""
        if self.client is None:
            found = self.process.poll()
            if found is None:
                return []
            self.client = Client(found)
            self.client.status()
        try:
            messages = self.client.poll()
        except BackendLostError:
            self._lost_at = self._lost_at or time.monotonic()
            self.process.poll()  # raises a better error if the process has exited
            if time.monotonic() - self._lost_at < _EXIT_S:
                return []
            raise
        for message in messages:
            if isinstance(message, StatusReply):
                self.status = message
        return messages

    def close(self, *, wait: bool, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Close the connection and stop the backend, by force after `timeout_s`; `wait` until it has exited."""
        if self.client is not None:
            self.client.close()
        self.process.stop(wait=wait, timeout_s=timeout_s)

    def release(self) -> None:
        """Close the connection and let the backend exit by itself."""
        if self.client is not None:
            self.client.close()
        self.process.release()


def _delete_old_logs(folder: Path) -> None:
    """Delete all but the newest logs."""
    logs: list[tuple[float, Path]] = []
    for log in folder.glob("backend-*.log"):
        if _LOG.fullmatch(log.name):
            with contextlib.suppress(FileNotFoundError):  # another Blender deleted it
                logs.append((log.lstat().st_mtime, log))
    for _, log in sorted(logs, reverse=True)[MAX_LOGS:]:
        with contextlib.suppress(OSError):  # another Blender deleted it, or its backend has it open (Windows)
            log.unlink()


def _delete_stale_connections(folder: Path) -> None:
    """Delete the connection files, with keys, of backends that no longer run: they were killed, and their Blenders."""
    for path in folder.glob("backend-*.json"):
        if not _CONNECTION.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError, PanoformError):  # of another version, or deleted meanwhile
            if not _is_running(connection.read(path).pid):
                path.unlink()


def _is_running(pid: int) -> bool:
    if not 0 < pid <= _MAX_PID:  # the file is damaged
        return False
    if sys.platform == "win32":
        import _winapi

        try:
            handle = _winapi.OpenProcess(0x00100000, False, pid)  # SYNCHRONIZE
        except OSError:
            return False
        running = _winapi.WaitForSingleObject(handle, 0) == 258  # WAIT_TIMEOUT
        _winapi.CloseHandle(handle)
        return running
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's process has its number
        return False
    return True
