"""What connections may hold: bytes of a message that arrives, bytes that are not read, connections without a key."""

import contextlib
import os
import socket
import threading

import msgspec
import numpy as np
import pytest
import zmq
from serving import Backend, Peer, wait_until

from panoform.backend.server import connections
from panoform.backend.server import server as backend_server
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


def is_closed(connection):
    """Return whether the server has closed a connection, after its greeting."""
    connection.setblocking(False)
    try:
        return not connection.recv(2**16)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_silent_connections_stop_nobody_and_are_closed(serve, monkeypatch):
    """However long they may take to show their key."""
    monkeypatch.setattr(backend_server, "HANDSHAKE_MS", 3_600_000)
    found = serve(None)
    with contextlib.ExitStack() as stack:
        silent = [socket.create_connection(("127.0.0.1", port(found.connection))) for _ in range(300)]
        for connection in silent:
            stack.enter_context(connection)
        for _ in range(3):
            peer = Peer(found.connection)
            peer.status()
            peer.close()
        wait_until(lambda: sum(map(is_closed, silent)) >= len(silent) - connections.MAX_STRANGERS)


def test_a_client_that_is_connected_stays_while_others_come(backend: Backend):
    peer = Peer(backend.connection)
    peer.status()
    lost = peer.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)  # ZeroMQ would connect again
    with contextlib.ExitStack() as stack:
        silent = [socket.create_connection(("127.0.0.1", port(backend.connection))) for _ in range(100)]
        for connection in silent:
            stack.enter_context(connection)
        wait_until(lambda: sum(map(is_closed, silent)) >= len(silent) - connections.MAX_STRANGERS)
        peer.status()
        assert not lost.poll(100)
    peer.socket.disable_monitor()
    lost.close()
    peer.close()


@contextlib.contextmanager
def stalling(upstream_port, limit):
    """Give the port of a relay that passes on `limit` bytes to the server and then no more, and an event that says that
    the server has closed the connection."""
    closed = threading.Event()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket() as upstream,
        contextlib.ExitStack() as stack,
    ):
        upstream.connect(("127.0.0.1", upstream_port))

        def back(client):
            with contextlib.suppress(ConnectionError):
                while data := upstream.recv(2**16):
                    client.sendall(data)
            closed.set()

        def forth():
            client = stack.enter_context(listener.accept()[0])
            threading.Thread(target=back, args=(client,), daemon=True).start()
            passed = 0
            while passed < limit and (data := client.recv(2**16)):
                upstream.sendall(data)
                passed += len(data)

        thread = threading.Thread(target=forth, daemon=True)
        thread.start()
        yield listener.getsockname()[1], closed
        thread.join(5)


@pytest.mark.skipif(os.name == "nt", reason="Windows doesn't tell the bytes of a connection that is being read")
@pytest.mark.parametrize(("arrived", "kept"), [(40 * MIB, False), (20 * MIB, True)])
def test_a_message_that_does_not_end_closes_its_connection(server, arrived, kept):
    """Its frames are small enough each, and most of them don't arrive."""
    with stalling(port(server.connection), arrived) as (relay, closed):
        peer = Peer(msgspec.structs.replace(server.connection, endpoint=f"tcp://127.0.0.1:{relay}"))
        other = Peer(server.connection)
        other.status()
        peer.socket.send_multipart([bytes(MIB)] * 80, copy=False)
        is_closed = closed.wait(1 if kept else 10)
        other.status()
        for client in (peer, other):
            client.close()
    assert is_closed != kept


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
