"""Authentication of clients, handling of invalid messages, and the connection file."""

import json
import os
import random
import socket
import stat
import subprocess

import msgspec
import numpy as np
import psutil
import pytest
import zmq
from serving import ARITHMETIC, TIMEOUT_S, Backend, Peer, run_endlessly, wait_until

from panoform.backend.server import server as server_module
from panoform.shared.protocol import connection, messages, wire
from panoform.shared.protocol.errors import BackendVersionError, OutputError

# Authentication and invalid messages


def is_rejected(backend: Backend, **keys: bytes | None) -> bool:
    """Return whether a client with these keys gets no reply, while one with the right keys does."""
    client = Peer(backend.connection, **keys)
    client.send(messages.StatusRequest(id="a"))
    authorised = Peer(backend.connection)
    authorised.status()
    try:
        return not client.socket.poll(500)
    finally:
        client.close()
        authorised.close()


@pytest.mark.slow
def test_clients_without_the_keys_are_rejected(backend):
    public, secret = zmq.curve_keypair()
    assert not is_rejected(backend)
    assert is_rejected(backend, curve_publickey=public, curve_secretkey=secret)
    assert is_rejected(backend, curve_serverkey=public)
    assert is_rejected(backend, curve_publickey=None, curve_secretkey=None, curve_serverkey=None)
    # The public key without its secret key isn't sufficient.
    assert is_rejected(backend, curve_secretkey=secret)


@pytest.mark.slow
def test_server_listens_on_loopback_only(backend):
    listening = [c.laddr for c in psutil.Process(backend.process.pid).net_connections() if c.status == "LISTEN"]
    assert [address.ip for address in listening] == ["127.0.0.1"]


@pytest.mark.slow
def test_server_survives_raw_connections(backend, peer):
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


@pytest.mark.slow
def test_server_survives_fuzzed_frames(backend, peer):
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
            "version": messages.PROTOCOL_VERSION,
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
    error = peer.receive_until_reply("huge")[-1]
    assert (error.code, "shape" in error.message) == ("protocol", True)
    assert peer.status().pid == backend.process.pid


def test_oversized_frame_closes_only_its_connection(serve, monkeypatch):
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 2**20)
    server = serve(run_endlessly)
    sender, peer = Peer(server.connection), Peer(server.connection)
    sender.socket.reconnect_ivl = -1
    sender.status()
    events = sender.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    try:
        sender.socket.send_multipart([b"", bytes(2**20 + 1)])
        assert events.poll(TIMEOUT_S * 1000)
        assert peer.status().pid == os.getpid()
    finally:
        sender.socket.disable_monitor()
        events.close()
        sender.close()
        peer.close()


def test_too_many_queued_bytes_return_a_busy_error(serve, monkeypatch):
    panorama = np.ones((4, 8, 3), np.float32)
    monkeypatch.setattr(server_module, "MAX_QUEUED_BYTES", 2 * panorama.nbytes)
    peer = Peer(serve(run_endlessly).connection)
    for name in ("a", "b", "c"):
        peer.perceive(name, panorama)
    assert peer.receive_until_reply("c")[-1].code == "busy"
    peer.close()


def test_client_that_never_reads_does_not_block_others(serve, monkeypatch):
    monkeypatch.setattr(server_module, "MAX_UNREAD", 10)
    server = serve(run_endlessly)
    unresponsive, peer = Peer(server.connection, rcvhwm=1), Peer(server.connection)
    unresponsive.perceive("endless")
    assert isinstance(unresponsive.receive(), messages.QueuedEvent)  # it runs; no further messages are read
    wait_until(lambda: peer.status().running is None)
    unresponsive.close()
    peer.close()


def test_invalid_request_gets_an_error_with_its_id(peer):
    header = {
        "version": messages.PROTOCOL_VERSION,
        "message": {"type": "PerceiveRequest", "id": "broken", "unknown": 1},
    }
    peer.socket.send_multipart([msgspec.msgpack.encode(header)])
    error = peer.receive()
    assert (error.id, error.code) == ("broken", "protocol")


def test_other_protocol_version_gets_a_readable_error(peer):
    peer.socket.send_multipart([msgspec.msgpack.encode({"version": 7, "message": {"type": "Hello", "id": "new"}})])
    header = msgspec.msgpack.decode(peer.socket.recv())
    assert header["version"] == messages.PROTOCOL_VERSION
    reply = header["message"]
    assert (reply["type"], reply["id"], reply["code"]) == ("ErrorReply", "new", "backend_version")
    assert f"version {messages.PROTOCOL_VERSION}, the add-on version 7" in reply["message"]
    assert "Update the backend" in reply["hint"]


# The connection file


def test_connection_file_is_readable_by_its_owner_only(backend):
    assert json.loads(backend.file.read_text())["pid"] == backend.process.pid
    assert list(backend.file.parent.glob("connection*")) == [backend.file]
    if os.name == "posix":
        assert stat.S_IMODE(backend.file.stat().st_mode) == 0o600


@pytest.mark.slow
def test_existing_connection_file_is_not_overwritten(backend):
    before = backend.file.read_bytes()
    second = subprocess.run(
        [*ARITHMETIC, "serve", "--connection-file", backend.file], stderr=subprocess.PIPE, text=True
    )
    assert second.returncode != 0
    assert "exists already" in second.stderr
    assert backend.file.read_bytes() == before


def test_connection_file_of_another_version_is_rejected(backend, tmp_path):
    file = tmp_path / "connection.json"
    file.write_text(json.dumps({"protocol": messages.PROTOCOL_VERSION + 1, "what": "else"}))
    with pytest.raises(BackendVersionError, match="Blender's preferences"):
        connection.read(file)


def test_connection_file_in_a_missing_folder_raises_output_error(backend, tmp_path):
    with pytest.raises(OutputError, match="can't be written"):
        connection.write(tmp_path / "none" / "connection.json", backend.connection)
