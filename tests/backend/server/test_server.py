"""The server in a separate process, through real sockets: status, jobs, shutdown."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import weakref

import numpy as np
import psutil
import pytest
from decoding import decoded
from serving import REAL, TIMEOUT_S, Backend, Peer, message_types, run_endlessly, wait_until

from panoform.backend.server import server as server_module
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings
from panoform.shared.protocol import messages
from panoform.shared.protocol.errors import ModelError, SettingError

# Status


@pytest.mark.slow
def test_status_is_answered_before_torch_is_loaded(tmp_path):
    backend = Backend(REAL, tmp_path / "connection.json")
    peer = Peer(backend.connection)
    try:
        status = peer.status()
        assert (status.pid, status.running, status.queued) == (backend.process.pid, None, 0)
        if sys.platform != "darwin":  # where the memory of other processes can't be read
            loaded = [mapped.path for mapped in psutil.Process(status.pid).memory_maps()]
            assert any("numpy" in path for path in loaded)
            assert not any("torch" in path for path in loaded)
    finally:
        peer.close()
        backend.end()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="the memory of other processes can't be read")
def test_warm_up_imports_torch_without_a_job_and_does_not_delay_the_exit(tmp_path):
    backend = Backend(REAL, tmp_path / "connection.json", "--warm-up")
    peer = Peer(backend.connection)
    try:
        process = psutil.Process(backend.process.pid)
        wait_until(lambda: any("torch" in mapped.path for mapped in process.memory_maps()))
        assert peer.status().running is None
        began = time.monotonic()
        peer.send(messages.ShutdownRequest(id="end"))
        assert isinstance(peer.receive_until_reply("end")[-1], messages.ShutdownReply)
        assert backend.process.wait(TIMEOUT_S) == 0
        assert time.monotonic() - began < 2, "the exit waited for the imports"
        log = (tmp_path / "log").read_text()
        assert "shut down" in log
        assert "torchvision" not in log, "a library's warning"
    finally:
        peer.close()
        backend.end()


@pytest.mark.slow
def test_first_job_uses_the_model_of_the_warm_up_while_status_is_answered(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    backend = Backend(REAL, tmp_path / "connection.json", "--warm-up")
    peer = Peer(backend.connection)
    try:
        wait_until(lambda: peer.status().engine is not None)
        held = peer.status().memory_held
        assert held is not None
        assert held < 2**30
        panorama = np.random.default_rng(0).random((32, 64, 3), np.float32)
        settings = PerceiveSettings(maps=("distance", "albedo"), height=64)
        peer.send(PerceiveRequest(
            id="job", panorama=panorama, encoding="srgb", engine=EngineSettings(), settings=settings,
        ))  # fmt: skip
        peer.send(messages.StatusRequest(id="status"))
        *events, reply = peer.receive_until_reply("job")
        assert isinstance(reply, PerceiveReply), reply
        shapes = {name: decoded(data).shape for name, data in reply.maps.items()}
        assert shapes == {"distance": (64, 128, 1), "albedo": (64, 128, 3)}
        assert isinstance(events[0], messages.QueuedEvent)
        assert [event.running for event in events if isinstance(event, messages.StatusReply)] == ["job"]
        status = peer.status()
        assert (status.running, status.engine) == (None, "Starter (built in, preview quality)")
        assert 0 < status.memory_free <= status.memory_total
        assert 2**26 < status.memory_held < status.memory_total
        stages = [event.stage for event in events if isinstance(event, messages.ProgressEvent)]
        assert stages
        assert not [stage for stage in stages if stage.startswith("Loading")], "it was loaded again"
    finally:
        peer.close()
        backend.end()


@pytest.mark.slow
def test_status_reports_the_running_job_and_the_last_model(peer):
    peer.perceive("long", steps=200)
    peer.perceive("next")
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    status = peer.status()
    assert (status.running, status.queued) == ("long", 1)
    for job in ("next", "long"):
        peer.send(messages.CancelRequest(id="stop " + job, job=job))
    peer.receive_until_reply("long")
    peer.perceive("short")
    peer.receive_until_reply("short")
    status = peer.status()
    assert (status.running, status.engine, status.device) == (None, "Arithmetic", "abacus")
    assert (status.memory_free, status.memory_total, status.memory_held) == (3, 10, 2)


# Jobs


def test_job_sends_queued_progress_and_preview_events_before_its_reply(peer):
    panorama = np.random.default_rng(0).random((256, 512, 3), np.float32)
    peer.perceive("a", panorama, steps=3, source="räum.exr")
    received = peer.receive_until_reply("a")
    assert message_types(received) == ["QueuedEvent", *["ProgressEvent", "PreviewEvent"] * 3, "PerceiveReply"]
    assert received[0].ahead == 0
    assert [(event.step, event.of, event.fraction) for event in received[1:-1:2]] == [
        (1, 3, 1 / 3),
        (2, 3, 2 / 3),
        (3, 3, 1),
    ]
    assert [event.picture[0, 0, 0] for event in received[2:-1:2]] == [1, 2, 3]
    reply = received[-1]
    assert reply.maps["distance"].tobytes() == panorama.sum(-1, keepdims=True).tobytes()
    assert reply.maps["albedo"].tobytes() == (panorama / 2).tobytes()
    assert reply.info.source == "räum.exr"


@pytest.mark.slow
def test_large_panorama_is_transferred_bit_for_bit(peer):
    panorama = np.random.default_rng(0).random((1024, 2048, 3), np.float32)
    peer.perceive("large", panorama)
    assert peer.receive_until_reply("large")[-1].maps["albedo"].tobytes() == (panorama / 2).tobytes()


def test_jobs_run_in_order_and_report_their_queue_position(peer):
    for name in ("a", "b", "c"):
        peer.perceive(name, steps=5)
    received = peer.receive_until_reply("c")
    replies = [message.id for message in received if isinstance(message, PerceiveReply)]
    assert replies == ["a", "b", "c"]
    positions = {
        name: [m.ahead for m in received if isinstance(m, messages.QueuedEvent) and m.id == name] for name in "abc"
    }
    assert positions == {"a": [0], "b": [1, 0], "c": [2, 1, 0]}


def test_running_job_is_cancelled_within_a_step(peer):
    peer.perceive("a", steps=200)
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    peer.send(messages.CancelRequest(id="stop", job="a"))
    received = peer.receive_until_reply("stop")
    assert received[-1].cancelled
    after = peer.receive_until_reply("a")
    assert (after[-1].code, message_types(after).count("ProgressEvent") <= 1) == ("cancelled", True)
    peer.perceive("b")
    assert isinstance(peer.receive_until_reply("b")[-1], PerceiveReply)


def test_queued_job_is_cancelled_at_once(peer):
    peer.perceive("a", steps=10)
    peer.perceive("b")
    peer.perceive("c")
    peer.send(messages.CancelRequest(id="stop", job="b"))
    received = peer.receive_until_reply("c")
    ends = {m.id: m for m in received if isinstance(m, messages.Reply)}
    assert list(ends) == ["b", "stop", "a", "c"]
    assert ends["b"].code == "cancelled"
    assert [m.ahead for m in received if isinstance(m, messages.QueuedEvent) and m.id == "c"] == [2, 1, 0]


def test_cancel_of_unknown_job_or_another_clients_job_has_no_effect(backend, peer):
    peer.perceive("mine", steps=20)
    peer.receive()
    other = Peer(backend.connection)
    for job in ("nothing", "mine"):
        other.send(messages.CancelRequest(id=job, job=job))
        assert not other.receive_until_reply(job)[-1].cancelled
    other.close()
    assert isinstance(peer.receive_until_reply("mine")[-1], PerceiveReply)


def test_full_queue_returns_a_busy_error(peer):
    names = [f"job {number}" for number in range(server_module.MAX_JOBS)]
    for name in names:
        peer.perceive(name, steps=200)
    peer.perceive("too many")
    assert peer.receive_until_reply("too many")[-1].code == "busy"
    for name in reversed(names):
        peer.send(messages.CancelRequest(id="stop " + name, job=name))
    received = peer.receive_until_reply(names[0])
    assert sorted(m.id for m in received if isinstance(m, messages.ErrorReply)) == names


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("memory", "device_memory", "1.3 GB short"),
        ("bug", "error", "ZeroDivisionError: division by zero"),
        ("exit", "error", "SystemExit"),
        ("float64", "protocol", "float64"),
    ],
)
def test_failed_job_returns_an_error_and_the_server_keeps_running(peer, source, code, words):
    peer.perceive("a", source=source)
    error = peer.receive_until_reply("a")[-1]
    assert isinstance(error, messages.ErrorReply)
    assert (error.code, words in error.message, bool(error.hint) or code == "protocol") == (code, True, True)
    peer.perceive("b")
    assert isinstance(peer.receive_until_reply("b")[-1], PerceiveReply)


def test_finished_job_releases_its_arrays(serve):
    references = []

    def run(request, models, reporter):
        references.append(weakref.ref(request.panorama))
        raise ModelError("No.")

    peer = Peer(serve(run).connection)
    peer.perceive("a", np.ones((256, 512, 3), np.float32))
    assert peer.receive_until_reply("a")[-1].code == "model"
    wait_until(lambda: references[0]() is None)
    peer.close()


def test_error_longer_than_a_header_is_truncated(serve):
    def run(request, models, reporter):
        raise ModelError("transformer.single_transformer_blocks.0.attn.to_k " * 100_000)

    peer = Peer(serve(run).connection)
    peer.perceive("a")
    assert "single_transformer_blocks" in peer.receive_until_reply("a")[-1].message
    peer.close()


def test_result_folder_is_written(peer, tmp_path):
    peer.perceive("a", directory=str(tmp_path / "ergebnis é"))
    assert isinstance(peer.receive_until_reply("a")[-1], PerceiveReply)
    assert json.loads((tmp_path / "ergebnis é" / "maps.json").read_text("utf-8"))["engine"] == "starter"


def test_unwritable_result_folder_is_rejected_before_computation(peer, tmp_path):
    (tmp_path / "file").touch()
    for directory in (str(tmp_path / "file"), "relative"):
        peer.perceive("a", directory=directory)
        received = peer.receive_until_reply("a")
        assert (message_types(received), received[-1].code) == (["QueuedEvent", "ErrorReply"], "output")


# Shutdown


def test_shutdown_sends_a_reply_to_every_request(own_backend):
    peer = Peer(own_backend.connection)
    peer.perceive("a", steps=200)
    peer.perceive("b")
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    peer.send(messages.ShutdownRequest(id="end"))
    replies = [m for m in peer.receive_until_reply("end") if isinstance(m, messages.Reply)]
    assert [(type(m).__name__, m.id) for m in replies] == [
        ("ErrorReply", "b"),
        ("ErrorReply", "a"),
        ("ShutdownReply", "end"),
    ]
    assert [m.code for m in replies[:2]] == ["cancelled", "cancelled"]
    assert own_backend.process.wait(TIMEOUT_S) == 0
    assert not own_backend.file.exists()
    peer.close()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl+C"])
def test_signals_shut_the_server_down_cleanly(own_backend, number):
    peer = Peer(own_backend.connection)
    peer.perceive("a", steps=200)
    peer.receive()
    own_backend.process.send_signal(number)
    assert peer.receive_until_reply("a")[-1].code == "cancelled"
    assert own_backend.process.wait(TIMEOUT_S) == 0
    assert not own_backend.file.exists()
    peer.close()


@pytest.mark.parametrize("source", ["", pytest.param("stuck", marks=pytest.mark.slow)])
def test_server_exits_when_the_pipe_of_its_parent_closes(own_backend, source):
    peer = Peer(own_backend.connection)
    peer.perceive("a", source=source, steps=200)
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    own_backend.process.stdin.close()
    assert peer.receive_until_reply("a")[-1].code == "cancelled"
    own_backend.process.wait(TIMEOUT_S)
    assert not own_backend.file.exists()
    peer.close()


def test_jobs_of_a_disconnected_client_are_cancelled(backend, peer):
    disconnected = Peer(backend.connection)
    for name in ("a", "b", "c"):
        disconnected.perceive(name, steps=200)
    # Messages of several clients arrive in any order: `mine` is sent when the others are queued, and the first runs.
    arrived = set()
    while not {("a", "ProgressEvent"), ("b", "QueuedEvent"), ("c", "QueuedEvent")} <= arrived:
        event = disconnected.receive()
        arrived.add((event.id, type(event).__name__))
    peer.perceive("mine")
    first = peer.receive()  # before the server can know of the disconnection
    disconnected.close()
    # 600 steps would take 12 s and more; after them `mine` would report the positions 3, 2, 1 and 0.
    received = [first, *peer.receive_until_reply("mine")]
    assert isinstance(received[-1], PerceiveReply)
    assert [m.ahead for m in received if isinstance(m, messages.QueuedEvent)] == [3, 0]


def test_server_shuts_down_after_a_client_with_queued_jobs_disconnected(serve):
    server = serve(run_endlessly)
    mine, disconnected = Peer(server.connection), Peer(server.connection)
    mine.perceive("mine")
    while not isinstance(mine.receive(), messages.PreviewEvent):
        pass
    for name in ("a", "b"):
        disconnected.perceive(name)
        assert isinstance(disconnected.receive(), messages.QueuedEvent)
    disconnected.close()
    time.sleep(0.5)  # ZeroMQ detects the disconnection; the server does when it sends a message
    server.end()
    assert mine.receive_until_reply("mine")[-1].code == "cancelled"
    mine.close()


def test_status_is_correct_after_a_failed_load(serve):
    class Model:
        label, device_label = "Large", "abacus"

        def device_memory(self):
            return 1, 2, 1

        def leave_device(self):
            return False

    def run(request, models, reporter):
        models.clear()
        if request.source == "broken":
            raise ModelError("It can't be loaded.")
        models.get(request.source, Model, lambda: True)
        raise ModelError("It was loaded, and failed later.")

    peer = Peer(serve(run).connection)
    for source, engine in (("good", "Large"), ("broken", None)):
        peer.perceive(source, source=source)
        assert peer.receive_until_reply(source)[-1].code == "model"
        assert peer.status().engine == engine
    peer.close()


@pytest.mark.slow
def test_log_of_the_user_is_not_shortened(tmp_path):
    """`panoform serve 2>> all.log`, without the add-on."""
    log = tmp_path / "all.log"
    log.write_bytes(b"a line\n" * 2_000_000)
    before = log.stat().st_size
    command = [sys.executable, "-m", "panoform.backend", "serve", "--connection-file", str(tmp_path / "c.json")]
    with log.open("ab") as stderr, subprocess.Popen(command, stderr=stderr) as process:
        while not (tmp_path / "c.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.terminate()
    assert log.stat().st_size > before


def test_port_is_chosen_or_refused():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"Port {port} can't be used"):
            server_module.Server(port=port)
    with pytest.raises(SettingError, match="Port 99999 can't be used"):
        server_module.Server(port=99999)
    chosen = server_module.Server(port=port)
    try:
        assert chosen.connection.endpoint == f"tcp://127.0.0.1:{port}"
    finally:
        chosen.close()
