"""Setup of the backend's environment, with real venvs, the real pip and a dummy wheel."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from wheels import make_uv, make_wheel

from panoform.blender_addon.backend import installer, setup_progress, torch_build
from panoform.blender_addon.backend.installer import Installed, Setup
from panoform.blender_addon.backend.setup_progress import Needs
from panoform.shared.protocol.errors import BackendError, BackendMissingError, BusyError, Cancelled

OFFLINE = ("--no-index",)
UV_BACKEND = torch_build.uv_backend  # which the tests here replace


def set_up(folder: Path, wheel: Path, pip_arguments: tuple[str, ...] = OFFLINE) -> Setup:
    setup = Setup(folder, wheel, Path(sys.executable), pip_arguments)
    setup.start()
    while not setup.done:
        time.sleep(0.05)
    return setup


@pytest.fixture(scope="module", autouse=True)
def _own_pip_settings() -> Iterator[None]:
    """Ignore pip's configuration on this computer (an index, a folder of wheels)."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            patch.delenv(name)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        patch.setattr(torch_build, "uv_backend", lambda: None)  # no wheel here needs torch
        yield


#: pip makes an uv.exe of a real uv only.
HAS_UV = os.name != "nt"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Set up version 0.1.0, and torch's CPU build, in a folder with a space and non-ASCII characters in its name."""
    base = tmp_path_factory.mktemp("data")
    folder, wheels = base / "Zoë's données", base / "backend_wheel"
    wheel = make_wheel(wheels)
    with pytest.MonkeyPatch.context() as patch:
        if HAS_UV:
            make_uv(wheels)
            patch.setattr(torch_build, "uv_backend", lambda: "cpu")
        setup = set_up(folder, wheel, (*OFFLINE, "--find-links", str(wheels)))
    assert setup.error is None, setup.log.read_text(encoding="utf-8")
    return folder


