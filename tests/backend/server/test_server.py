"""The server, in a process of its own, spoken to through real sockets: status, jobs, its end."""

import json
import os
import signal
import sys
import time
import weakref

import numpy as np
import psutil
import pytest
from decoding import decoded
from serving import PATIENCE_S, REAL, Backend, Peer, endless, kinds, wait_until

from panoform.backend.server import server as server_module
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings
from panoform.shared.protocol import messages
from panoform.shared.protocol.errors import ModelError

# Status


def test_status_is_answered_before_torch_is_loaded(tmp_path):
    backend = Backend(REAL, tmp_path / "connection.json")
    peer = Peer(backend.connection)
    try:
        status = peer.status()
        assert (status.pid, status.running, status.queued) == (backend.process.pid, None, 0)
        if sys.platform != "darwin":  # where another process's memory is private
            loaded = [mapped.path for mapped in psutil.Process(status.pid).memory_maps()]
            assert any("numpy" in path for path in loaded)
            assert not any("torch" in path for path in loaded)
    finally:
        peer.close()
        backend.end()


@pytest.mark.slow
def test_the_real_engine_perceives_and_status_is_answered_meanwhile(tmp_path):
    backend = Backend(REAL, tmp_path / "connection.json")
    peer = Peer(backend.connection)
    try:
        peer.send(
            PerceiveRequest(
                id="job",
                panorama=np.random.default_rng(0).random((32, 64, 3), np.float32),
                encoding="srgb",
                engine=EngineSettings(device="cpu"),
                settings=PerceiveSettings(maps=("distance",), height=64),
            )
        )
        assert isinstance(peer.receive(), messages.QueuedEvent)
        assert peer.status().running == "job"
        reply = peer.until_reply("job")[-1]
        assert isinstance(reply, PerceiveReply), reply
        assert {name: decoded(data).shape for name, data in reply.maps.items()} == {"distance": (64, 128, 1)}
        status = peer.status()
        assert (status.running, status.engine) == (None, "Starter (built in, preview quality)")
        assert 0 < status.memory_free <= status.memory_total
    finally:
        peer.close()
        backend.end()


def test_status_while_a_job_runs(peer):
    peer.perceive("long", steps=200)
    peer.perceive("next")
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    status = peer.status()
    assert (status.running, status.queued) == ("long", 1)
    for job in ("next", "long"):
        peer.send(messages.CancelRequest(id="stop " + job, job=job))
    peer.until_reply("long")
    peer.perceive("short")
    peer.until_reply("short")
    status = peer.status()
    assert (status.running, status.engine, status.device) == (None, "Arithmetic", "abacus")
    assert (status.memory_free, status.memory_total) == (3, 10)


# Jobs


def test_job_from_queue_to_reply(peer):
    panorama = np.random.default_rng(0).random((256, 512, 3), np.float32)
    peer.perceive("a", panorama, steps=3, source="räum.exr")
    heard = peer.until_reply("a")
    assert kinds(heard) == ["QueuedEvent", *["ProgressEvent", "PreviewEvent"] * 3, "PerceiveReply"]
    assert heard[0].ahead == 0
    assert [(event.step, event.of, event.fraction) for event in heard[1:-1:2]] == [
        (1, 3, 1 / 3),
        (2, 3, 2 / 3),
        (3, 3, 1),
    ]
    assert [event.picture[0, 0, 0] for event in heard[2:-1:2]] == [1, 2, 3]
    reply = heard[-1]
    assert reply.maps["distance"].tobytes() == panorama.sum(-1, keepdims=True).tobytes()
    assert reply.maps["albedo"].tobytes() == (panorama / 2).tobytes()
    assert reply.info.source == "räum.exr"


def test_a_large_panorama_comes_back_bit_for_bit(peer):
    panorama = np.random.default_rng(0).random((1024, 2048, 3), np.float32)
    peer.perceive("large", panorama)
    assert peer.until_reply("large")[-1].maps["albedo"].tobytes() == (panorama / 2).tobytes()


