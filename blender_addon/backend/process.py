"""Start, watch and stop the backend process. Only `stop(wait=True)` blocks.

The backend's stdin is a pipe from this process. When this process exits for any reason, the system closes the pipe and
the backend exits too.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

from ...shared.atomic_write import output_error
from ...shared.protocol import connection
from ...shared.protocol.connection import Connection
from ...shared.protocol.errors import BackendLostError, BackendMissingError, PanoformError
from . import log_file

#: Timeout for starting: a cold start reads Python and numpy from a slow disk, through a virus scanner.
START_TIMEOUT_S = 60.0
#: Timeout for exiting by itself, and then for `terminate`.
STOP_TIMEOUT_S = 6.0
_TAIL_BYTES = 8192


_MEMORY = (
    "it was ended by the system, most likely for lack of memory",
    "Close other programs, or choose a lower quality or size, then start the job again.",
)
_CRASH = (
    "it crashed in a library or a driver",
    "Start the job again. If it crashes again, update the graphics driver, or choose another device.",
)
_DISK = (
    "it could not write its log, most likely as the disk is full",
    "Make room on the disk, then start the job again.",
)
#: Exit code, as unsigned → why, and what to do. On POSIX minus the signal's number; on Windows a status code.
_REASONS = (
    {code & 0xFFFFFFFF: _MEMORY for code in (-9, 0xC0000017, 0xC000012D)}
    | {120: _DISK}
    | {  # Python's, where it can't write what it has printed
        code & 0xFFFFFFFF: _CRASH for code in (-4, -6, -7, -8, -10, -11, 0xC0000005, 0xC0000409, 0xC000001D, 0xC00000FD)
    }
)


class BackendProcess:
    """A backend process, started on construction. Call `poll` until it returns the connection, then to detect the exit.

    `command` runs Panoform's command line, e.g. ("…/bin/python", "-m", "panoform.backend"). The connection file and the
    log are written to `folder` under unique names. `warm_up`: import what the first job needs at once.
    `variables`: of its environment, beside this process's.

    Raise BackendMissingError if the command can't be started, OutputError if the folder can't be written.
    """

    #: Whether it ends with this object.
    is_own = True

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        warm_up: bool = False,
        variables: Mapping[str, str] = MappingProxyType({}),
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        name = f"backend-{uuid4().hex[:12]}"
        self.log_path = folder / f"{name}.log"
        self._connection_path = folder / f"{name}.json"
        self._program = command[0]
        self._connection: Connection | None = None
        self._error: PanoformError | None = None
        #: Waits for the process to exit after `stop`.
        self._stop_thread: threading.Thread | None = None
        self._start_deadline = time.monotonic() + start_timeout_s
        try:
            folder.mkdir(parents=True, exist_ok=True)
            log = log_file.create(self.log_path)
        except OSError as error:
            raise output_error(folder, error) from error
        options = ["--connection-file", str(self._connection_path.absolute()), "--parent-pipe"]
        if warm_up:
            options.append("--warm-up")
        try:
            with log:
                self._process = subprocess.Popen(
                    [*command, "serve", *options],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder,
                    env=environment() | dict(variables),
                    # Ctrl+C in Blender's terminal must not reach the backend.
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:
            self.log_path.unlink()
            raise BackendMissingError(
                f"The backend can't be started: {self._program}: {error.strerror}.",
                "Set up the backend in the add-on's preferences, or choose its Python there.",
            ) from error
        assert self._process.stdin
        self._pipe = self._process.stdin

    @property
    def has_exited(self) -> bool:
        return self._process.poll() is not None

    def poll(self) -> Connection | None:
        """Return the connection, or None while the backend is starting.

        Raise BackendLostError if it exited or did not start in time, BackendMissingError if its Python has no Panoform,
        BackendVersionError if it is of another version. Every later call raises the same error.
        """
        if self._error is None:
            try:
                self._check()
            except PanoformError as error:
                self._error = error
                self.stop(timeout_s=0)
        if self._error is not None:
            raise self._error
        return self._connection

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the log, or why it can't be read."""
        try:
            with self.log_path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except OSError as error:
            return f"{self.log_path} can't be read: {error.strerror}."
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, *, wait: bool = False, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Stop the backend: close its pipe; a thread terminates it after `timeout_s`, kills it after as long again, and
        deletes the connection file. `wait`: block until it has exited.

        To receive the last replies, send `Client.shutdown` and wait for its reply before.
        """
        self._pipe.close()
        if wait and self._stop_thread is not None:
            self._stop_thread.join()
        elif wait:
            self._end(timeout_s)  # not in a thread: none can start while Python exits
        elif self._stop_thread is None:
            self._stop_thread = threading.Thread(
                target=self._end, args=(timeout_s,), name="panoform-backend-end", daemon=True
            )
            self._stop_thread.start()

    def release(self) -> None:
        """Close the backend's pipe: it exits, or its guardian kills it (backend/server/guardian.py). Doesn't wait, and
        starts no thread, which can't be while Python exits."""
        self._pipe.close()

    def _end(self, timeout_s: float) -> None:
        """Wait for the process to exit, terminating and then killing it; its pipe is closed."""
        for end in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(timeout_s)
                break
            except subprocess.TimeoutExpired:
                end()
        self._process.wait()
        self._connection_path.unlink(missing_ok=True)

    def _check(self) -> None:
        """Update the connection. Raise if the process exited or did not start in time."""
        exit_code = self._process.poll()
        if exit_code is not None:
            raise self._exit_error(exit_code)
        if self._connection is not None:
            return
        try:
            self._connection = connection.read(self._connection_path)
        except FileNotFoundError:
            if time.monotonic() > self._start_deadline:
                raise BackendLostError(
                    f"The backend did not start. Last log line: {self.log_tail(1) or 'none'}", self._hint()
                ) from None

    def _exit_error(self, exit_code: int) -> PanoformError:
        tail = self.log_tail()
        if self._connection is None and "No module named" in tail and "panoform" in tail:
            return BackendMissingError(
                f"{self._program} has no Panoform installed.",
                "Set up the backend in the add-on's preferences, or choose another Python there.",
            )
        when = "while starting" if self._connection is None else "unexpectedly"
        last_line = next(reversed(tail.splitlines()), "none")
        known = _REASONS.get(exit_code & 0xFFFFFFFF)
        if known is not None:
            reason, hint = known
            return BackendLostError(f"The backend exited {when}: {reason} (exit code {exit_code}).", hint)
        return BackendLostError(
            f"The backend exited {when} (exit code {exit_code}). Last log line: {last_line}", self._hint()
        )

    def _hint(self) -> str:
        return f"Start it again; see the log {self.log_path}."


def environment() -> dict[str, str]:
    """Return this process's environment without the variables for Blender's own Python."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("PYTHON") and name != "__PYVENV_LAUNCHER__"
    }
    return environment | {"PYTHONUTF8": "1"}