@pytest.mark.slow
def test_ready_environment_has_the_wheel_installed(ready: Path) -> None:
    assert installer.find(ready, "0.1.0") is Installed.READY
    output = subprocess.run(
        [installer.python_in(ready), "-I", "-c", "import panoform; print(panoform.version)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert output.stdout.strip() == "0.1.0"
    log = (ready / "environment" / "setup.log").read_text(encoding="utf-8")
    told = [line for line in log.splitlines() if line.startswith(("uv has", "Successfully installed panoform"))]
    if HAS_UV:  # torch's build comes before what needs torch
        assert "--torch-backend=cpu torch" in told.pop(0)
    assert told == ["Successfully installed panoform-0.1.0"]


@pytest.mark.slow
def test_folder_of_wheels_takes_the_place_of_the_network(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch_build, "uv_backend", lambda: "cpu")  # which is left to whoever filled the folder
    monkeypatch.setenv("PIP_INDEX_URL", "https://nowhere.invalid/simple")
    wheels = tmp_path / "Zoë's wheels"
    make_wheel(wheels, "3.0.0", name="other")
    wheel = make_wheel(tmp_path / "w", requires="other>=3")
    setup = Setup(tmp_path / "data", wheel, Path(sys.executable), packages=str(wheels))
    setup._run()
    assert setup.error is None, setup.log.read_text("utf-8")
    assert "Successfully installed other-3.0.0 panoform-0.1.0" in setup.log.read_text("utf-8")


def test_missing_folder_of_wheels_is_told_first(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w")
    setup = Setup(tmp_path / "data", wheel, Path(sys.executable), packages=str(tmp_path / "nowhere"))
    setup._run()
    assert isinstance(setup.error, BackendError)
    assert str(tmp_path / "nowhere") in setup.error.message
    assert not (tmp_path / "data").exists()


def test_packages_come_from_a_folder_an_index_or_as_pip_is_configured() -> None:
    assert installer.from_place("") == ()
    assert installer.from_place("https://mirror.example/simple") == ("--index-url", "https://mirror.example/simple")
    assert installer.from_place("/wheels") == ("--no-index", "--find-links", "/wheels")
    assert [installer.is_offline(place) for place in ("", "https://mirror.example/simple", "/wheels")] == [
        False, False, True
    ]  # fmt: skip


@pytest.mark.slow
def test_environment_of_another_version_is_out_of_date(ready: Path) -> None:
    assert installer.find(ready, "0.2.0") is Installed.OTHER_VERSION


def test_missing_environment_is_absent(tmp_path: Path) -> None:
    assert installer.find(tmp_path, "0.1.0") is Installed.ABSENT


@pytest.mark.slow
def test_environment_of_a_deleted_blender_is_broken(ready: Path) -> None:
    config = ready / "environment" / "pyvenv.cfg"
    before = config.read_text(encoding="utf-8")
    home = next(line for line in before.splitlines() if line.startswith("home = "))
    config.write_text(before.replace(home, f"home = {ready / 'deleted' / 'bin'}"), encoding="utf-8")
    try:
        assert installer.find(ready, "0.1.0") is Installed.BROKEN
    finally:
        config.write_text(before, encoding="utf-8")


@pytest.mark.slow
def test_concurrent_cancelled_and_repeated_setup(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "backend_wheel")
    setup = Setup(tmp_path, wheel, Path(sys.executable), OFFLINE)
    setup.start()
    while not (tmp_path / "environment" / "pyvenv.cfg").exists():
        time.sleep(0.01)
    assert isinstance(set_up(tmp_path, wheel).error, BusyError)
    setup.cancel(wait=True)
    assert isinstance(setup.error, Cancelled)
    assert setup.done
    assert installer.find(tmp_path, "0.1.0") is Installed.BROKEN
    assert set_up(tmp_path, wheel).error is None
    assert installer.find(tmp_path, "0.1.0") is Installed.READY


def test_cancel_does_not_block(tmp_path: Path) -> None:
    go_on = threading.Event()
    setup = Setup(tmp_path, make_wheel(tmp_path / "w"), Path(sys.executable), OFFLINE, before=go_on.wait)
    setup.start()
    setup.cancel()
    assert not setup.done
    assert setup.status == "Cancelling"
    go_on.set()
    setup.cancel(wait=True)
    assert isinstance(setup.error, Cancelled)
    assert not (tmp_path / "environment").exists()


def test_unexpected_error_fails_the_setup(tmp_path: Path) -> None:
    setup = Setup(tmp_path, make_wheel(tmp_path / "w"), Path(sys.executable), OFFLINE, before=lambda: {}["nothing"])
    setup.start()
    setup.cancel(wait=True)
    assert setup.error is not None
    assert "KeyError: 'nothing'" in setup.error.message


@pytest.mark.slow
def test_failed_update_is_not_ready(tmp_path: Path) -> None:
    """An environment exists, and the package index has no torch."""
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "pyvenv.cfg").write_text("home = /\n", encoding="utf-8")
    (tmp_path / "environment" / installer.MARKER).write_text('{"version": "0.1.0"}', encoding="utf-8")
    setup = set_up(tmp_path, make_wheel(tmp_path / "new", "0.2.0", requires="torch>=2.6"))
    assert isinstance(setup.error, BackendError)
    assert "is not available for this computer" in setup.error.message
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in setup.error.message
    assert installer.find(tmp_path, "0.1.0") is Installed.BROKEN


def pip(ready: Path, *arguments: str | Path) -> str:
    """Return the output of the real pip when it fails."""
    command = [installer.python_in(ready), "-I", "-m", "pip", "install", "--force-reinstall", *arguments]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode != 0
    return done.stdout + done.stderr


@pytest.mark.slow
def test_wheel_for_another_python_is_reported(ready: Path, tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, metadata="Requires-Python: >=3.99\n")
    error = installer.error_from_output(pip(ready, *OFFLINE, wheel), tmp_path, None)
    assert "is not available for this computer" in error.message


@pytest.mark.slow
def test_missing_network_is_reported(ready: Path, tmp_path: Path) -> None:
    closed = ("--index-url", "http://127.0.0.1:9/simple", "--retries", "1", "--timeout", "2")
    error = installer.error_from_output(pip(ready, *closed, "numpy"), tmp_path, None)
    assert error.message == "The network could not be reached."


def test_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    setup = set_up(tmp_path / "file" / "folder", make_wheel(tmp_path / "w"))
    assert setup.error is not None
    assert "can't be written" in setup.error.message


def test_foreign_folder_is_not_modified(tmp_path: Path) -> None:
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "thesis.txt").write_text("years of work")
    setup = set_up(tmp_path, make_wheel(tmp_path / "w"))
    assert setup.error is not None
    assert "not a Python environment" in setup.error.message
    assert (tmp_path / "environment" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "is full"),
        ("ERROR: Could not install packages due to an OSError: [WinError 112] There is not enough space", "is full"),
        ("ERROR: [WinError 5] Access is denied: 'C:\\\\x\\\\torch_cpu.dll'", "can't be written"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]", "certificate"),
        ("/usr/bin/python3: No module named venv", "venv"),
        # uv 0.13.9
        (
            "error: Failed to fetch: https://x/torch/\n  cause: error sending request for url (https://x/torch/)"
            "\n  cause: client error (Connect)\n  cause: tcp connect error",
            "network could not be reached",
        ),
        (
            "error: Failed to fetch: https://x/torch/\n  cause: error sending request for url (https://x/torch/)"
            "\n  cause: invalid peer certificate: UnknownIssuer",
            "certificate",
        ),
        (
            "error: No solution found when resolving dependencies\n  cause: Because there is no version of torch",
            "not available for this computer",
        ),
        ("ERROR: No matching distribution found for peft>=0.17", "peft>=0.17"),
        (
            "ERROR: Cannot install panoform==0.1.0 because these package versions have conflicting dependencies.\n\n"
            "The conflict is caused by:\n    panoform 0.1.0 depends on torch>=2.6\n    The user requested (constraint) "
            "torch==2.13.0\n\nAdditionally, some packages in these conflicts have no matching distributions available "
            "for your environment:\n    torch\n\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io/",
            "do not include torch==2.13.0",
        ),
        ("something odd\nERROR: the disk is on fire\n", "the disk is on fire"),
    ],
)
def test_pip_output_becomes_an_error_with_a_hint(output: str, message: str, tmp_path: Path) -> None:
    error = installer.error_from_output(output, tmp_path, tmp_path / "setup.log")
    assert message in error.message
    assert error.hint


