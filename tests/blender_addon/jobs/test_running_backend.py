"""A backend that the user has started, used by its connection file."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bpy
import pytest
from noise_jobs import poll_until, spec

from panoform.blender_addon import command, preferences
from panoform.blender_addon.jobs.manager import Jobs, State
from panoform.shared.protocol import connection
from panoform.shared.protocol.errors import BackendLostError, BackendMissingError

SERVER = Path(__file__).parents[2] / "backend" / "serve_arithmetic.py"


@pytest.fixture
def served(stopped: Jobs, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running backend, whose connection file the preferences name."""
    path = tmp_path / "größe.json"
    process = subprocess.Popen([sys.executable, str(SERVER), "serve", "--connection-file", str(path)])
    by = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < by, "it never started"
        time.sleep(0.02)
    preferences.get().connection_file = str(path)
    yield process
    stopped.stop(wait=True)
    process.terminate()
    process.wait(20)


@pytest.mark.slow
def test_jobs_run_there_and_it_is_not_stopped(served, stopped: Jobs, scene) -> None:
    assert stopped.state is State.STOPPED
    for expected in (1, 2):
        stopped.begin(spec(scene))
        poll_until(stopped, lambda: stopped.job is None)
        assert len(stopped.results) == expected, stopped.failure
        assert stopped.session.status.pid == served.pid
        assert bpy.ops.panoform.stop_backend() == {"FINISHED"}
        time.sleep(0.2)
        assert served.poll() is None, "it belongs to whoever started it"


@pytest.mark.slow
def test_its_end_is_told(served, stopped: Jobs, scene) -> None:
    stopped.begin(spec(scene, num_inference_steps=500))
    poll_until(stopped, lambda: stopped.job.stage == "Adding")
    served.terminate()
    poll_until(stopped, lambda: stopped.job is None)
    assert stopped.failure is not None
    served.wait(20)
    poll_until(stopped, lambda: stopped.session is None)
    stopped.begin(spec(scene))
    poll_until(stopped, lambda: stopped.job is None)
    assert isinstance(stopped.failure.error, BackendMissingError)
    assert "clear Running Backend" in stopped.failure.error.hint


def test_file_of_a_backend_that_is_gone(stopped: Jobs, scene, tmp_path: Path) -> None:
    path = tmp_path / "gone.json"
    key = "x" * 40
    gone = connection.Connection(
        endpoint="tcp://127.0.0.1:9", server_public_key=key, client_public_key=key, client_secret_key=key,
        protocol=connection.PROTOCOL_VERSION, version="0", pid=1,
    )  # fmt: skip
    connection.write(path, gone)
    preferences.get().connection_file = str(path)
    stopped.begin(spec(scene))
    poll_until(stopped, lambda: stopped.job is None)
    assert isinstance(stopped.failure.error, BackendLostError)


def test_batch_does_not_connect(addon: Jobs, tmp_path: Path, capsys) -> None:
    assert command.run(["--connect", "x.json", "batch", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "Leave out --connect" in capsys.readouterr().err
