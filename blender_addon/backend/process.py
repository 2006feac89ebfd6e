"""Starts the backend, watches it, and ends it. Nothing here waits but `stop(wait=True)`.

The backend holds one end of a pipe (its stdin) and this process the other; when this process ends, however that
happens, the system closes the pipe and the backend ends too.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from ...shared.protocol import connection
from ...shared.protocol.connection import Connection
from ...shared.protocol.errors import BackendLostError, BackendMissingError, OutputError, PanoformError

#: A cold start reads Python and numpy from a slow disk, past a virus scanner.
START_S = 60.0
#: How long it is waited for the backend to end by itself, and then after `terminate`.
STOP_S = 6.0
_TAIL_BYTES = 8192


class BackendProcess:
    """One backend, started at once. Call `poll` until it brings the connection, and then to hear of the backend's end.

    `command` runs Panoform's command line, e.g. ("…/bin/python", "-m", "panoform.backend"). `folder` takes the
    connection file and the log, each of a name of its own. Raises BackendMissingError where the command can't be
    started, OutputError where the folder can't be written.
    """

    def __init__(self, command: Sequence[str], folder: Path, *, start_s: float = START_S) -> None:
        name = f"backend-{uuid4().hex[:12]}"
        self.log_path = folder / f"{name}.log"
        self._connection_path = folder / f"{name}.json"
        self._program = command[0]
        self._connection: Connection | None = None
        self._error: PanoformError | None = None
        #: Sees the process to its end, once that was asked for.
        self._ending: threading.Thread | None = None
        self._start_by = time.monotonic() + start_s
        try:
            folder.mkdir(parents=True, exist_ok=True)
            log = self.log_path.open("wb")
        except OSError as error:
            raise OutputError(
                f"{folder} can't be written: {error.strerror}.", "Make room there, or choose another folder."
            ) from error
        try:
            with log:
                self._process = subprocess.Popen(
                    [*command, "serve", "--connection-file", str(self._connection_path.absolute()), "--parent-pipe"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=_environment(),
                    # Ctrl+C in Blender's terminal is meant for Blender.
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            self.log_path.unlink()
            raise BackendMissingError(
                f"The backend can't be started: {self._program}: {error.strerror}.",
                "Set up the backend in the add-on's preferences, or point them at its Python.",
            ) from error
        assert self._process.stdin
        self._pipe = self._process.stdin

    def poll(self) -> Connection | None:
        """The connection, or None while the backend is starting.

        Raises, from the failure on at every call: BackendLostError if it ended or did not come up in time,
        BackendMissingError if that Python has no Panoform, BackendVersionError if it is of another version.
        """
        if self._error is None:
            try:
                self._look()
            except PanoformError as error:
                self._error = error
                self.stop(patience_s=0)
        if self._error is not None:
            raise self._error
        return self._connection

    def log_tail(self, lines: int = 20) -> str:
        """The last lines the backend wrote, or why they can't be read."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError as error:
            return f"{self.log_path} can't be read: {error.strerror}."
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, *, wait: bool = False, patience_s: float = STOP_S) -> None:
        """Begin to end the backend: its pipe is closed at once; a thread terminates it after `patience_s`, kills it
        after as long again, and deletes the connection file. `wait`: return when it is gone.

        To let its clients hear the last replies, send `Client.shutdown` before and wait for the reply.
        """
        self._pipe.close()
        if wait and self._ending is not None:
            self._ending.join()
        elif wait:
            self._end(patience_s)  # not in a thread: while Python exits, none can be started
        elif self._ending is None:
            self._ending = threading.Thread(
                target=self._end, args=(patience_s,), name="panoform-backend-end", daemon=True
            )
            self._ending.start()

    def _end(self, patience_s: float) -> None:
        """See the process, whose pipe is closed, to its end."""
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(patience_s)
                break
            except subprocess.TimeoutExpired:
                end()
        self._process.wait()
        self._connection_path.unlink(missing_ok=True)

    def _look(self) -> None:
        """One step of the watch: starting → ready → ended."""
        exit_code = self._process.poll()
        if exit_code is not None:
            raise self._ended(exit_code)
        if self._connection is not None:
            return
        try:
            self._connection = connection.read(self._connection_path)
        except FileNotFoundError:
            if time.monotonic() > self._start_by:
                raise BackendLostError(
                    f"The backend did not start. Its last words: {self.log_tail(1) or 'none'}", self._hint()
                ) from None

    def _ended(self, exit_code: int) -> PanoformError:
        tail = self.log_tail()
        if self._connection is None and "No module named" in tail and "panoform" in tail:
            return BackendMissingError(
                f"{self._program} has no Panoform installed.",
                "Set up the backend in the add-on's preferences, or point them at another Python.",
            )
        when = "while starting" if self._connection is None else "unexpectedly"
        words = tail.splitlines()[-1:] or ["none"]
        return BackendLostError(
            f"The backend ended {when} (exit code {exit_code}). Its last words: {words[0]}", self._hint()
        )

    def _hint(self) -> str:
        return f"Start it again; the whole story is in {self.log_path}."


def _environment() -> dict[str, str]:
    """This process's environment without what was set for Blender's own Python."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PYTHON") and name != "__PYVENV_LAUNCHER__"
    }
    return environment | {"PYTHONUTF8": "1"}
