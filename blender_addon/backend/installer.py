"""Installation of the backend into its own Python environment.

The environment is a venv of Blender's Python, into which pip installs the wheel bundled with the extension. It is in a
user folder outside the extension, so that it survives updates and uninstalling. This module doesn't use bpy: `Setup`
runs on its own thread and is observed through its attributes.

    folder/environment/       the venv
    folder/environment/panoform.json   written first, without a version, and again last: the installed version
    folder/environment/setup.log       the output of pip
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import msgspec

from ...shared import json_file
from ...shared.atomic_write import atomic_write, drafts
from ...shared.file_errors import is_file
from ...shared.file_lock import try_lock
from ...shared.overwriting import sha256
from ...shared.protocol.errors import (
    BackendError,
    BackendMissingError,
    BusyError,
)
from . import pip_settings, tied_process, torch_build
from .environment_task import EnvironmentTask
from .log_file import BoundedLog
from .setup_progress import Needs, SetupProgress, free_space, gigabytes, needs

#: In the environment; and beside it, locked by who writes to the environment.
MARKER, LOCK = "panoform.json", "setup.lock"
#: Print the installed version of Panoform, or the first file of a package that is missing.
_CHECK = """
from importlib import metadata
files = (file for found in metadata.distributions() for file in found.files or () if file.suffix != ".pyc")
missing = next((file for file in files if not file.locate().exists()), None)
print(f"{missing} is missing" if missing else metadata.version("panoform"))
"""
#: Lines of a program's output that are searched for the reason of its failure.
_KEPT_LINES = 10_000
_WHEEL = re.compile(r"panoform-([^-]+)-py3-none-any\.whl")


class _Marker(msgspec.Struct):
    """The content of the marker file, which every environment of Panoform has."""

    #: "" while the set-up is not complete.
    version: str
    #: Of the environment, when it was complete; 0 if it is not known.
    bytes: int = 0


class Installed(Enum):
    """The state of the environment in a folder."""

    ABSENT = "absent"
    #: The setup was interrupted, or the Python that made the venv no longer exists.
    BROKEN = "broken"
    #: Complete, but not the version of the extension.
    OTHER_VERSION = "other version"
    READY = "ready"


def default_folder() -> Path:
    """Return Panoform's folder in the user's data folder."""
    if sys.platform == "win32":
        return Path(os.environ["LOCALAPPDATA"]) / "Panoform"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "Panoform"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "panoform"


def python_in(folder: Path) -> Path:
    """Return the path of the Python in the environment in `folder`, which may not exist."""
    return folder / "environment" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def find(folder: Path, version: str) -> Installed:
    """Return the state of the environment in `folder`, for an extension of `version`."""
    environment = folder / "environment"
    if not environment.exists():
        return Installed.ABSENT
    try:
        marker = json_file.read(environment / MARKER, _Marker)
        complete = python_in(folder).exists() and _base_folder(environment).exists()
    except (OSError, ValueError):
        return Installed.BROKEN
    if not complete or not marker.version:
        return Installed.BROKEN
    return Installed.READY if marker.version == version else Installed.OTHER_VERSION


def size(folder: Path) -> float:
    """Return the bytes of the environment in `folder`, or about what a setup takes if it was not complete."""
    try:
        marker = json_file.read(folder / "environment" / MARKER, _Marker)
    except (OSError, ValueError):
        return setup_needs().disk
    return marker.bytes or setup_needs().disk


def _base_folder(environment: Path) -> Path:
    """Return the folder of the Python that made a venv (a venv needs it to work)."""
    lines = (environment / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    return Path(next((value for key, _, value in (line.partition(" = ") for line in lines) if key == "home"), "?"))


def bundled_wheel(extension: Path) -> Path:
    """Return the wheel bundled with the extension. Raise BackendMissingError if there is none (in a checkout)."""
    for path in sorted((extension / "backend_wheel").glob("panoform-*.whl")):
        if _WHEEL.fullmatch(path.name):
            return path
    raise BackendMissingError(
        "This copy of Panoform does not include the backend.",
        "Install a zip made by build_addon.py, or set the backend's Python in the add-on's preferences.",
    )


def _check_wheel(wheel: Path) -> None:
    """Raise BackendMissingError if the wheel isn't the one that the extension was built with, by its SHA-256."""
    sums = wheel.with_name("SHA256SUMS")
    known = sums.read_text("utf-8").split() if sums.exists() else []
    if wheel.name in known and sha256(wheel) != known[known.index(wheel.name) - 1]:
        raise BackendMissingError(f"{wheel} is damaged, or was changed.", "Install the extension again.")


