"""The backend's own Python environment, made for people who never open a terminal.

It lives in a folder of the user's, outside the extension, so that it survives updates and uninstalling: a venv made
by Blender's Python, into which pip installs the wheel that came with the extension. No bpy here: the set-up runs on a
thread of its own and is watched through `Setup`'s attributes.

    folder/environment/       the venv
    folder/environment/panoform.json   written last: which version is complete in there
    folder/setup.log          everything that pip said
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path

import msgspec

from ...shared import json_file
from ...shared.atomic_write import atomic_write
from ...shared.protocol.errors import (
    BackendError,
    BackendMissingError,
    BusyError,
    Cancelled,
    PanoformError,
    unexpected,
)

MARKER = "panoform.json"
_WHEEL = re.compile(r"panoform-([^-]+)-py3-none-any\.whl")


class _Marker(msgspec.Struct):
    """What is in the marker's file."""

    version: str


class Found(Enum):
    """What lies in the folder of the environment."""

    ABSENT = "absent"
    #: A set-up was interrupted, or the Blender whose Python it used is gone.
    BROKEN = "broken"
    #: Complete, but of another version than the extension.
    OTHER_VERSION = "other version"
    READY = "ready"


def default_folder() -> Path:
    """Panoform's folder in the user's data folder."""
    if sys.platform == "win32":
        return Path(os.environ["LOCALAPPDATA"]) / "Panoform"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Panoform"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "panoform"


def python_in(folder: Path) -> Path:
    """The Python of the environment in `folder`, whether it is there or not."""
    return folder / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find(folder: Path, version: str) -> Found:
    """What is in `folder`, for an extension of `version`."""
    environment = folder / "environment"
    if not environment.exists():
        return Found.ABSENT
    try:
        made = json_file.read(environment / MARKER, _Marker)
        complete = python_in(folder).exists() and _base_of(environment).exists()
    except (OSError, ValueError):
        return Found.BROKEN
    if not complete:
        return Found.BROKEN
    return Found.READY if made.version == version else Found.OTHER_VERSION


