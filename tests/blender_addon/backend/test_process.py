"""Starting and stopping the backend, with real processes and a simple engine (serve_arithmetic.py)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from panoform.blender_addon.backend import session
from panoform.blender_addon.backend.client import Client
from panoform.blender_addon.backend.process import BackendProcess
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.protocol import connection
from panoform.shared.protocol.connection import Connection
from panoform.shared.protocol.errors import BackendLostError, BackendMissingError, BackendVersionError, OutputError
from panoform.shared.protocol.messages import ProgressEvent, StatusReply

SERVER = Path(__file__).parents[2] / "backend" / "serve_arithmetic.py"
PATIENCE_S = 30

Start = Callable[..., BackendProcess]


def until(condition: Callable[[], object]) -> object:
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)
    return found


def connected(process: BackendProcess) -> Connection:
    found = until(process.poll)
    assert isinstance(found, Connection)
    return found


def has_exited(pid: int) -> bool:
    try:
        # The init process may not reap orphans here.
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "blender a1 é"


@pytest.fixture
def start(folder) -> Iterator[Start]:
    started = []

    def start(*command: str, **options: float) -> BackendProcess:
        started.append(BackendProcess(command or (sys.executable, str(SERVER)), folder, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop(wait=True, timeout_s=0)


def script(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def parent_command(folder: Path, source: str) -> list[str]:
    return [sys.executable, str(Path(__file__).parents[1] / "parent.py"), str(SERVER), str(folder), source]


def test_starts_answers_and_stops(start, folder):
    process = start()
    found = connected(process)
    client = Client(found)
    client.status()
    (status,) = until(client.poll)
    assert isinstance(status, StatusReply)
    assert status.pid == found.pid
    client.close()
    process.stop(wait=True)
    assert has_exited(found.pid)
    assert [file.suffix for file in folder.iterdir()] == [".log"]
    assert "listens on tcp://127.0.0.1:" in process.log_tail()


@pytest.mark.slow
def test_two_processes_are_independent(start, folder):
    first, second = connected(start()), connected(start())
    assert first.endpoint != second.endpoint
    assert first.client_secret_key != second.client_secret_key
    assert len(list(folder.glob("*.json"))) == len(list(folder.glob("*.log"))) == 2


@pytest.mark.slow
def test_python_variables_are_not_inherited(start, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "nowhere")
    monkeypatch.setenv("PYTHONPATH", "nowhere")
    connected(start())


def test_stop_kills_a_process_that_does_not_exit(start):
    if os.name != "posix":
        pytest.skip("needs POSIX signals")
    process = start(
        *script(
            "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True);"
            "time.sleep(1000)"
        )
    )
    until(lambda: "ready" in process.log_tail())
    process.stop(wait=True, timeout_s=0.1)
    with pytest.raises(BackendLostError, match=r"exit code -9"):
        process.poll()


@pytest.mark.slow
def test_stop_does_not_block_on_a_stuck_process(start, folder):
    process = start()
    found = connected(process)
    client = Client(found)
    settings = PerceiveSettings(maps=("distance",))
    panorama = np.ones((4, 8, 3), np.float32)
    client.submit(
        PerceiveRequest(
            panorama=panorama, encoding="linear", source="stuck", engine=EngineSettings(), settings=settings
        )
    )
    until(lambda: any(isinstance(message, ProgressEvent) for message in client.poll()))
    client.close()
    process.stop()
    process.stop()
    assert not has_exited(found.pid), "stop() waited for the process"
    until(lambda: has_exited(found.pid))
    process.stop(wait=True)
    assert [file.suffix for file in folder.iterdir()] == [".log"]


def test_missing_log_is_not_an_error(start):
    process = start()
    process.log_path.unlink()
    assert "can't be read" in process.log_tail()


def test_missing_executable_is_reported(start, folder):
    with pytest.raises(BackendMissingError, match="can't be started") as caught:
        start(str(folder / "no" / "python"))
    assert "Set up the backend" in caught.value.hint
    assert list(folder.iterdir()) == []


def test_python_without_panoform_is_reported(start):
    process = start(sys.executable, "-I", "-S", "-m", "panoform.backend")
    with pytest.raises(BackendMissingError, match="has no Panoform installed"):
        until(process.poll)


def test_folder_that_cannot_be_written_is_rejected(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="can't be written"):
        BackendProcess((sys.executable, str(SERVER)), tmp_path / "file" / "folder")


def test_failed_start_quotes_the_last_log_line(start):
    process = start(*script("raise RuntimeError('no such device')"))
    with pytest.raises(
        BackendLostError, match=r"while starting \(exit code 1\).*RuntimeError: no such device"
    ) as caught:
        until(process.poll)
    assert str(process.log_path) in caught.value.hint
    assert process.log_path.exists()
    assert "Traceback" in process.log_tail()


@pytest.mark.skipif(os.name != "posix", reason="Windows limits no files")
def test_full_disk_is_told(start):
    """A limit of the size of files stands for the full disk: not even the reason can be written into the log."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
    process = start(*script(f"{limit}; print('no room')"))
    with pytest.raises(BackendLostError, match=r"while starting: it could not write its log.*disk is full") as caught:
        until(process.poll)
    assert "Make room" in caught.value.hint


