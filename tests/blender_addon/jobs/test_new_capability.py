"""A new kind of job (tests/blender_addon/toy) runs end to end, and nothing that exists knows of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy
import msgspec
import pytest
from toy import backend
from toy.contract import AddReply, OverflowingError
from toy.feature import AddSpec, PANOFORM_OT_add, spec

from panoform.blender_addon.backend.session import Session
from panoform.blender_addon.jobs.manager import Jobs
from panoform.shared.protocol.errors import Cancelled

BACKEND = Path(backend.__file__)

posix_only = pytest.mark.skipif(os.name != "posix", reason="a script that stands for a Python")


@pytest.fixture(scope="module")
def session() -> Iterator[list[Session]]:
    """The backend that the tests of this file share, once one of them has started it."""
    kept = []
    yield kept
    for one in kept:
        one.close(wait=True)


@pytest.fixture
def adding(addon: Jobs, stopped, session: list[Session], tmp_path: Path, monkeypatch) -> Iterator[Jobs]:
    """The add-on with the capability, and a backend that has it too."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable!r} {str(BACKEND)!r} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", str(python))
    addon.session = session.pop() if session else None
    bpy.utils.register_class(PANOFORM_OT_add)
    yield addon
    bpy.utils.unregister_class(PANOFORM_OT_add)
    if addon.session is not None:
        session.append(addon.session)
    addon.session = None


def poll_until(jobs: Jobs, met: Callable[[], bool]) -> None:
    by = time.monotonic() + 60
    while not met():
        jobs.poll()
        assert time.monotonic() < by, "it never came"
        time.sleep(0.01)


@posix_only
def test_an_operator_asks_and_builds(adding: Jobs, scene) -> None:
    assert bpy.ops.panoform.add(count=4) == {"FINISHED"}
    assert scene.objects.get("sum 10") is not None
    assert adding.results[0].spec.summary(adding.results[0].reply) == "1 sum"


@posix_only
def test_progress_previews_and_cancelling(adding: Jobs, scene) -> None:
    adding.begin(spec(scene, 1000, step_s=0.01))
    poll_until(adding, lambda: adding.job.previews)
    assert adding.job.text.startswith("Adding ")
    assert 0 < adding.job.fraction < 1
    adding.cancel()
    poll_until(adding, lambda: adding.job is None)
    assert isinstance(adding.failure.error, Cancelled)
    assert not adding.results


@posix_only
def test_its_own_error_arrives(adding: Jobs, scene) -> None:
    with pytest.raises(RuntimeError, match=r"The sum is 6\. Keep it below 5\."):
        bpy.ops.panoform.add(count=4, limit=5)
    assert isinstance(adding.failure.error, OverflowingError)


# A job that follows another


@posix_only
def test_a_job_is_followed_by_another(adding: Jobs, scene) -> None:
    assert bpy.ops.panoform.add(count=4, then=3) == {"FINISHED"}
    assert [thing.name for thing in scene.objects] == ["sum 6"]
    assert [result.reply.total for result in adding.results] == [6]


@posix_only
def test_progress_goes_on_with_the_job_that_follows(adding: Jobs, scene) -> None:
    first = spec(scene, 4)
    first.then = spec(scene, 50, step_s=0.01)
    adding.begin(first)
    seen = []
    poll_until(adding, lambda: adding.job is None or seen.append((adding.job.spec, adding.job.text)))
    assert any(running is first.then and text.startswith("Adding ") for running, text in seen)
    assert adding.results[0].pending


@posix_only
def test_the_first_result_stays_if_the_second_job_fails(adding: Jobs, scene) -> None:
    with pytest.raises(RuntimeError, match=r"The sum is 15\. Keep it below 12\."):
        bpy.ops.panoform.add(count=4, then=100, limit=12)
    assert isinstance(adding.failure.error, OverflowingError)
    (result,) = adding.results
    assert (result.reply.total, result.pending, result.built) == (10, False, False)
    assert not scene.objects
    assert bpy.ops.panoform.build_result(index=0) == {"FINISHED"}
    assert scene.objects.get("sum 10") is not None


@posix_only
def test_the_second_job_is_tried_again_and_replaces_the_first_result(adding: Jobs, scene) -> None:
    first, second = spec(scene, 4), spec(scene, 100)
    first.then, wanted = second, second.request
    second.request = msgspec.structs.replace(wanted, limit=12)
    adding.begin(first)
    poll_until(adding, lambda: adding.failure is not None)
    second.request = wanted
    adding.retry()
    poll_until(adding, lambda: adding.job is None)
    assert adding.failure is None
    assert [result.spec for result in adding.results] == [second]


@pytest.mark.slow
@posix_only
@pytest.mark.parametrize("sent", [False, True])
def test_the_first_result_stays_if_the_second_job_is_cancelled(adding: Jobs, scene, sent: bool) -> None:
    first, second = spec(scene, 4), spec(scene, 1000, step_s=0.01)
    first.then = second
    adding.begin(first)
    poll_until(adding, lambda: adding.job.spec is second)
    if sent:
        poll_until(adding, lambda: adding.job.previews)
    else:
        adding.job.id = None
    adding.cancel()
    poll_until(adding, lambda: adding.job is None)
    assert (adding.failure is not None) == sent
    assert [(result.reply.total, result.pending) for result in adding.results] == [(10, False)]
    if not sent:
        adding.stop(wait=True)  # in truth it was sent, and would delay the next test's job


@posix_only
def test_the_first_result_stays_if_the_backend_is_stopped(adding: Jobs, scene) -> None:
    first, second = spec(scene, 4), spec(scene, 1000, step_s=0.01)
    first.then = second
    adding.begin(first)
    poll_until(adding, lambda: adding.job.spec is second)
    adding.stop()
    assert [(result.reply.total, result.pending) for result in adding.results] == [(10, False)]


class BrokenSpec(AddSpec):
    def follow_up(self, reply: AddReply) -> int:
        return 1 // 0


@pytest.mark.slow
@posix_only
def test_a_follow_up_that_raises_keeps_the_result(adding: Jobs, scene) -> None:
    good = spec(scene, 4)
    adding.begin(BrokenSpec(name="sum", scene_uid=good.scene_uid, request=good.request))
    poll_until(adding, lambda: adding.job is None)
    assert "ZeroDivisionError" in adding.failure.error.message
    assert [(result.reply.total, result.pending) for result in adding.results] == [(10, False)]


@pytest.mark.slow
def test_the_command_line_has_it() -> None:
    command = [sys.executable, str(BACKEND), "add", "1", "2.5"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3.5"
    assert "Adding" in done.stderr
    done = subprocess.run([*command, "--limit", "2"], capture_output=True, text=True, check=False)
    assert (done.returncode, "Keep it below 2" in done.stderr) == (1, True)


@pytest.mark.slow
def test_the_server_comes_without_torch_for_it() -> None:
    """The job needs no model, so nothing heavy is loaded for it."""
    code = (
        "import sys\nsys.argv = ['backend', 'add', '1']\n"
        f"import runpy\ntry: runpy.run_path({str(BACKEND)!r}, run_name='__main__')\nexcept SystemExit: pass\n"
        "print('heavy:', *sorted({'torch', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("heavy:")
