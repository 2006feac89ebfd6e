"""The client, with a real backend process and a simple engine (serve_arithmetic.py)."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import zmq

from panoform.blender_addon.backend.client import Client
from panoform.blender_addon.backend.process import BackendProcess
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings
from panoform.shared.protocol import messages, wire
from panoform.shared.protocol.connection import Connection
from panoform.shared.protocol.errors import BackendLostError, BackendVersionError, ProtocolError

SERVER = Path(__file__).parents[2] / "backend" / "serve_arithmetic.py"
PATIENCE_S = 30

Connect = Callable[..., Client]


@pytest.fixture
def connection(tmp_path) -> Iterator[Connection]:
    process = BackendProcess([sys.executable, str(SERVER)], tmp_path)
    while (made := process.poll()) is None:
        time.sleep(0.02)
    yield made
    process.stop(wait=True, timeout_s=0)


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients = []

    def connect(*arguments: Connection, **options: float) -> Client:
        clients.append(Client(*arguments, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


class Impostor:
    """A ROUTER with the server's keys that sends what a test specifies: a misbehaving backend."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        public, secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        self.socket.curve_server = True
        self.socket.curve_secretkey = secret
        self.socket.bind("tcp://127.0.0.1:*")
        self.connection = Connection(
            endpoint=self.socket.get_string(zmq.LAST_ENDPOINT),
            server_public_key=public.decode(),
            client_public_key=client_public.decode(),
            client_secret_key=client_secret.decode(),
            protocol=messages.PROTOCOL_VERSION,
            version="0.1.0",
            pid=1,
        )

    def receive(self) -> tuple[bytes, messages.Request]:
        assert self.socket.poll(PATIENCE_S * 1000)
        client, *frames = self.socket.recv_multipart(copy=False)
        return client.bytes, wire.decode_request(frames)


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    made = Impostor()
    yield made
    made.socket.close()
    made.context.term()


def perceive(client: Client, panorama: np.ndarray, *, source: str = "", steps: int = 1) -> str:
    settings = PerceiveSettings(maps=("distance",), num_inference_steps=steps)
    return client.submit(
        PerceiveRequest(panorama=panorama, encoding="linear", source=source, engine=EngineSettings(), settings=settings)
    )


def receive(client: Client, kind: type, request_id: str) -> list[messages.Message]:
    """Return all messages up to one of that kind and id."""
    received, end = [], time.monotonic() + PATIENCE_S
    while not any(isinstance(message, kind) and message.id == request_id for message in received):
        assert time.monotonic() < end, received
        received += client.poll()
        time.sleep(0.005)
    return received


