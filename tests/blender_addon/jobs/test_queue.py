"""Jobs that wait for others."""

from __future__ import annotations

import bpy
import numpy as np
import pytest
from noise_jobs import poll_until, spec

from panoform.blender_addon.capture.render import Render
from panoform.blender_addon.jobs import queue
from panoform.blender_addon.jobs.manager import Jobs
from panoform.blender_addon.perceive.spec import PerceiveSpec
from panoform.shared.protocol.errors import BackendMissingError, BusyError, Cancelled, DeviceMemoryError


def named(scene, name: str, source: str = "", **settings) -> PerceiveSpec:
    """Return a job with that name. `source`: see serve_arithmetic.py."""
    made = spec(scene, **{"num_inference_steps": 2} | settings)
    made.name, made.request.source = name, source
    return made


def names(jobs: Jobs) -> tuple[list[str], list[str]]:
    """Return the names of the jobs that wait, and of the results, oldest first."""
    return [spec.name for spec in jobs.queue], [result.spec.name for result in reversed(jobs.results)]


def idle(jobs: Jobs) -> bool:
    return jobs.job is None and not jobs.queue


def test_jobs_run_one_after_the_other(arithmetic: Jobs, scene) -> None:
    assert [arithmetic.submit(named(scene, name)) for name in "abc"] == [0, 1, 2]
    assert names(arithmetic) == (["b", "c"], [])
    with pytest.raises(BusyError):
        arithmetic.begin(named(scene, "d"))
    poll_until(arithmetic, lambda: idle(arithmetic))
    assert names(arithmetic) == ([], ["a", "b", "c"])
    for result in arithmetic.results:  # each has the maps of its own request
        panorama = result.spec.source.panorama.pixels
        distance = np.frombuffer(result.reply.maps["distance"].tobytes(), np.float32)
        np.testing.assert_allclose(distance, panorama.sum(-1).ravel(), rtol=1e-6)


@pytest.mark.slow
def test_queue_goes_on_after_a_failed_and_a_cancelled_job(arithmetic: Jobs, scene) -> None:
    for name, source, steps in (("a", "memory", 2), ("b", "", 500), ("c", "", 2)):
        arithmetic.submit(named(scene, name, source, num_inference_steps=steps))
    poll_until(arithmetic, lambda: arithmetic.job is not None and arithmetic.job.spec.name == "b")
    assert isinstance(arithmetic.failure.error, DeviceMemoryError), "the next job hides no error"
    poll_until(arithmetic, lambda: arithmetic.job.stage == "Adding")
    arithmetic.cancel()
    poll_until(arithmetic, lambda: idle(arithmetic))
    assert isinstance(arithmetic.failure.error, Cancelled)
    assert names(arithmetic) == ([], ["c"])


@pytest.mark.slow
def test_jobs_are_moved_and_removed_by_buttons(arithmetic: Jobs, scene) -> None:
    specs = [named(scene, name, num_inference_steps=500 if name == "a" else 2) for name in "abcd"]
    for one in specs:
        arithmetic.submit(one)
    assert bpy.ops.panoform.move_waiting_job(number=specs[3].number) == {"FINISHED"}
    assert names(arithmetic)[0] == ["b", "d", "c"]
    assert bpy.ops.panoform.remove_waiting_job(number=specs[1].number) == {"FINISHED"}
    assert bpy.ops.panoform.move_waiting_job(number=specs[3].number) == {"FINISHED"}
    assert names(arithmetic)[0] == ["d", "c"]
    assert bpy.ops.panoform.remove_waiting_job(number=specs[0].number) == {"CANCELLED"}, "it runs"
    arithmetic.cancel()
    poll_until(arithmetic, lambda: idle(arithmetic))
    assert names(arithmetic)[1] == ["d", "c"]


@pytest.mark.slow
def test_queue_is_held_when_the_backend_stops(arithmetic: Jobs, scene) -> None:
    for name in "abc":
        arithmetic.submit(named(scene, name, num_inference_steps=500 if name == "a" else 2))
    poll_until(arithmetic, lambda: arithmetic.job.stage == "Adding")
    arithmetic.stop(wait=True)
    for _ in range(5):
        arithmetic.poll()
    assert arithmetic.session is None, "a stopped backend isn't started by jobs that wait"
    assert names(arithmetic) == (["b", "c"], [])
    assert not arithmetic.busy
    assert bpy.ops.panoform.resume_queue() == {"FINISHED"}
    poll_until(arithmetic, lambda: idle(arithmetic))
    assert names(arithmetic) == ([], ["b", "c"])


@pytest.mark.slow
def test_queue_is_held_where_the_backend_cannot_start(arithmetic: Jobs, scene, monkeypatch) -> None:
    arithmetic.submit(named(scene, "a"))
    arithmetic.submit(named(scene, "b"))
    poll_until(arithmetic, lambda: arithmetic.job.id is not None)
    arithmetic.stop(wait=True)

    def start(*_: object, **__: object) -> None:
        raise BackendMissingError("It can't start.")

    monkeypatch.setattr(Jobs, "start", start)
    bpy.ops.panoform.resume_queue()
    arithmetic.poll()
    assert arithmetic.queue.held
    assert names(arithmetic) == (["b"], []), "no job is lost"
    assert arithmetic.failure.error.message == "It can't start."


@pytest.mark.slow
def test_clearing_stops_renders_and_keeps_the_running_job(arithmetic: Jobs, scene) -> None:
    class Rendering(Render):
        def __init__(self) -> None:
            self.closed = False

        def _read(self, light):
            raise AssertionError("nothing was rendered")

        def poll(self) -> None:
            return None

        def close(self) -> None:
            self.closed = True

    arithmetic.submit(named(scene, "a", num_inference_steps=500))
    waiting = named(scene, "b")
    waiting.source = rendering = Rendering()
    arithmetic.submit(waiting)
    arithmetic.poll()
    assert bpy.ops.panoform.clear_queue() == {"FINISHED"}
    assert rendering.closed
    assert not arithmetic.queue
    assert arithmetic.job.spec.name == "a"
    arithmetic.cancel()
    poll_until(arithmetic, lambda: idle(arithmetic))


@pytest.mark.slow
def test_number_of_waiting_jobs_is_bounded(arithmetic: Jobs, scene, monkeypatch) -> None:
    monkeypatch.setattr(queue, "MAX_WAITING", 1)
    arithmetic.submit(named(scene, "a", num_inference_steps=500))
    arithmetic.submit(named(scene, "b"))
    with pytest.raises(BusyError, match="1 jobs are waiting"):
        arithmetic.submit(named(scene, "c"))
    arithmetic.close()
    assert not arithmetic.queue