def test_full_disk_is_reported_before_anything_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(installer, "free_space", lambda _folder: 1e9)
    monkeypatch.setattr(installer, "needs", lambda gpu: Needs(3e9, 7e9))
    setup = set_up(tmp_path / "data", make_wheel(tmp_path / "w"))
    assert setup.error is not None
    assert "has 1.0 GB free, and about 10.0 GB are needed" in setup.error.message
    assert not (tmp_path / "data").exists()


def test_free_space_is_that_of_the_disk_of_a_future_folder(tmp_path: Path) -> None:
    free = setup_progress.free_space(tmp_path / "not" / "yet")
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)


def test_bundled_wheel_and_its_version_are_found(tmp_path: Path) -> None:
    with pytest.raises(BackendMissingError):
        installer.bundled_wheel(tmp_path)
    wheel = make_wheel(tmp_path / "backend_wheel", "1.2.3")
    assert installer.bundled_wheel(tmp_path) == wheel
    assert installer.version_of(wheel) == "1.2.3"


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"1", b'{"version": 1}', b'{"version": "\xff"}', b"[" * 100_000])
def test_environment_with_a_damaged_marker_is_broken(ready: Path, damaged: bytes) -> None:
    marker = ready / "environment" / installer.MARKER
    before = marker.read_bytes()
    marker.write_bytes(damaged)
    try:
        assert installer.find(ready, "0.1.0") is Installed.BROKEN
    finally:
        marker.write_bytes(before)


@pytest.mark.slow
def test_environment_with_a_damaged_config_is_broken(ready: Path) -> None:
    config = ready / "environment" / "pyvenv.cfg"
    before = config.read_bytes()
    try:
        config.write_bytes(b"home = \xff\n")
        assert installer.find(ready, "0.1.0") is Installed.BROKEN
        config.unlink()
        assert installer.find(ready, "0.1.0") is Installed.BROKEN
    finally:
        config.write_bytes(before)


