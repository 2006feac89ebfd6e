"""Run a program that ends with this process, also if this one is killed.

As a script, it is the process in between: tied_process.py FILES PROGRAM ARGUMENTS… runs the program, and kills it and
what it started once stdin is closed. The system closes that pipe however the process at its other end ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path


def start(
    python: Path, command: Sequence[str | Path], folder: Path, lock: int, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a program in `folder`, through `python`; its output is on stdout. Closing stdin kills it (`end`).

    `lock`: an open file that the program inherits, so that a lock on it lasts as long (on Windows it doesn't).
    `environment`: its variables; None: those of this process. Raise OSError.
    """
    inherited = () if os.name == "nt" else (lock,)
    return subprocess.Popen(
        [str(python), "-I", "-S", __file__, ",".join(map(str, inherited)), *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
        text=True,
        encoding="utf-8",
        errors="replace",
        pass_fds=inherited,
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def end(process: subprocess.Popen[str]) -> None:
    """Kill a program that `start` started, without waiting for it; also where the process in between was killed."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has ended
        process.stdin.close()
    if os.name == "posix" and process.returncode is None:  # not waited for: no other group can have its number
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _main(inherited: str, *command: str) -> int:
    files = tuple(int(number) for number in inherited.split(",") if number)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=files)
    except OSError as error:
        print(f"error: {error}")
        return 1

    def wait_for_parent() -> None:
        while os.read(0, 1024):
            pass
        _kill(process)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    code = process.wait()
    os._exit(code if code >= 0 else 1)  # not waiting for the thread


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with all that it started, and this process, which is in their group."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=False, capture_output=True)
        os._exit(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
