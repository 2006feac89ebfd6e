"""Jobs during cancel, undo, loading of other files, unregistering and exit of Blender."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import bpy
import numpy as np
import psutil
import pytest
import room_folder
from mathutils import Matrix
from noise_jobs import poll_until, spec

from panoform.backend.io import results
from panoform.blender_addon import preferences
from panoform.blender_addon.backend import session
from panoform.blender_addon.backend.installer import Setup
from panoform.blender_addon.backend.session import MAX_LOGS
from panoform.blender_addon.capture.pixels import Pixels
from panoform.blender_addon.capture.sources import Capture
from panoform.blender_addon.generate import world_preview
from panoform.blender_addon.jobs import manager, timer
from panoform.blender_addon.jobs.job import Job
from panoform.blender_addon.jobs.manager import MAX_RESULTS, Jobs, State
from panoform.blender_addon.jobs.specs import Result
from panoform.blender_addon.scene import maps_folder
from panoform.blender_addon.scene.spec import SceneSpec
from panoform.shared.jobs.perceive import Info, PerceiveReply
from panoform.shared.jobs.scene import SceneRequest
from panoform.shared.protocol.errors import BusyError, Cancelled, OutputError


def perceived() -> PerceiveReply:
    info = Info(
        panoform="", engine="", model="", adapters="", notice="", maps={}, frame="", source="", source_size=(8, 16),
        size=(8, 16), exposure=None, seed=0, num_inference_steps=1, guidance_scale=1, device="", dtype="",
        seconds={"all": 1}, versions={},
    )  # fmt: skip
    data = results.encode_maps({"distance": np.ones((8, 16, 1), np.float32)})["distance"]
    return PerceiveReply(id="1", maps={"distance": np.frombuffer(data, np.uint8)}, info=info)


@pytest.mark.slow
def test_poll_runs_a_job_to_its_result(addon: Jobs, stopped, scene) -> None:
    assert addon.state is State.STOPPED
    addon.begin(spec(scene))
    assert addon.state is State.STARTING
    stages = []
    poll_until(addon, lambda: addon.job is None or stages.append((addon.job.stage, addon.job.fraction)))
    assert addon.state is State.READY
    assert any("Distance" in stage for stage, _ in stages)
    shares = [fraction for _, fraction in stages]
    assert shares == sorted(shares)
    assert addon.results[0].reply.maps["distance"].dtype == np.uint8
    assert addon.seconds
    poll_until(addon, lambda: addon.session.status.engine is not None)


@pytest.mark.slow
def test_cancel_before_the_backend_is_ready(addon: Jobs, stopped, scene) -> None:
    addon.begin(spec(scene))
    addon.cancel()
    assert addon.job is None
    assert addon.failure is None
    poll_until(addon, lambda: addon.state is State.READY)
    assert not addon.results


@pytest.mark.slow
def test_cancel_while_running(addon: Jobs, scene) -> None:
    addon.begin(spec(scene, num_inference_steps=200, height=256))
    poll_until(addon, lambda: addon.job.id is not None)
    addon.cancel()
    assert addon.job.text == "Cancelling"
    poll_until(addon, lambda: addon.job is None)
    assert isinstance(addon.failure.error, Cancelled)
    assert not addon.results


@pytest.mark.slow
def test_result_survives_deleting_its_scene(addon: Jobs) -> None:
    doomed = bpy.data.scenes.new("Doomed")
    addon.begin(spec(doomed))
    bpy.data.scenes.remove(doomed)
    poll_until(addon, lambda: addon.job is None)
    (result,) = addon.results
    timer._build_pending()
    assert not result.built
    assert not result.pending
    assert bpy.ops.panoform.build_result(index=0) == {"FINISHED"}
    assert result.built
    assert bpy.data.objects.get("noise dome") is not None


@pytest.mark.slow
def test_result_is_built_in_its_scene_while_another_is_active(addon: Jobs, scene) -> None:
    addon.begin(spec(scene))
    shown = bpy.data.scenes.new("Shown")
    mine = shown.world = bpy.data.worlds.new("mine")
    bpy.context.window_manager.windows[0].scene = shown
    poll_until(addon, lambda: addon.job is None)
    timer._build_pending()
    assert addon.results[0].built
    assert scene.world.name == "Panoform noise"
    assert [child.name for child in scene.collection.children] == ["Panoform noise"]
    assert shown.world == mine
    assert not shown.collection.children
    bpy.ops.panoform.build_result(index=0)  # already built: again, in the active scene
    assert [child.name for child in shown.collection.children] == ["Panoform noise.001"]


def test_failed_build_is_repeated_in_its_scene(addon: Jobs, scene) -> None:
    addon.results.append(Result(spec(scene), pending=False))
    addon.results[0].reply = perceived()
    shown = bpy.data.scenes.new("Shown")
    bpy.context.window_manager.windows[0].scene = shown
    bpy.ops.panoform.build_result(index=0)
    assert scene.collection.children
    assert not shown.collection.children


@pytest.mark.slow
def test_result_survives_opening_another_file(addon: Jobs, scene, tmp_path: Path) -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "other.blend"))
    addon.begin(spec(bpy.context.scene))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "other.blend"))
    poll_until(addon, lambda: addon.job is None)
    timer._build_pending()
    assert not addon.results[0].built
    assert not bpy.data.objects
    bpy.ops.panoform.build_result(index=0)
    assert bpy.data.objects


@pytest.mark.slow
def test_undo_during_a_job_keeps_the_scene(addon: Jobs, scene) -> None:
    bpy.ops.ed.undo_push(message="before")
    bpy.data.objects.new("something", None)
    bpy.ops.ed.undo_push(message="something")
    addon.begin(spec(bpy.context.scene))
    bpy.ops.ed.undo()
    poll_until(addon, lambda: addon.job is None)
    assert addon.results[0].spec.scene_uid == bpy.context.scene.session_uid


def test_thumbnail_is_the_panorama_in_srgb(scene) -> None:
    pixels = np.zeros((1024, 2048, 3), np.float32)
    pixels[:, 1024:] = (0.2158605, 5.0, np.nan)  # 128 in sRGB, clipped, repaired
    job = spec(scene)
    job.source = Capture(Pixels(pixels, "linear"), "two halves", Matrix.Identity(4))
    picture = job.thumbnail()
    assert picture is not None
    assert (picture.shape, picture.dtype) == ((128, 256, 3), np.uint8)
    assert (picture[:, :128] == 0).all()
    assert (picture[:, 128:] == (128, 255, 0)).all()
    job.source = None
    assert job.thumbnail() is None


def test_oldest_built_results_are_removed_first(addon: Jobs, scene) -> None:
    made = [Result(spec(scene), built=i != 0) for i in range(MAX_RESULTS + 2)]
    for result in made:
        addon._add_result(result)
    assert len(addon.results) == MAX_RESULTS
    assert made[0] in addon.results, "what was never built is not thrown away"
    assert made[1] not in addon.results


@pytest.mark.skipif(os.name != "posix", reason="needs a signal that halts a process")
@pytest.mark.slow
def test_stop_does_not_block_on_a_backend_that_does_not_exit(addon: Jobs, stopped, scene) -> None:
    addon.start()
    poll_until(addon, lambda: addon.state is State.READY)
    process = psutil.Process(addon.session.status.pid)
    process.suspend()
    addon.stop(wait=False)
    assert addon.state is State.STOPPED
    assert process.is_running(), "it was waited for"
    addon.begin(spec(scene))  # another job
    addon.cancel()
    process.resume()
    addon.close()
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_backend_starts_early_once_where_it_is_set_up_and_allowed(addon: Jobs, monkeypatch, tmp_path: Path) -> None:
    jobs = Jobs()
    settings = preferences.get()
    assert jobs.can_start_early
    settings.start_early = False
    assert not jobs.can_start_early
    settings.start_early = True
    monkeypatch.delenv("PANOFORM_BACKEND_PYTHON")
    settings.folder = str(tmp_path)
    assert not jobs.can_start_early, "without an installed environment"
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", sys.executable)
    jobs.start(warm_up=True)
    try:
        assert "--warm-up" in jobs.session.process._process.args
        assert not jobs.can_start_early
    finally:
        jobs.close()
    assert not jobs.can_start_early, "the user has stopped it"


def test_no_setup_while_a_cancelled_one_ends(addon: Jobs, tmp_path: Path) -> None:
    go_on = threading.Event()
    addon.setup = Setup(tmp_path / "data", tmp_path / "wheel", Path(sys.executable), before=go_on.wait)
    addon.setup.start()
    addon.cancel()
    assert addon.state is State.SETTING_UP
    assert addon.setup.status == "Cancelling"
    with pytest.raises(BusyError, match="not ended yet"):
        addon.set_up(tmp_path / "wheel", Path(sys.executable))
    go_on.set()
    poll_until(addon, lambda: addon.setup is None)
    assert isinstance(addon.failure.error, Cancelled)


# Unexpected errors: the timer keeps running


class BrokenSpec(SceneSpec):
    def cost(self) -> int:
        return 1 // 0


@pytest.mark.slow
def test_unexpected_error_discards_the_job_and_is_reported(addon: Jobs, stopped, scene, tmp_path: Path) -> None:
    files = maps_folder.files(room_folder.write(tmp_path / "room", room_folder.maps(32), room_folder.panorama(32)))
    addon.begin(BrokenSpec(name="room", scene_uid=scene.session_uid, request=SceneRequest(files=files)))
    by = time.monotonic() + 60
    while addon.job is not None:
        assert timer._tick() is not None
        assert time.monotonic() < by
        time.sleep(0.01)
    assert "ZeroDivisionError" in addon.failure.error.message
    assert "Traceback" in addon.failure.details
    assert "in cost" in addon.failure.details
    addon.begin(spec(scene))  # the next job can start
    addon.cancel()


@pytest.mark.slow
def test_failed_build_does_not_block_other_results(addon: Jobs, scene) -> None:
    good, bad = Result(spec(scene), perceived()), Result(spec(scene), perceived())
    bad.reply.maps["distance"] = None
    addon.results[:] = [bad, good]
    timer._tick()
    assert good.built
    assert not bad.built
    assert "Traceback" in addon.failure.details
    addon.failure = None
    timer._tick()
    assert addon.failure is None, "it is not tried again"


def test_repeated_failure_is_reported_once(addon: Jobs, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(world_preview, "remove", lambda: {}["nothing"])
        assert timer._tick() is not None
        failure = addon.failure
        assert "KeyError" in failure.details
        timer._tick()
        assert addon.failure is failure
        addon.failure = None
        timer._tick()
        assert addon.failure is None, "it was dismissed"
    timer._tick()
    assert not timer._failed


class EndingProcess:
    """A process that takes part in no test but by its end."""

    is_own, has_exited = True, False

    def log_tail(self, lines: int = 20) -> str:
        return "the log"

    def stop(self, **_: object) -> None:
        self.has_exited = True

    def poll(self) -> None:
        return None


def test_why_a_backend_does_not_start_again_is_told(addon: Jobs, stopped, scene, monkeypatch) -> None:
    """The job does not stop, and the new backend can't start."""

    def start() -> None:
        raise OutputError("The disk is full.", "Make room.")

    addon.session = session.Session(EndingProcess())
    addon.job = Job(spec(scene), id="1", cancelling=True, cancelled_at=time.monotonic() - 60)
    monkeypatch.setattr(addon, "start", start)
    addon.poll()
    assert addon.failure.error.message == "The disk is full."
    assert "the log" in addon.failure.details
    assert addon.session is None