def test_jobs_wait_their_turn_and_are_told_their_place(peer):
    for name in ("a", "b", "c"):
        peer.perceive(name, steps=5)
    heard = peer.until_reply("c")
    replies = [message.id for message in heard if isinstance(message, PerceiveReply)]
    assert replies == ["a", "b", "c"]
    places = {name: [m.ahead for m in heard if isinstance(m, messages.QueuedEvent) and m.id == name] for name in "abc"}
    assert places == {"a": [0], "b": [1, 0], "c": [2, 1, 0]}


def test_cancel_running_takes_effect_within_a_step(peer):
    peer.perceive("a", steps=200)
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    peer.send(messages.CancelRequest(id="stop", job="a"))
    heard = peer.until_reply("stop")
    assert heard[-1].cancelled
    after = peer.until_reply("a")
    assert (after[-1].code, kinds(after).count("ProgressEvent") <= 1) == ("cancelled", True)
    peer.perceive("b")
    assert isinstance(peer.until_reply("b")[-1], PerceiveReply)


def test_cancel_queued(peer):
    peer.perceive("a", steps=10)
    peer.perceive("b")
    peer.perceive("c")
    peer.send(messages.CancelRequest(id="stop", job="b"))
    heard = peer.until_reply("c")
    ends = {m.id: m for m in heard if isinstance(m, messages.Reply)}
    assert list(ends) == ["b", "stop", "a", "c"]
    assert ends["b"].code == "cancelled"
    assert [m.ahead for m in heard if isinstance(m, messages.QueuedEvent) and m.id == "c"] == [2, 1, 0]


def test_cancel_what_is_not_there_or_not_mine(backend, peer):
    peer.perceive("mine", steps=20)
    peer.receive()
    other = Peer(backend.connection)
    for job in ("nothing", "mine"):
        other.send(messages.CancelRequest(id=job, job=job))
        assert not other.until_reply(job)[-1].cancelled
    other.close()
    assert isinstance(peer.until_reply("mine")[-1], PerceiveReply)


def test_a_full_queue_is_busy(peer):
    names = [f"job {number}" for number in range(server_module.MAX_JOBS)]
    for name in names:
        peer.perceive(name, steps=200)
    peer.perceive("too many")
    assert peer.until_reply("too many")[-1].code == "busy"
    for name in reversed(names):
        peer.send(messages.CancelRequest(id="stop " + name, job=name))
    heard = peer.until_reply(names[0])
    assert sorted(m.id for m in heard if isinstance(m, messages.ErrorReply)) == names


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("memory", "device_memory", "1.3 GB short"),
        ("bug", "error", "ZeroDivisionError: division by zero"),
        ("exit", "error", "SystemExit"),
        ("float64", "protocol", "float64"),
    ],
)
def test_what_fails_is_an_error_and_the_server_lives(peer, source, code, says):
    peer.perceive("a", source=source)
    error = peer.until_reply("a")[-1]
    assert isinstance(error, messages.ErrorReply)
    assert (error.code, says in error.message, bool(error.hint) or code == "protocol") == (code, True, True)
    peer.perceive("b")
    assert isinstance(peer.until_reply("b")[-1], PerceiveReply)


def test_a_job_that_ended_leaves_nothing_in_memory(serve):
    seen = []

    def run(request, models, reporter):
        seen.append(weakref.ref(request.panorama))
        raise ModelError("No.")

    peer = Peer(serve(run).connection)
    peer.perceive("a", np.ones((256, 512, 3), np.float32))
    assert peer.until_reply("a")[-1].code == "model"
    wait_until(lambda: seen[0]() is None)
    peer.close()


def test_an_error_longer_than_a_header_is_told(serve):
    def run(request, models, reporter):
        raise ModelError("transformer.single_transformer_blocks.0.attn.to_k " * 100_000)

    peer = Peer(serve(run).connection)
    peer.perceive("a")
    assert "single_transformer_blocks" in peer.until_reply("a")[-1].message
    peer.close()


def test_result_folder_is_written(peer, tmp_path):
    peer.perceive("a", directory=str(tmp_path / "ergebnis é"))
    assert isinstance(peer.until_reply("a")[-1], PerceiveReply)
    assert json.loads((tmp_path / "ergebnis é" / "maps.json").read_text("utf-8"))["engine"] == "starter"