def version_of(wheel: Path) -> str:
    """Return "0.1.0" for panoform-0.1.0-py3-none-any.whl."""
    match = _WHEEL.fullmatch(wheel.name)
    if match is None:
        raise BackendMissingError(f"{wheel.name} is not a Panoform wheel.", "Install the extension again.")
    return match[1]


def base_python() -> Path:
    """Return Blender's Python executable. Raise BackendMissingError if it is unknown."""
    python = Path(sys.executable)
    if not python.name.lower().startswith("python"):
        raise BackendMissingError(
            f"The Python executable of this Blender is unknown (sys.executable is {python}).",
            "Set the backend's Python in the add-on's preferences to one with Panoform's wheel installed.",
        )
    return python


def setup_needs() -> Needs:
    """Return what a setup needs on this computer."""
    return needs(gpu=torch_build.needs_large_build())


def is_offline(packages: str) -> bool:
    """Return whether a set-up needs no network: its packages are in a folder."""
    return bool(packages) and "://" not in packages


def from_place(packages: str) -> tuple[str, ...]:
    """Return pip's arguments to take packages from a folder, from an index by its address, or, for "", as it does."""
    if not packages:
        return ()
    return ("--no-index", "--find-links", packages) if is_offline(packages) else ("--index-url", packages)


def check_disk(folder: Path) -> None:
    """Raise BackendError if the disk of `folder` has no space for a setup: its downloads, and the environment."""
    needed, free = sum(setup_needs()), free_space(folder)
    if free < needed:
        raise BackendError(
            f"The disk with {folder} has {gigabytes(free)} free, and about {gigabytes(needed)} are needed.",
            "Free some space or choose another folder in the preferences, then set up again.",
        )