_BLENDER = """
import sys, time, types
from pathlib import Path
import panoform.shared
addon = types.ModuleType("panoform.blender_addon")
addon.__path__ = [str(Path(panoform.shared.__file__).parents[1] / "blender_addon")]
sys.modules[addon.__name__] = addon
from panoform.blender_addon.backend import installer, tied_process
folder = Path(sys.argv[1])
with installer.locked(folder / installer.LOCK) as lock:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(1000)'])"
    process = tied_process.start(Path(sys.executable), [sys.executable, "-c", code], folder, lock)
    print(process.pid, flush=True)
    time.sleep(1000)
"""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.skipif(os.name != "posix", reason="on Windows the lock is not inherited")
def test_what_a_killed_blender_started_ends_and_holds_the_lock_until_then(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _BLENDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as blender:
        assert blender.stdout is not None
        between = psutil.Process(int(blender.stdout.readline()))
        until(lambda: len(between.children(recursive=True)) == 2)
        writers = [between, *between.children(recursive=True)]
        for writer in writers:
            writer.suspend()
        blender.kill()
        blender.wait()
        with pytest.raises(BusyError), installer.locked(tmp_path / installer.LOCK):
            pass  # they would still write
        for writer in writers:
            with contextlib.suppress(psutil.NoSuchProcess):  # the first to go on may have ended the others
                writer.resume()
        until(lambda: all(map(has_ended, writers)))
    with installer.locked(tmp_path / installer.LOCK):
        pass


@pytest.mark.skipif(os.name != "posix", reason="Windows has no groups of processes")
def test_cancel_ends_a_program_whose_process_in_between_was_killed(tmp_path: Path) -> None:
    setup = Setup(tmp_path, tmp_path / "wheel", Path(sys.executable))
    with installer.locked(tmp_path / installer.LOCK) as setup._lock, (tmp_path / "log").open("w") as log:
        code = "print('started', flush=True); import time; time.sleep(1000)"

        def call() -> None:
            with contextlib.suppress(Cancelled):
                setup._call(log, sys.executable, "-c", code)

        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: "started" in (tmp_path / "log").read_text())
        program = psutil.Process(setup._process.pid).children()[0]
        setup._process.kill()
        until(lambda: program.ppid() != setup._process.pid)
        setup.cancel()
        thread.join(10)
        assert not thread.is_alive()
        until(lambda: has_ended(program))


@pytest.mark.slow
def test_settings_of_pip_that_install_elsewhere_or_less_are_not_obeyed(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pip.conf").write_text("[install]\nuser = true\nno-deps = true\nrequire-hashes = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_PREFIX", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PIP_DRY_RUN", "1")
    assert set_up(tmp_path / "data", make_wheel(tmp_path / "wheels")).error is None
    assert installer.find(tmp_path / "data", "0.1.0") is Installed.READY
    assert not (tmp_path / "elsewhere").exists()
    wheel = make_wheel(tmp_path / "needy", requires="missing>=3")  # which is noticed
    assert "missing" in str(set_up(tmp_path / "other", wheel).error)


def test_programs_find_no_configuration_in_their_folder(tmp_path: Path) -> None:
    for name in ("uv.toml", "pip.conf", "pyproject.toml", "setup.cfg"):
        (tmp_path / name).write_text("[global]\nindex-url = http://evil.example")
    setup = Setup(tmp_path, tmp_path / "wheel", Path(sys.executable))
    with installer.locked(tmp_path / installer.LOCK) as setup._lock, (tmp_path / "log").open("w") as log:
        code = "import os, pathlib; print(os.listdir(), os.stat('.').st_mode & 0o777)"
        assert setup._call(log, sys.executable, "-c", code).strip() == f"[] {0o700 if os.name == 'posix' else 0o777}"
        with pytest.raises(BackendError):
            setup._call(log, tmp_path / "no program")
    assert not list(tmp_path.glob(".panoform-*"))