def test_result_folder_that_cannot_be_written_is_refused_before_the_work(peer, tmp_path):
    (tmp_path / "file").touch()
    for directory in (str(tmp_path / "file"), "relative"):
        peer.perceive("a", directory=directory)
        heard = peer.until_reply("a")
        assert (kinds(heard), heard[-1].code) == (["QueuedEvent", "ErrorReply"], "output")


# The end


def test_shutdown_gives_every_request_its_reply(own_backend):
    peer = Peer(own_backend.connection)
    peer.perceive("a", steps=200)
    peer.perceive("b")
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    peer.send(messages.ShutdownRequest(id="end"))
    replies = [m for m in peer.until_reply("end") if isinstance(m, messages.Reply)]
    assert [(type(m).__name__, m.id) for m in replies] == [
        ("ErrorReply", "b"),
        ("ErrorReply", "a"),
        ("ShutdownReply", "end"),
    ]
    assert [m.code for m in replies[:2]] == ["cancelled", "cancelled"]
    assert own_backend.process.wait(PATIENCE_S) == 0
    assert not own_backend.file.exists()
    peer.close()


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl+C"])
def test_signals_end_it_cleanly(own_backend, number):
    peer = Peer(own_backend.connection)
    peer.perceive("a", steps=200)
    peer.receive()
    own_backend.process.send_signal(number)
    assert peer.until_reply("a")[-1].code == "cancelled"
    assert own_backend.process.wait(PATIENCE_S) == 0
    assert not own_backend.file.exists()
    peer.close()


@pytest.mark.parametrize("source", ["", "stuck"])
def test_it_ends_with_its_parents_pipe(own_backend, source):
    peer = Peer(own_backend.connection)
    peer.perceive("a", source=source, steps=200)
    while not isinstance(peer.receive(), messages.ProgressEvent):
        pass
    own_backend.process.stdin.close()
    assert peer.until_reply("a")[-1].code == "cancelled"
    own_backend.process.wait(PATIENCE_S)
    assert not own_backend.file.exists()
    peer.close()


def test_jobs_of_a_client_that_is_gone_are_cancelled(backend, peer):
    gone = Peer(backend.connection)
    for name in ("a", "b", "c"):
        gone.perceive(name, steps=200)
    while not isinstance(gone.receive(), messages.ProgressEvent):
        pass
    peer.perceive("mine")
    gone.close()
    # 600 steps would take 12 s and more; after them `mine` would have seen places 3, 2, 1 and 0.
    heard = peer.until_reply("mine")
    assert isinstance(heard[-1], PerceiveReply)
    assert [m.ahead for m in heard if isinstance(m, messages.QueuedEvent)] == [3, 0]


def test_ends_though_a_client_with_several_queued_jobs_is_gone(serve):
    server = serve(endless)
    mine, gone = Peer(server.connection), Peer(server.connection)
    mine.perceive("mine")
    while not isinstance(mine.receive(), messages.PreviewEvent):
        pass
    for name in ("a", "b"):
        gone.perceive(name)
        assert isinstance(gone.receive(), messages.QueuedEvent)
    gone.close()
    time.sleep(0.5)  # ZeroMQ notices that it is gone; the server does when it sends something
    server.end()
    assert mine.until_reply("mine")[-1].code == "cancelled"
    mine.close()


def test_status_is_true_after_a_load_that_failed(serve):
    class Model:
        label, device_label = "Large", "abacus"

        def device_memory(self):
            return 1, 2

    def run(request, models, reporter):
        models.clear()
        if request.source == "broken":
            raise ModelError("It can't be loaded.")
        models.get(request.source, Model, lambda: True)
        raise ModelError("It was loaded, and failed later.")

    peer = Peer(serve(run).connection)
    for source, engine in (("good", "Large"), ("broken", None)):
        peer.perceive(source, source=source)
        assert peer.until_reply(source)[-1].code == "model"
        assert peer.status().engine == engine
    peer.close()