def test_backends_that_have_exited_are_forgotten(addon: Jobs, stopped) -> None:
    for _ in range(5):
        addon.session = session.Session(EndingProcess())
        addon.stop(wait=True)
    assert len(addon._stopping) <= 1


def test_old_logs_are_deleted(tmp_path: Path) -> None:
    for i in range(MAX_LOGS + 5):
        (tmp_path / f"backend-{i:012}.log").write_text("")
        os.utime(tmp_path / f"backend-{i:012}.log", (i, i))
    session._delete_old_logs(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"backend-{i:012}.log" for i in range(5, MAX_LOGS + 5)]


def test_other_logs_and_damaged_connections_are_left(tmp_path: Path) -> None:
    names = [f"backend-mine{i}.log" for i in range(MAX_LOGS + 5)]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "backend-x.log").symlink_to("nothing")
    (tmp_path / f"backend-{0:012}.log").symlink_to("nothing")
    session._delete_old_logs(tmp_path)
    assert len(list(tmp_path.iterdir())) == len(names) + 2
    assert not any(session._is_running(number) for number in (2**40, 2**31, -1, 0))
    assert session._is_running(os.getpid())


def test_remaining_time_text(addon: Jobs, scene) -> None:
    job = Job(spec(scene), stage="Normal", step=12, of=28, seconds_left=41.4)
    assert job.text == job.bar_text == "Normal 12/28 · 0:41 left"
    job.reported_at -= 7
    assert job.text == "Normal 12/28 · 0:41 left"
    assert job.bar_text == "Normal 12/28 · 0:41 left · 0:07"