def test_environment_of_an_interrupted_set_up_of_an_earlier_version_is_made_again(tmp_path: Path) -> None:
    """Its log is there, but not the marker, which was written last."""
    environment = tmp_path / "environment"
    environment.mkdir()
    (environment / "pyvenv.cfg").write_text("home = /usr/bin")
    log = environment / "setup.log"
    log.write_text(f"$ python -I -m venv {environment}\n$ pip\n")
    assert installer._was_interrupted(environment)
    for other in ("a log of another program\n", f"$ python -I -m venv {tmp_path / 'other'}\n", ""):
        log.write_text(other)
        assert not installer._was_interrupted(environment)


def test_environment_of_the_user_is_not_cleared(tmp_path: Path) -> None:
    """Also one that Panoform could have made, and one that is reached by a link."""
    environment = tmp_path / "data" / "environment"
    environment.mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("home = /usr/bin")
    for folder in (tmp_path / "data", tmp_path / "linked"):
        if folder.name == "linked":
            folder.mkdir()
            (folder / installer.LOCK).touch()
            (folder / "environment").symlink_to(environment)
        setup = set_up(folder, make_wheel(tmp_path / "w"))
        assert setup.error is not None
        assert "not a Python environment that Panoform made" in setup.error.message
    assert [path.name for path in environment.iterdir()] == ["pyvenv.cfg"]


def test_files_of_the_user_beside_an_earlier_lock_stay(tmp_path: Path) -> None:
    (tmp_path / installer.LOCK).touch()
    (tmp_path / "setup.log").write_text("mine")
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "my.hdr").write_text("mine")
    setup = set_up(tmp_path, make_wheel(tmp_path / "w"))
    assert setup.error is not None
    assert "not a Python environment that Panoform made" in setup.error.message
    assert (tmp_path / "environment" / "my.hdr").read_text() == "mine"
    (tmp_path / "environment" / "my.hdr").unlink()
    wheel = make_wheel(tmp_path / "w")
    setup = Setup(tmp_path, wheel, Path(sys.executable), OFFLINE)
    setup.python = tmp_path / "no program"  # the first that is called, after the log is created
    setup.start()
    setup._thread.join()
    assert setup.error is not None
    assert (tmp_path / "setup.log").read_text() == "mine"
    assert setup.log.read_text("utf-8").startswith("$ ")
    assert installer.find(tmp_path, "0.1.0") is Installed.BROKEN


def test_interrupted_environment_is_set_up_again(tmp_path: Path) -> None:
    """What a set-up leaves at any time is known as Panoform's, and only the marker stays."""
    environment = tmp_path / "environment"
    (environment / "lib").mkdir(parents=True)
    (environment / "lib" / "module.py").touch()
    (environment / installer.MARKER).write_bytes(b"")
    installer._empty(environment)
    assert [path.name for path in environment.iterdir()] == [installer.MARKER]
    assert installer.find(tmp_path, "0.1.0") is Installed.BROKEN


@pytest.mark.slow
def test_incomplete_environment_is_told(ready: Path) -> None:
    """What runs after pip, right before the environment is marked as ready."""
    check = [installer.python_in(ready), "-I", "-c", installer._CHECK]
    assert subprocess.run(check, capture_output=True, text=True, check=True).stdout == "0.1.0\n"
    module = next((ready / "environment").rglob("panoform/__init__.py"))
    module.rename(module.with_suffix(".away"))
    try:
        found = subprocess.run(check, capture_output=True, text=True, check=True).stdout
        assert found.strip() == f"{Path('panoform') / '__init__.py'} is missing"
    finally:
        module.with_suffix(".away").rename(module)


def test_wheel_that_was_changed_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path / "w")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "w" / "SHA256SUMS").write_text(f"{digest}  {wheel.name}\n")
    installer._check_wheel(wheel)
    wheel.write_bytes(wheel.read_bytes() + b"more")
    setup = set_up(tmp_path / "data", wheel)
    assert isinstance(setup.error, BackendMissingError)
    assert "is damaged" in setup.error.message
    assert not (tmp_path / "data").exists()