def test_start_timeout_stops_the_process(start):
    process = start(*script("import time; time.sleep(1000)"), start_timeout_s=0.5)
    with pytest.raises(BackendLostError, match="did not start"):
        until(process.poll)
    until(lambda: process._process.poll() is not None)


@pytest.mark.parametrize(("protocol", "update"), [(0, "Update the backend"), (99, "Update the Panoform extension")])
def test_backend_of_another_version_is_reported(start, protocol, update):
    text = json.dumps({"protocol": protocol, "pid": "not a number"})
    write = f"import sys, os, time; open('part', 'w').write({text!r}); os.replace('part', sys.argv[3])"
    process = start(*script(f"{write}; time.sleep(1000)"))
    with pytest.raises(BackendVersionError, match=f"version {protocol}, the add-on version") as caught:
        until(process.poll)
    assert update in caught.value.hint
    until(lambda: process._process.poll() is not None)


@pytest.mark.slow
def test_killed_backend_is_reported(start, folder):
    process = start()
    found = connected(process)
    psutil.Process(found.pid).kill()
    with pytest.raises(BackendLostError, match="exited unexpectedly"):
        until(lambda: process.poll() and None)
    # Later calls raise it again; the connection file with the keys is deleted.
    with pytest.raises(BackendLostError, match="exited unexpectedly"):
        process.poll()
    until(lambda: list(folder.glob("*.json")) == [])


@pytest.mark.parametrize("source", ["", pytest.param("stuck", marks=pytest.mark.slow)], ids=["working", "stuck"])
def test_backend_exits_when_its_parent_is_killed(tmp_path, source):
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "parent.py"),
        str(SERVER),
        str(tmp_path / "folder"),
        source,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        backend = int(parent.stdout.readline())
        assert not has_exited(backend)
        parent.kill()  # SIGKILL: without any cleanup
    until(lambda: has_exited(backend))
    assert list((tmp_path / "folder").glob("*.json")) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="stops a process, and sleeps in the C library")
@pytest.mark.parametrize("source", ["", "locked"], ids=["stopped", "locked"])
def test_backend_in_which_python_does_not_run_ends_with_its_parent(tmp_path, source):
    """It is stopped, or a native call that never returns holds the lock of Python."""
    with subprocess.Popen(parent_command(tmp_path / "folder", source), stdout=subprocess.PIPE, text=True) as parent:
        backend = psutil.Process(int(parent.stdout.readline()))
        until(lambda: backend.children())
        (guardian,) = backend.children()
        time.sleep(0.6)
        if not source:
            backend.suspend()
        parent.kill()
    assert not has_exited(backend.pid)
    until(lambda: has_exited(backend.pid) and has_exited(guardian.pid))
    assert list((tmp_path / "folder").glob("*.json")) == []


_PARENT = """
import sys, time, types
from pathlib import Path
import panoform.shared
addon = types.ModuleType("panoform.blender_addon")
addon.__path__ = [str(Path(panoform.shared.__file__).parents[1] / "blender_addon")]
sys.modules[addon.__name__] = addon
from panoform.blender_addon.backend.process import BackendProcess
process = BackendProcess([sys.executable, "-m", "panoform.backend"], Path(sys.argv[1]))
print(process._process.pid, flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="stops a process")
def test_backend_that_is_stopped_while_it_starts_ends_with_its_parent(tmp_path):
    command = [sys.executable, "-c", _PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        backend = psutil.Process(int(parent.stdout.readline()))
        until(lambda: backend.children() and backend.children()[0].cmdline()[-1:] != [])
        time.sleep(0.1)  # until the guardian runs its own program
        backend.suspend()
        assert list(tmp_path.glob("*.json")) == [], "it has started"
        parent.kill()
    until(lambda: has_exited(backend.pid))


_FEW_FILES = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))
os.execv(sys.executable, [sys.executable, "-m", "panoform.backend", *sys.argv[1:]])
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no limit of open files")
def test_guardian_that_cannot_be_started_is_told_in_one_line(tmp_path):
    """Three more files can be opened: enough to import modules, and too few to start a process."""
    command = [
        sys.executable,
        "-c",
        _FEW_FILES,
        "serve",
        "--connection-file",
        str(tmp_path / "a.json"),
        "--parent-pipe",
    ]
    backend = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, check=False)
    assert backend.returncode == 1
    (line,) = backend.stderr.splitlines()
    assert line.endswith("can't be started: Too many open files. Close other programs, and try again.")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such process groups")
def test_ctrl_c_in_the_terminal_does_not_reach_the_backend(tmp_path):
    command = parent_command(tmp_path / "folder", "")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        backend = int(parent.stdout.readline())
        assert os.getpgid(parent.pid) == parent.pid
        assert os.getpgid(backend) != parent.pid
        parent.kill()
    until(lambda: has_exited(backend))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the number of a process may be taken again at once")
def test_connection_files_of_killed_backends_are_deleted(start, folder):
    alive = connected(start())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale, mine = folder / "backend-0123456789ab.json", folder / "backend-mine.json"
    for path in (stale, mine):
        connection.write(path, msgspec.structs.replace(alive, pid=dead.pid))
    (folder / "backend-ba9876543210.json").write_text("damaged")
    session.Session.start(Path(sys.executable), folder).close(wait=True, timeout_s=0)
    names = {path.name for path in folder.glob("*.json")}
    assert stale.name not in names
    assert len(names) == 3, "that of a living backend, and files that aren't a backend's"
