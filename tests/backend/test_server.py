"""The server, in a process of its own, spoken to through real sockets."""

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import zmq

from panoform.backend import server as server_module
from panoform.shared import connection, messages, wire
from panoform.shared.engines import EngineSettings, PerceiveSettings
from panoform.shared.errors import BackendVersionError, ModelError, OutputError

ARITHMETIC = [sys.executable, str(Path(__file__).with_name("serve_arithmetic.py"))]
REAL = [sys.executable, "-m", "panoform.backend"]
PATIENCE_S = 60


class Backend:
    """A server process and its connection file."""

    def __init__(self, command: list[str], file: Path, *flags: str) -> None:
        self.file = file
        with (file.parent / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "serve", "--connection-file", str(file), *flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        wait_until(lambda: file.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, (file.parent / "log").read_text()
        self.connection = connection.read(file)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


class Peer:
    """A DEALER that is told everything: frames in and out as they are."""

    def __init__(self, to: connection.Connection, **options: bytes | int | None) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        options = {
            "curve_serverkey": to.server_public_key.encode(),
            "curve_publickey": to.client_public_key.encode(),
            "curve_secretkey": to.client_secret_key.encode(),
        } | options
        for name, value in options.items():
            if value is not None:
                setattr(self.socket, name, value)
        self.socket.connect(to.endpoint)

    def send(self, message: messages.Message) -> None:
        self.socket.send_multipart(wire.encode(message), copy=False)

    def receive(self, patience_s: float = PATIENCE_S) -> messages.Message:
        assert self.socket.poll(patience_s * 1000), "no answer"
        return wire.decode_answer(self.socket.recv_multipart(copy=False))

    def until_reply(self, request_id: str) -> list[messages.Message]:
        """Everything that comes, up to that request's reply."""
        heard = []
        while not (heard and heard[-1].id == request_id and isinstance(heard[-1], messages.Reply)):
            heard.append(self.receive())
        return heard

    def status(self) -> messages.StatusReply:
        self.send(messages.StatusRequest(id="status"))
        return self.until_reply("status")[-1]

    def perceive(
        self, request_id: str, panorama: np.ndarray | None = None, *, source="", steps=1, directory=""
    ) -> None:
        self.send(
            messages.PerceiveRequest(
                id=request_id,
                panorama=np.ones((4, 8, 3), np.float32) if panorama is None else panorama,
                encoding="linear",
                source=source,
                directory=directory,
                engine=EngineSettings(),
                settings=PerceiveSettings(maps=("distance",), num_inference_steps=steps),
            )
        )

    def close(self) -> None:
        self.socket.close()
        self.context.term()


def wait_until(true) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def backend(tmp_path_factory) -> Iterator[Backend]:
    # A path with a space and letters beyond ASCII.
    started = Backend(ARITHMETIC, tmp_path_factory.mktemp("vérbindung 1") / "connection.json")
    yield started
    started.end()


@pytest.fixture
def own_backend(tmp_path) -> Iterator[Backend]:
    started = Backend(ARITHMETIC, tmp_path / "connection.json", "--parent-pipe")
    yield started
    started.end()


@pytest.fixture
def peer(backend) -> Iterator[Peer]:
    made = Peer(backend.connection)
    yield made
    made.close()
    wait_until(idle(backend))


def idle(backend: Backend):
    def check() -> bool:
        asking = Peer(backend.connection)
        try:
            return asking.status().running is None
        finally:
            asking.close()

    return check


class Chatterbox:
    """An engine that shows previews until it is stopped."""

    def perceive(self, panorama, *, watch, **_):
        while True:
            watch.preview("distance", np.zeros((128, 256, 3), np.uint8))


@pytest.fixture
def serve() -> Iterator[Callable[..., server_module.Server]]:
    """Servers in this process, whose bounds a test can lower."""
    serving = []

    def serve(engine: type) -> server_module.Server:
        server = server_module.Server(engine)
        thread = threading.Thread(target=server.run)
        thread.start()
        serving.append((server, thread))
        return server

    yield serve
    for server, thread in serving:
        server.end()
        thread.join()
        server.close()


def kinds(heard: list[messages.Message]) -> list[str]:
    return [type(message).__name__ for message in heard]


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


def test_the_real_engine_perceives_and_status_is_answered_meanwhile(tmp_path):
    backend = Backend(REAL, tmp_path / "connection.json")
    peer = Peer(backend.connection)
    try:
        peer.send(
            messages.PerceiveRequest(
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
        assert isinstance(reply, messages.PerceiveReply), reply
        assert {name: pixels.shape for name, pixels in reply.maps.items()} == {"distance": (64, 128, 1)}
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
    assert reply.panorama.tobytes() == panorama.tobytes()
    assert reply.info.source == "räum.exr"


def test_a_large_panorama_comes_back_bit_for_bit(peer):
    panorama = np.random.default_rng(0).random((1024, 2048, 3), np.float32)
    peer.perceive("large", panorama)
    assert peer.until_reply("large")[-1].panorama.tobytes() == panorama.tobytes()


def test_jobs_wait_their_turn_and_are_told_their_place(peer):
    for name in ("a", "b", "c"):
        peer.perceive(name, steps=5)
    heard = peer.until_reply("c")
    replies = [message.id for message in heard if isinstance(message, messages.PerceiveReply)]
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
    assert isinstance(peer.until_reply("b")[-1], messages.PerceiveReply)


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
    assert isinstance(peer.until_reply("mine")[-1], messages.PerceiveReply)


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
    assert isinstance(peer.until_reply("b")[-1], messages.PerceiveReply)


def test_a_job_that_ended_leaves_nothing_in_memory(serve):
    seen = []

    class Forgetful:
        def perceive(self, panorama, **_):
            seen.append(weakref.ref(panorama))
            raise ModelError("No.")

    peer = Peer(serve(Forgetful).connection)
    peer.perceive("a", np.ones((256, 512, 3), np.float32))
    assert peer.until_reply("a")[-1].code == "model"
    wait_until(lambda: seen[0]() is None)
    peer.close()


def test_an_error_longer_than_a_header_is_told(serve):
    class Longwinded:
        def perceive(self, panorama, **_):
            raise ModelError("transformer.single_transformer_blocks.0.attn.to_k " * 100_000)

    peer = Peer(serve(Longwinded).connection)
    peer.perceive("a")
    assert "single_transformer_blocks" in peer.until_reply("a")[-1].message
    peer.close()


def test_result_folder_is_written(peer, tmp_path):
    peer.perceive("a", directory=str(tmp_path / "ergebnis é"))
    assert isinstance(peer.until_reply("a")[-1], messages.PerceiveReply)
    assert json.loads((tmp_path / "ergebnis é" / "maps.json").read_text("utf-8"))["engine"] == "starter"


def test_result_folder_that_cannot_be_written_is_refused_before_the_work(peer, tmp_path):
    (tmp_path / "file").touch()
    for directory in (str(tmp_path / "file"), "relative"):
        peer.perceive("a", directory=directory)
        heard = peer.until_reply("a")
        assert (kinds(heard), heard[-1].code) == (["QueuedEvent", "ErrorReply"], "output")


# Who may come in, and what


def refused(backend: Backend, **keys: bytes | None) -> bool:
    """Whether a peer with these keys gets no answer, while one with the right keys still does."""
    stranger = Peer(backend.connection, **keys)
    stranger.send(messages.StatusRequest(id="a"))
    asking = Peer(backend.connection)
    asking.status()
    try:
        return not stranger.socket.poll(500)
    finally:
        stranger.close()
        asking.close()


def test_strangers_are_refused(backend):
    public, secret = zmq.curve_keypair()
    assert not refused(backend)
    assert refused(backend, curve_publickey=public, curve_secretkey=secret)
    assert refused(backend, curve_serverkey=public)
    assert refused(backend, curve_publickey=None, curve_secretkey=None, curve_serverkey=None)
    # The public key alone, which anybody may come to know, opens nothing.
    assert refused(backend, curve_secretkey=secret)


def test_only_loopback_listens(backend):
    listening = [c.laddr for c in psutil.Process(backend.process.pid).net_connections() if c.status == "LISTEN"]
    assert [address.ip for address in listening] == ["127.0.0.1"]


def test_raw_sockets_do_not_stop_it(backend, peer):
    port = int(backend.connection.endpoint.rsplit(":", 1)[1])
    rng = random.Random(0)
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0"
    for start in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        greeting + b"NULL",
        greeting + b"CURVE".ljust(20, b"\0") + b"\0" * 32,
    ):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(start + rng.randbytes(rng.randint(0, 4000)))
    assert peer.status().pid == backend.process.pid


def test_fuzzed_frames_do_not_stop_it(backend, peer):
    rng = random.Random(0)
    good = [bytes(frame) for frame in wire.encode(messages.CancelRequest(id="fuzz", job="x"))]
    for number in range(300):
        header = bytearray(good[0])
        header[rng.randrange(len(header))] = rng.randrange(256)
        choices = [
            [rng.randbytes(rng.randint(0, 200))],
            [bytes(header)],
            [good[0][: rng.randrange(len(good[0]))]],
            [good[0], rng.randbytes(10)],
            [b"", *good],
            [b"\x91" * 10_000],
        ]
        peer.socket.send_multipart(choices[number % len(choices)])
    peer.socket.send_multipart([good[0], *[b"x"] * 20_000])
    peer.socket.send_multipart([bytes(wire.MAX_HEADER_BYTES + 1)])
    huge = msgspec.msgpack.encode(
        {
            "version": 1,
            "message": {
                "type": "PerceiveRequest",
                "id": "huge",
                "panorama": {"frame": 1, "dtype": "float32", "shape": [2**40, 2**40, 3]},
                "encoding": "linear",
                "engine": {},
                "settings": {"maps": ["distance"]},
            },
        }
    )
    peer.socket.send_multipart([huge, b"\0" * 12])
    error = peer.until_reply("huge")[-1]
    assert (error.code, "shape" in error.message) == ("protocol", True)
    assert peer.status().pid == backend.process.pid


def test_oversized_frame_ends_that_connection_only(serve, monkeypatch):
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 2**20)
    server = serve(Chatterbox)
    glutton, peer = Peer(server.connection), Peer(server.connection)
    glutton.socket.reconnect_ivl = -1
    glutton.status()
    events = glutton.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        glutton.socket.send_multipart([b"", bytes(2**20 + 1)])
        assert events.poll(PATIENCE_S * 1000)
        assert peer.status().pid == os.getpid()
    finally:
        glutton.socket.disable_monitor()
        events.close()
        glutton.close()
        peer.close()


def test_too_many_bytes_are_busy(serve, monkeypatch):
    panorama = np.ones((4, 8, 3), np.float32)
    monkeypatch.setattr(server_module, "MAX_QUEUED_BYTES", 2 * panorama.nbytes)
    peer = Peer(serve(Chatterbox).connection)
    for name in ("a", "b", "c"):
        peer.perceive(name, panorama)
    assert peer.until_reply("c")[-1].code == "busy"
    peer.close()


def test_a_client_that_never_reads_does_not_hold_up_the_others(serve, monkeypatch):
    monkeypatch.setattr(server_module, "MAX_UNREAD", 10)
    server = serve(Chatterbox)
    deaf, peer = Peer(server.connection, rcvhwm=1), Peer(server.connection)
    deaf.perceive("endless")
    assert isinstance(deaf.receive(), messages.QueuedEvent)  # it runs, and that is the last thing heard
    wait_until(lambda: peer.status().running is None)
    deaf.close()
    peer.close()


def test_a_broken_request_is_answered_under_its_id(peer):
    header = {"version": 1, "message": {"type": "PerceiveRequest", "id": "broken", "unknown": 1}}
    peer.socket.send_multipart([msgspec.msgpack.encode(header)])
    error = peer.receive()
    assert (error.id, error.code) == ("broken", "protocol")


def test_another_version_is_refused_in_words_it_understands(peer):
    peer.socket.send_multipart([msgspec.msgpack.encode({"version": 7, "message": {"type": "Hello", "id": "new"}})])
    header = msgspec.msgpack.decode(peer.socket.recv())
    assert header["version"] == messages.PROTOCOL_VERSION
    reply = header["message"]
    assert (reply["type"], reply["id"], reply["code"]) == ("ErrorReply", "new", "backend_version")
    assert f"version {messages.PROTOCOL_VERSION}, the add-on version 7" in reply["message"]
    assert "Update the backend" in reply["hint"]


# The connection file


def test_connection_file_is_its_owners_alone(backend):
    assert json.loads(backend.file.read_text())["pid"] == backend.process.pid
    assert list(backend.file.parent.glob("connection*")) == [backend.file]
    if os.name == "posix":
        assert stat.S_IMODE(backend.file.stat().st_mode) == 0o600


def test_connection_file_is_not_taken_over(backend):
    before = backend.file.read_bytes()
    second = subprocess.run(
        [*ARITHMETIC, "serve", "--connection-file", backend.file], stderr=subprocess.PIPE, text=True
    )
    assert second.returncode != 0
    assert "is there already" in second.stderr
    assert backend.file.read_bytes() == before


def test_connection_file_of_another_version(backend, tmp_path):
    file = tmp_path / "connection.json"
    file.write_text(json.dumps({"protocol": messages.PROTOCOL_VERSION + 1, "what": "else"}))
    with pytest.raises(BackendVersionError, match="Blender's preferences"):
        connection.read(file)


def test_connection_file_in_no_folder(backend, tmp_path):
    with pytest.raises(OutputError, match="can't be written"):
        connection.write(tmp_path / "none" / "connection.json", backend.connection)


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
    assert isinstance(heard[-1], messages.PerceiveReply)
    assert [m.ahead for m in heard if isinstance(m, messages.QueuedEvent)] == [3, 0]