def _base_of(environment: Path) -> Path:
    """The folder of the Python that a venv was made by (a venv stops working when that is deleted)."""
    lines = (environment / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    return Path(next((value for key, _, value in (line.partition(" = ") for line in lines) if key == "home"), "?"))


def bundled_wheel(extension: Path) -> Path:
    """The backend's wheel in the extension's folder. Raises BackendMissingError where there is none (a checkout)."""
    for path in sorted((extension / "backend_wheel").glob("panoform-*.whl")):
        if _WHEEL.fullmatch(path.name):
            return path
    raise BackendMissingError(
        "This copy of Panoform carries no backend to install.",
        "Install the zip that build_addon.py makes, or set the backend's Python in the add-on's preferences.",
    )


def version_of(wheel: Path) -> str:
    """ "0.1.0" of panoform-0.1.0-py3-none-any.whl."""
    match = _WHEEL.fullmatch(wheel.name)
    if match is None:
        raise BackendMissingError(f"{wheel.name} is not a wheel of Panoform.", "Install the extension again.")
    return match[1]


def base_python() -> Path:
    """The Python that Blender runs on, as a program. Raises BackendMissingError where Blender hides it."""
    python = Path(sys.executable)
    if not python.name.lower().startswith("python"):
        raise BackendMissingError(
            f"This Blender does not say where its Python is (it names {python}).",
            "Set the backend's Python in the add-on's preferences to one with Panoform's wheel installed.",
        )
    return python


def has_nvidia_driver() -> bool:
    """Whether Windows has NVIDIA's driver (its CUDA library is installed with it)."""
    return (Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32" / "nvcuda.dll").exists()


class Setup:
    """One set-up under way. `start` returns at once; `done` tells when it has ended, `error` how (None: it is ready).

    `text` is what pip does now, in a few words; `fraction` the share of the present download that has arrived, in
    [0, 1], None while nothing is being downloaded.
    """

    def __init__(
        self,
        folder: Path,
        wheel: Path,
        python: Path,
        pip_arguments: Sequence[str] = (),
        before: Callable[[], None] | None = None,
    ) -> None:
        """`python` makes the venv; `pip_arguments` go to every `pip install` (an index of one's own …). `before` is
        called first, on the thread (to wait for a backend that uses the environment)."""
        self.folder = folder
        self.wheel = wheel
        self.python = python
        self.pip_arguments = tuple(pip_arguments)
        self._before = before
        self.text = "Starting"
        self.fraction: float | None = None
        self.error: PanoformError | None = None
        self._cancelled = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._run, name="panoform-setup", daemon=True)

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    @property
    def cancelling(self) -> bool:
        """Whether its end was asked for."""
        return self._cancelled.is_set()

    @property
    def status(self) -> str:
        """`text`, or that it is being cancelled."""
        return "Cancelling" if self.cancelling else self.text

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def cancel(self, *, wait: bool = False) -> None:
        """Begin to end it; `wait` until it has ended. What was downloaded stays in pip's cache, so that the next one is
        shorter."""
        self._cancelled.set()
        if self._process is not None:
            self._process.kill()
        if wait:
            self._thread.join()

    def _run(self) -> None:
        try:
            if self._before is not None:
                self._before()
            self._set_up()
        except PanoformError as error:
            self.error = error
        except OSError as error:
            self.error = _explain_os_error(error, self.folder)
        except Exception as error:
            self.error = unexpected(error)

    def _set_up(self) -> None:
        environment = self.folder / "environment"
        if environment.exists() and not (environment / "pyvenv.cfg").exists():
            raise BackendError(
                f"{environment} exists and is not a Python environment.",
                "Choose another folder for the environment in the add-on's preferences.",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with _only_one(self.folder / "setup.lock"), self.log.open("w", encoding="utf-8") as log:
            (environment / MARKER).unlink(missing_ok=True)
            self.text = "Making a Python environment"
            self._call(log, self.python, "-I", "-m", "venv", "--clear", environment)
            python = python_in(self.folder)
            self._pip(log, "--upgrade", "pip")
            constraints = self.wheel.parent / "constraints.txt"
            pins = ("--constraint", constraints) if constraints.exists() else ()
            if sys.platform == "win32" and has_nvidia_driver():
                # PyPI's torch for Windows computes on the CPU only; uv finds the build for this driver.
                self._pip(log, "uv")
                self._call(log, python.parent / "uv.exe", "pip", "install", "--color", "never", "--python", python,
                           "--torch-backend=auto", *pins, "torch")  # fmt: skip
            self._pip(log, *pins, self.wheel)
            marker = _Marker(version_of(self.wheel))
            atomic_write(environment / MARKER, msgspec.json.encode(marker))

    def _pip(self, log, *arguments: str | Path) -> None:
        python = python_in(self.folder)
        version = self._call(log, python, "-I", "-m", "pip", "--version")
        # Since 24.1 pip can tell how much of a download has come; before, only what it downloads.
        raw = tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= (24, 1)
        progress = ("--progress-bar", "raw" if raw else "off")
        self._call(log, python, "-I", "-X", "utf8", "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
                   *progress, *self.pip_arguments, *arguments)  # fmt: skip

    def _call(self, log, *command: str | Path) -> str:
        """Run one program, follow what it says, return it. Raises the error that its words stand for."""
        if self._cancelled.is_set():
            raise Cancelled("Setting up was cancelled.")
        log.write(f"$ {' '.join(map(str, command))}\n")
        said: list[str] = []
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        with self._process as process:
            if self._cancelled.is_set():  # between the check above and the start
                process.kill()
            assert process.stdout is not None
            for line in process.stdout:
                if not self._follow(line):
                    said.append(line)
                    log.write(line)
                    log.flush()
        self.fraction = None
        if self._cancelled.is_set():
            raise Cancelled("Setting up was cancelled.")
        if process.returncode:
            raise explain("".join(said), self.folder, self.log)
        return "".join(said)

    def _follow(self, line: str) -> bool:
        """Take a line of pip's or uv's to the panel; True for one that is only a number of bytes."""
        if match := re.match(r"Progress (\d+) of (\d+)", line):
            self.fraction = int(match[1]) / max(int(match[2]), 1)
            return True
        if match := re.match(r"\s*Collecting ([^\s<>=!~;@\[]+)", line):
            self.text, self.fraction = f"Looking for {match[1]}", None
        elif match := re.match(r"\s*Downloading (\S+) \(([^)]+)\)", line):
            name = "-".join(match[1].rsplit("/", 1)[-1].split("-")[:2]).removesuffix(".metadata")
            self.text, self.fraction = f"Downloading {name} ({match[2]})", None
        elif match := re.match(r"\s*Installing collected packages: (.+)", line):
            count = match[1].count(",") + 1
            self.text, self.fraction = f"Installing {count} package{'s' if count > 1 else ''}", None
        return False


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold `path` locked. Raises BusyError where another Blender holds it; the system frees it with its process."""
    with path.open("a+b") as handle:
        try:
            if os.name == "nt":
                import msvcrt

                msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError("Another Blender is setting up the backend.", "Wait until it has finished.") from None
        yield


def _explain_os_error(error: OSError, folder: Path) -> BackendError:
    return explain(f"{error}", folder, None)


def explain(said: str, folder: Path, log: Path | None) -> BackendError:
    """What went wrong, from what pip, uv or the system `said`, in words that help."""
    here = f"{platform.system()} {platform.machine()}, Python {sys.version_info.major}.{sys.version_info.minor}"
    for pattern, message, hint in (
        (
            r"No space left on device|Errno 28\b|WinError 112\b|not enough space|Disk quota exceeded",
            f"The disk with {folder} is full.",
            "Free some space (about 10 GB is needed) or choose another folder in the preferences, then set up again.",
        ),
        (
            r"Temporary failure in name resolution|Name or service not known|getaddrinfo failed|nodename nor servname"
            r"|NewConnectionError|Network is unreachable|ConnectTimeout|Read timed out|ConnectionResetError"
            r"|ProxyError|dns error|ProtocolError",
            "The network could not be reached.",
            "Check the connection (and the proxy), then set up again: what has been downloaded is kept.",
        ),
        (
            r"SSLError|CERTIFICATE_VERIFY_FAILED",
            "The package server's certificate could not be verified.",
            "Check the computer's clock, and the proxy or antivirus that opens secure connections.",
        ),
        (
            r"No matching distribution found for torch|requires a different Python|is not a supported wheel",
            f"PyTorch or Panoform's backend does not come for this computer ({here}).",
            "Install the backend's wheel with another Python (3.11 to 3.14, 64 bit) and set that in the preferences.",
        ),
        (
            r"No matching distribution found for (\S+)",
            "The package server does not offer {package}.",
            "Check the connection and pip's settings (index-url), then set up again.",
        ),
        (
            r"Permission denied|Access is denied|PermissionError|Read-only file system|Errno 13\b|Errno 30\b"
            r"|WinError 5\b|WinError 32\b|Not a directory|WinError 267\b",
            f"{folder} can't be written.",
            "Close other Blenders that use the backend, or choose another folder in the preferences.",
        ),
        (
            r"No module named venv|ensurepip is not|No module named ensurepip",
            "Blender's Python comes without what makes environments (venv, ensurepip).",
            "Install python3-venv from your system's packages, or set the backend's Python in the preferences.",
        ),
    ):
        if match := re.search(pattern, said):
            return BackendError(message.replace("{package}", match.groups()[-1] if match.groups() else ""), hint)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "it said nothing"
    )
    return BackendError(f"Setting up failed: {last}", f"Everything it said is in {log}." if log else "")