SCRIPT = """
import sys, time
import bpy
from panoform import blender_addon
from panoform.blender_addon.jobs.manager import jobs
blender_addon.register()
entry = bpy.context.preferences.addons.new()
entry.module = "panoform"
entry.preferences.folder = sys.argv[1]
jobs.start()
while jobs.session.status is None:
    jobs.poll()
    time.sleep(0.01)
print("backend", jobs.session.status.pid, flush=True)
"""


@pytest.mark.parametrize(
    "end",
    [
        pytest.param("blender_addon.unregister(); print('unregistered', jobs.session)", marks=pytest.mark.slow),
        pytest.param("sys.exit(0)", marks=pytest.mark.slow),
        "import os; os._exit(1)",
    ],
    ids=["unregister", "exit", "crash"],
)
def test_backend_exits_with_blender(end: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + end, str(tmp_path)],
        env=os.environ | {"PANOFORM_BACKEND_PYTHON": sys.executable},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "backend " in done.stdout, done.stdout + done.stderr
    pid = int(done.stdout.split("backend ")[1].split()[0])
    if "unregister" in end:
        assert "unregistered None" in done.stdout
    by = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < by, "the backend is still there"
        time.sleep(0.05)


def begin(jobs: Jobs, scene, source: str, **settings) -> psutil.Process:
    """Start a job, and return the backend's process when the job has reported a step or has ended."""
    made = spec(scene, **settings)
    made.request.source = source
    jobs.begin(made)
    poll_until(jobs, lambda: jobs.job is None or jobs.job.stage in ("Stuck", "Locked", "Adding"))
    return psutil.Process(jobs.session.process._process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["stuck", "locked"])
