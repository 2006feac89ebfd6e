"""What connections may hold: bytes of a message that arrives, bytes that are not read, connections without a key."""

import os
import socket

import numpy as np
import psutil
import pytest
import zmq
from serving import Backend, Peer, wait_until

from panoform.backend.server import connections
from panoform.shared.protocol import messages

MIB = 2**20


@pytest.fixture
def server(serve, monkeypatch):
    """A server in a thread of this process. Its jobs return 20 MB at once."""
    monkeypatch.setattr(connections, "MAX_MESSAGE_BYTES", 30 * MIB)
    monkeypatch.setattr(connections, "MAX_UNREAD_BYTES", 50 * MIB)

    def run(job, models, reporter):
        reporter.preview("distance", np.zeros((64, 1024, 320), np.uint8))
        raise RuntimeError("done")

    return serve(run)


def port(connection):
    return int(connection.endpoint.rpartition(":")[2])


@pytest.mark.slow
def test_silent_connections_stop_nobody_and_are_closed(backend: Backend):
    silent = [socket.create_connection(("127.0.0.1", port(backend.connection))) for _ in range(300)]
    process = psutil.Process(backend.process.pid)
    for _ in range(3):
        peer = Peer(backend.connection)
        peer.status()
        peer.close()
    wait_until(lambda: sum(c.status == "ESTABLISHED" for c in process.net_connections()) <= connections.MAX_STRANGERS)
    for connection in silent:
        connection.close()


def test_a_client_that_is_connected_stays_while_others_come(backend: Backend):
    peer = Peer(backend.connection)
    peer.status()
    silent = [socket.create_connection(("127.0.0.1", port(backend.connection))) for _ in range(100)]
    peer.status()
    peer.close()
    for connection in silent:
        connection.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't tell the bytes of a connection that is being read")
def test_a_message_that_does_not_end_closes_its_connection(server):
    peer, other = Peer(server.connection), Peer(server.connection)
    other.status()
    # The frames of a message are small enough each.
    peer.socket.send_multipart([bytes(MIB)] * 80, copy=False)
    assert not peer.socket.poll(1500)
    other.status()
    lost = Peer(server.connection)
    lost.status()
    for client in (peer, other, lost):
        client.close()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't tell the bytes of a connection that is being read")
def test_messages_within_the_limit_are_taken(server):
    peer = Peer(server.connection)
    for _ in range(8):
        peer.perceive("a", np.zeros((1024, 2048, 3), np.float32))  # 25 MB
        peer.receive_until_reply("a")
    peer.close()


def test_a_client_that_does_not_read_is_dropped(server):
    # With a receive buffer of one message, libzmq stops reading from the network.
    peer = Peer(server.connection, rcvhwm=1, rcvbuf=4096)
    monitor = peer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    other = Peer(server.connection)
    for index in range(8):
        peer.perceive(str(index))
    wait_until(lambda: server._running is None and not server._queued)
    other.status()
    held = sum(connection.unread_bytes() for connection in server._connections._open.values())
    assert held <= 50 * MIB
    while peer.socket.poll(500):
        peer.socket.recv_multipart()
    assert monitor.poll(2000)
    peer.socket.disable_monitor()
    monitor.close()
    peer.close()
    other.close()


def test_clients_are_limited(server, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CLIENTS", 3)
    peers = [Peer(server.connection) for _ in range(4)]
    for peer in peers[:3]:
        peer.status()
    peers[3].send(messages.StatusRequest())
    assert not peers[3].socket.poll(500)
    peers[0].status()
    for peer in peers:
        peer.close()