class Setup(EnvironmentTask):
    """A setup of the environment."""

    label = "Set Up Backend"
    _cancelled_message = "The setup was cancelled.", "Finished downloads are kept for the next one."

    def __init__(
        self,
        folder: Path,
        wheel: Path,
        python: Path,
        pip_arguments: Sequence[str] = (),
        packages: str = "",
        before: Callable[[], None] | None = None,
        proxy: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`python` makes the venv; `pip_arguments` are added to each `pip install`. `packages`: see `from_place`.

        `proxy`: variables that name it, instead of the user's own.
        """
        super().__init__(folder, before)
        self.wheel = wheel.absolute()
        self.python = python
        self.pip_arguments = (*pip_arguments, *from_place(packages))
        self._packages = packages
        self._proxy = proxy
        self.progress = SetupProgress(folder, setup_needs())
        self._process: subprocess.Popen[str] | None = None
        self._lock = -1
        #: Variables of programs; None: those of this process.
        self._variables: dict[str, str] | None = None

    def cancel(self, *, wait: bool = False) -> None:
        """Cancel the setup; `wait` until it has ended. Downloads stay in pip's cache for the next one."""
        self._cancelled.set()
        if self._process is not None:
            tied_process.end(self._process)
        super().cancel(wait=wait)

    def _from_os_error(self, error: OSError) -> BackendError:
        return error_from_output(f"{error}", self.folder, None)

    def _work(self) -> None:
        self._check_cancelled()
        environment = self.environment
        check_own(environment)
        _check_wheel(self.wheel)
        if is_offline(self._packages) and not Path(self._packages).is_dir():
            raise BackendError(
                f"There is no folder {self._packages}.",
                "Choose the folder of the wheels as Packages From in the preferences, or leave it empty.",
            )
        if not environment.exists():  # an update fills the space of the old one again
            check_disk(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress.text = "Creating the Python environment"
        with contextlib.ExitStack() as stack:
            self._lock = stack.enter_context(locked(self.folder / LOCK))
            _empty(environment)
            log = stack.enter_context(BoundedLog(self.log))
            self._call(log, self.python, "-I", "-m", "venv", environment)
            python = python_in(self.folder)
            settings = self._call(log, python, "-I", "-X", "utf8", "-m", "pip", "config", "list")
            self._variables = pip_settings.environment(settings) | dict(self._proxy)
            self._pip(log, "--upgrade", "pip")
            constraints = self.wheel.parent / "constraints.txt"
            pins = ("--constraint", constraints) if constraints.exists() else ()
            if not self._packages and (backend := torch_build.uv_backend()) and not torch_build.has_own_index(settings):
                # Not PyPI's torch: uv knows where the other builds are, and pip then keeps what it installed. An index
                # of the user's chooses the build itself.
                self._pip(log, "uv")
                self.progress.text = "Looking for PyTorch"
                self._call(log, python.with_stem("uv"), "--no-config", "pip", "install", "--color", "never",
                           "--python", python, f"--torch-backend={backend}", *pins, "torch")  # fmt: skip
            self.progress.is_last_step = True
            self._pip(log, *pins, self.wheel)
            self.progress.text = "Checking the packages"
            checked = self._call(log, python, "-I", "-X", "utf8", "-c", _CHECK).strip()
            if checked != version_of(self.wheel):
                raise BackendError(
                    f"The environment is not complete: {checked.splitlines()[-1] if checked else 'no version'}",
                    "Set up again.",
                )
            complete = _Marker(version_of(self.wheel), _size(environment))
            atomic_write(environment / MARKER, msgspec.json.encode(complete))

    def _pip(self, log, *arguments: str | Path) -> None:
        python = python_in(self.folder)
        version = self._call(log, python, "-I", "-m", "pip", "--version")
        # pip reports the progress of downloads in a parsable format since 24.1.
        raw = tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= (24, 1)
        progress = ("--progress-bar", "raw" if raw else "off")
        self._call(log, python, "-I", "-X", "utf8", "-m", "pip", "install", "--disable-pip-version-check", "--no-input",
                   *progress, *self.pip_arguments, *arguments)  # fmt: skip

    def _call(self, log, *command: str | Path) -> str:
        """Run a program, follow its output and return it. Raise the error that the output indicates."""
        self._check_cancelled()
        log.write(f"$ {' '.join(map(str, command))}\n")
        output: deque[str] = deque(maxlen=_KEPT_LINES)
        with drafts(self.folder) as empty:  # a folder of our own, in which no program finds a configuration
            self._process = tied_process.start(self.python, command, empty, self._lock, self._variables)
            return self._follow(log, self._process, output)

    def _follow(self, log, process: subprocess.Popen[str], output: deque[str]) -> str:
        with process:
            if self._cancelled.is_set():  # cancelled between the check above and the start
                tied_process.end(process)
            assert process.stdout is not None
            for line in process.stdout:
                if not self.progress.parse(line):
                    output.append(line)
                    log.write(line)
                    log.flush()
        self._check_cancelled()
        if process.returncode:
            raise error_from_output("".join(output), self.folder, self.log)
        return "".join(output)


def check_own(environment: Path) -> None:
    """Raise BackendError if there is something else than an environment that Panoform made."""
    is_own = (environment / MARKER).exists() or _was_interrupted(environment)
    is_used = environment.exists() and (environment.is_symlink() or any(environment.iterdir()))
    if is_used and (environment.is_symlink() or not is_own):
        raise BackendError(
            f"{environment} exists and is not a Python environment that Panoform made.",
            "Delete it if nobody needs it, or choose another folder in the add-on's preferences.",
        )


def mark(environment: Path) -> None:
    """Mark an environment as not complete; in place, as no draft is to be left in a folder that has no marker."""
    (environment / MARKER).write_bytes(msgspec.json.encode(_Marker("")))


def _size(environment: Path) -> int:
    """Return the bytes of the files in an environment."""
    return sum(Path(folder, name).lstat().st_size for folder, _, files in os.walk(environment) for name in files)


def _empty(environment: Path) -> None:
    """Create the environment's folder, or delete what it holds, and mark it: first, as this may be interrupted.

    Raise OSError.
    """
    environment.mkdir(exist_ok=True)
    mark(environment)
    for entry in environment.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _was_interrupted(environment: Path) -> bool:
    """Return whether a set-up of an earlier version, which marked environments in the end, was interrupted here."""
    log = environment / "setup.log"
    if not (is_file(log) and is_file(environment / "pyvenv.cfg")):
        return False
    with log.open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline(4096)
    return first.startswith("$ ") and first.rstrip().endswith(f" -m venv {environment}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Lock `path`, and yield the open file; the system releases it when all that inherited it have ended.

    Raise BusyError if another Blender, or a program that it started, holds it.
    """
    with path.open("a+b") as handle:
        if not try_lock(handle.fileno()):
            raise BusyError("Another Blender is setting up or removing the backend.", "Wait until it has finished.")
        yield handle.fileno()


def error_from_output(output: str, folder: Path, log: Path | None) -> BackendError:
    """Return an error with a hint for the output of pip, uv or the system."""
    system = f"{platform.system()} {platform.machine()}, Python {sys.version_info.major}.{sys.version_info.minor}"
    for pattern, message, hint in (
        (
            r"No space left on device|Errno 28\b|WinError 112\b|not enough space|Disk quota exceeded",
            f"The disk with {folder} is full.",
            "Free some space (about 10 GB is needed) or choose another folder in the preferences, then set up again.",
        ),
        (
            r"SSLError|CERTIFICATE_VERIFY_FAILED|invalid peer certificate",  # first: uv also names the network
            "The certificate of the package index could not be verified.",
            "Check the computer's clock, and any proxy or antivirus that intercepts secure connections.",
        ),
        (
            r"Temporary failure in name resolution|Name or service not known|getaddrinfo failed|nodename nor servname"
            r"|NewConnectionError|Network is unreachable|ConnectTimeout|Read timed out|ConnectionResetError"
            r"|ProxyError|dns error|ProtocolError|error sending request",
            "The network could not be reached.",
            "Check the connection (and the proxy), then set up again: finished downloads are kept.",
        ),
        (
            r"No matching distribution found for torch|requires a different Python|is not a supported wheel"
            r"|No solution found",  # uv, which is asked for PyTorch alone
            f"PyTorch or Panoform's backend is not available for this computer ({system}).",
            "Install the backend's wheel with another Python (3.11 to 3.14, 64 bit) and set that in the preferences.",
        ),
        (
            r"conflicting dependencies[\s\S]*?requested \(constraint\) (\S+)",
            "The packages for the backend do not include {package}.",
            "A folder of wheels needs the versions in the extension's backend_wheel/constraints.txt, for Blender's "
            "Python: pip download -d FOLDER -c constraints.txt, with the wheel beside it.",
        ),
        (
            r"No matching distribution found for (\S+)",
            "The package index does not offer {package}.",
            "Check the connection and pip's settings (index-url), then set up again.",
        ),
        (
            r"Permission denied|Access is denied|PermissionError|Read-only file system|Errno 13\b|Errno 30\b"
            r"|WinError 5\b|WinError 32\b|Not a directory|WinError 267\b",
            f"{folder} can't be written.",
            "Close other Blender instances that use the backend, or choose another folder in the preferences.",
        ),
        (
            r"No module named venv|ensurepip is not|No module named ensurepip",
            "Blender's Python can't create environments: venv or ensurepip is missing.",
            "Install python3-venv from your system's packages, or set the backend's Python in the preferences.",
        ),
    ):
        if match := re.search(pattern, output):
            return BackendError(message.replace("{package}", match.groups()[-1] if match.groups() else ""), hint)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no output")
    return BackendError(f"The setup failed: {last}", f"The full output is in {log}." if log else "")