def lose(client: Client) -> None:
    """Poll until it raises."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        client.poll()
        time.sleep(0.005)


PANORAMA = np.random.default_rng(0).random((64, 128, 3), np.float32)


def test_job_returns_progress_previews_and_maps(connect, connection):
    client = connect(connection)
    job = perceive(client, PANORAMA, steps=2, source="räum.exr")
    received = receive(client, PerceiveReply, job)
    assert {message.id for message in received} == {job}
    assert [type(message).__name__ for message in received] == [
        "QueuedEvent",
        *["ProgressEvent", "PreviewEvent"] * 2,
        "PerceiveReply",
    ]
    assert received[-1].maps["distance"].tobytes() == PANORAMA.sum(-1, keepdims=True).tobytes()


def test_poll_does_not_block(connect, impostor):
    client = connect(impostor.connection)
    client.status()
    assert client.poll() == []


@pytest.mark.slow
def test_cancelled_job_ends_in_an_error_reply(connect, connection):
    client = connect(connection)
    job = perceive(client, PANORAMA, steps=200)
    receive(client, messages.ProgressEvent, job)
    cancel = client.cancel(job)
    received = receive(client, messages.ErrorReply, job)
    assert received[-1].code == "cancelled"
    assert [m.cancelled for m in received if m.id == cancel] == [True]


@pytest.mark.slow
def test_shutdown_is_confirmed_and_then_reported(connect, connection):
    client = connect(connection)
    end = client.shutdown()
    time.sleep(1)  # the reply and the disconnect arrive between two polls
    assert [message.id for message in client.poll()] == [end]
    with pytest.raises(BackendLostError):
        lose(client)


@pytest.mark.slow
def test_array_that_cannot_be_sent_is_rejected_by_the_client(connect, connection):
    client = connect(connection)
    with pytest.raises(ProtocolError, match="float64"):
        perceive(client, PANORAMA.astype(np.float64))
    receive(client, messages.StatusReply, client.status())


@pytest.mark.slow
def test_backend_killed_during_a_job_is_reported(connect, connection):
    client = connect(connection)
    job = perceive(client, PANORAMA, source="stuck")
    receive(client, messages.ProgressEvent, job)
    psutil.Process(connection.pid).kill()
    # Detected by the disconnect: the reply timeout is a minute.
    with pytest.raises(BackendLostError, match="exited"):
        lose(client)
    with pytest.raises(BackendLostError):
        client.status()


@pytest.mark.slow
def test_closed_port_is_reported(connect, connection):
    psutil.Process(connection.pid).kill()
    psutil.wait_procs([psutil.Process(connection.pid)], PATIENCE_S)
    with pytest.raises(BackendLostError):
        lose(connect(connection))


@pytest.mark.slow
def test_keys_of_another_backend_are_refused(connect, connection):
    public, secret = zmq.curve_keypair()
    other = msgspec.structs.replace(connection, client_public_key=public.decode(), client_secret_key=secret.decode())
    with pytest.raises(BackendLostError, match="refused"):
        lose(connect(other))


def test_unresponsive_backend_is_reported(connect, impostor):
    client = connect(impostor.connection, ping_after_s=0.1, reply_timeout_s=0.5)
    with pytest.raises(BackendLostError, match="has not responded"):
        lose(client)
    # A StatusRequest was sent before.
    assert isinstance(impostor.receive()[1], messages.StatusRequest)


@pytest.mark.slow
def test_suspended_backend_is_unresponsive(connect, connection):
    client = connect(connection, ping_after_s=0.1, reply_timeout_s=0.5)
    receive(client, messages.StatusReply, client.status())
    psutil.Process(connection.pid).suspend()
    with pytest.raises(BackendLostError, match="has not responded"):
        lose(client)


@pytest.mark.slow
def test_client_that_did_not_poll_does_not_report_the_backend(connect, connection):
    client = connect(connection, ping_after_s=0.05, reply_timeout_s=0.2)
    request_id = client.status()
    time.sleep(0.6)
    receive(client, messages.StatusReply, request_id)
    time.sleep(0.6)
    assert client.poll() == []  # sends the StatusRequest only now
    time.sleep(0.6)
    assert [type(message) for message in client.poll()] == [messages.StatusReply]


@pytest.mark.slow
def test_backend_that_answers_only_status_is_responsive(connect, connection):
    client = connect(connection, ping_after_s=0.05, reply_timeout_s=5)
    job = perceive(client, PANORAMA, source="stuck")
    receive(client, messages.ProgressEvent, job)
    answers = 0
    end = time.monotonic() + PATIENCE_S
    while answers < 3 and time.monotonic() < end:
        answers += sum(isinstance(message, messages.StatusReply) for message in client.poll())
        time.sleep(0.005)
    assert answers == 3


@pytest.mark.parametrize(
    ("version", "update"),
    [
        (messages.PROTOCOL_VERSION - 1, "Update the backend"),
        (messages.PROTOCOL_VERSION + 1, "Update the Panoform extension"),
    ],
)
def test_answer_of_another_version_is_reported(connect, impostor, version, update):
    client = connect(impostor.connection)
    client.status()
    peer, request = impostor.receive()
    message = {"type": "StatusReply", "id": request.id, "colour": "new"}
    impostor.socket.send_multipart([peer, msgspec.msgpack.encode({"version": version, "message": message})])
    with pytest.raises(BackendVersionError, match=update):
        lose(client)


def test_invalid_message_is_reported(connect, impostor):
    client = connect(impostor.connection)
    client.status()
    peer, _ = impostor.receive()
    impostor.socket.send_multipart([peer, b"what?"])
    with pytest.raises(ProtocolError):
        lose(client)