def test_backend_of_a_cancelled_job_that_does_not_stop_is_restarted(arithmetic, scene, monkeypatch, source) -> None:
    monkeypatch.setattr(Job, "PATIENCE_S", 1.0)
    process = begin(arithmetic, scene, source)
    arithmetic.cancel()
    arithmetic.cancel()  # an impatient user
    assert "restarted in 1 s" in arithmetic.patience
    poll_until(arithmetic, lambda: arithmetic.job is None)
    assert isinstance(arithmetic.failure.error, Cancelled)
    assert "the backend was restarted" in arithmetic.failure.error.message
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    begin(arithmetic, scene, "next", num_inference_steps=2)
    poll_until(arithmetic, lambda: arithmetic.job is None)
    assert len(arithmetic.results) == 1


@pytest.mark.skipif(os.name != "posix", reason="on Windows a killed process has no reason")
def test_killed_backend_is_told_at_once_and_the_next_job_works(arithmetic, scene) -> None:
    process = begin(arithmetic, scene, "", num_inference_steps=200)
    process.kill()
    began = time.monotonic()
    poll_until(arithmetic, lambda: arithmetic.failure is not None)
    assert time.monotonic() - began < 2
    assert "ended by the system, most likely for lack of memory" in arithmetic.failure.error.message
    assert "Close other programs" in arithmetic.failure.error.hint
    arithmetic.retry()
    poll_until(arithmetic, lambda: arithmetic.job is None)
    assert arithmetic.failure is None
    assert len(arithmetic.results) == 1, "of the job that was killed"
    begin(arithmetic, scene, "next", num_inference_steps=2)
    poll_until(arithmetic, lambda: arithmetic.job is None)
    assert len(arithmetic.results) == 2


@pytest.mark.skipif(os.name != "posix", reason="waits without reaping")
def test_backend_that_was_killed_while_idle_is_started_for_the_next_job(arithmetic, scene) -> None:
    process = begin(arithmetic, scene, "", num_inference_steps=1)
    poll_until(arithmetic, lambda: arithmetic.job is None)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # without a poll, as between two commands
    begin(arithmetic, scene, "next", num_inference_steps=2)
    poll_until(arithmetic, lambda: arithmetic.job is None)
    assert arithmetic.failure is None
    assert len(arithmetic.results) == 2


@pytest.mark.slow
def test_panel_tells_of_silence(arithmetic, scene, monkeypatch) -> None:
    """The process and the job have patiences of their own, and neither is killed for a slow step."""
    monkeypatch.setattr("panoform.blender_addon.jobs.job._SLOW_S", 0.5)
    process = begin(arithmetic, scene, "stuck")
    job = arithmetic.job
    job.longest_s = 0.0
    assert arithmetic.patience == ""
    poll_until(arithmetic, lambda: "No step for 0:0" in arithmetic.patience)
    job.longest_s = 3.0
    assert arithmetic.patience == "", "a tenth of the usual time"
    assert arithmetic.job is job
    assert process.is_running()
    job.longest_s = 0.01
    monkeypatch.setattr(manager, "_SILENCE_S", 0.3)
    monkeypatch.setattr(type(arithmetic.session.client), "silence_s", 20.0)
    assert arithmetic.patience == "The backend has not answered for 0:20. It is stopped in 0:40."
    arithmetic.stop(timeout_s=0)


@pytest.mark.slow
def test_nothing_waits_for_a_backend_that_hangs(arithmetic, scene) -> None:
    """In a window, stopping it, closing the add-on and the exit of Blender take no time, and it ends nevertheless."""
    for end in (arithmetic.stop, arithmetic.close):
        process = begin(arithmetic, scene, "locked")
        time.sleep(0.5)  # until it holds Python's lock
        began = time.perf_counter()
        end(wait=False)
        assert time.perf_counter() - began < 0.5
        assert process.is_running()
        by = time.monotonic() + 30
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < by
            time.sleep(0.05)
    arithmetic.close(wait=True)
