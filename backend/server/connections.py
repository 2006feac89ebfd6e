"""Limits of what connections may hold, which ZeroMQ has no options for: it limits frames and messages, not bytes.

libzmq delivers a message once all its frames have arrived, and lets any number of connections wait for their handshake.
So each connection's bytes are counted by the system (TCP_INFO; on Windows Python can't ask, and only ZMQ_MAXMSGSIZE
limits each frame), and a connection beyond a limit is shut down: libzmq then frees what it held for it.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import zmq
from zmq.utils.monitor import parse_monitor_message

from ...shared.protocol import wire

#: Connections that have not sent a message yet, which needs the key. A client sends one at once.
MAX_STRANGERS = 64
MAX_CLIENTS = 64
#: Arrays and header of the largest message, what encryption and framing add, and what waits in the system's buffers.
MAX_MESSAGE_BYTES = (wire.MAX_ARRAY_BYTES + wire.MAX_HEADER_BYTES) * 102 // 100 + 2**24
#: Of all connections together, in messages that have not arrived as a whole.
MAX_INCOMING_BYTES = 4 * 2**30
#: Replies and previews that a client has not read, unless they are a single message; and those of all clients.
MAX_UNREAD_BYTES, MAX_ALL_UNREAD_BYTES = 256 * 2**20, 2 * 2**30
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED
#: System → option of TCP, and place of the number of received bytes in what it returns.
_RECEIVED = {"linux": (11, 128), "darwin": (0x106, 88)}
_INFO_BYTES = 256

log = logging.getLogger("panoform.server")


@dataclass
class _Connection:
    """One TCP connection."""

    socket: socket.socket
    since: float
    #: Identity of its client for the router; None before its first message.
    client: bytes | None = None
    #: Received bytes when the last whole message arrived.
    counted: int = 0
    #: Messages for it that libzmq still holds, and their sizes.
    unread: deque[tuple[list[zmq.MessageTracker], int]] = field(default_factory=deque)

    def incoming(self) -> int:
        """Return the bytes that it has sent since its last whole message; 0 where the system doesn't tell."""
        return max(0, _received(self.socket) - self.counted)

    def unread_bytes(self) -> int:
        while self.unread and all(tracker.done for tracker in self.unread[0][0]):
            self.unread.popleft()
        return sum(size for _, size in self.unread)


class Connections:
    """The connections of a router. `monitor` is to be polled: call `watch` when it has events, `limit` regularly."""

    def __init__(self, router: zmq.Socket[bytes]) -> None:
        """The router must not be bound yet."""
        self.monitor: zmq.Socket[bytes] = router.get_monitor_socket(_EVENTS)
        self._router = router
        #: By file descriptor, in order of arrival.
        self._open: dict[int, _Connection] = {}

    def close(self) -> None:
        """Stop watching, before the router is closed."""
        self._router.disable_monitor()
        self.monitor.close()
        for connection in self._open.values():
            connection.socket.close()
        self._open.clear()

    def watch(self) -> None:
        """Handle the events of the monitor."""
        while self.monitor.poll(0):
            self._handle(self.monitor.recv_multipart())
        self._limit_strangers()

    def _handle(self, frames: list[bytes]) -> None:
        event = parse_monitor_message(frames)
        number = int(event["value"])
        if (old := self._open.pop(number, None)) is not None:
            old.socket.close()
        if event["event"] == zmq.EVENT_ACCEPTED and (copy := _copy(number)) is not None:
            self._open[number] = _Connection(copy, time.monotonic(), counted=_received(copy))

    def received(self, client: bytes, frame: zmq.Frame) -> None:
        """Note that a whole message of `client` has arrived, whose last frame is `frame`."""
        number = frame.get(zmq.SRCFD)
        if number not in self._open:
            self.watch()
        connection = self._open.get(number)
        if connection is None:
            return
        connection.client = client
        connection.counted = _received(connection.socket)
        clients = [other for other in self._open.values() if other.client is not None]
        if len(clients) > MAX_CLIENTS:
            self._shut(connection, f"there are {MAX_CLIENTS} clients already")

    def limit(self) -> None:
        """Shut down connections whose message is too large, or the largest of too many."""
        incoming = {number: connection.incoming() for number, connection in self._open.items()}
        total = sum(incoming.values())
        for number, size in sorted(incoming.items(), key=lambda entry: -entry[1]):
            if size <= MAX_MESSAGE_BYTES and total <= MAX_INCOMING_BYTES:
                return
            total -= size
            self._shut(self._open[number], f"its message is {size:,} bytes long already")

    def may_send(self, client: bytes, size: int) -> bool:
        """Return whether `size` bytes may wait for this client. Shut down clients that leave too much unread."""
        waiting = {number: connection.unread_bytes() for number, connection in self._open.items()}
        for number, unread in sorted(waiting.items(), key=lambda entry: -entry[1]):
            own = self._open[number].client == client
            too_much = unread and own and unread + size > MAX_UNREAD_BYTES
            if too_much or (unread and sum(waiting.values()) + size > MAX_ALL_UNREAD_BYTES):
                waiting[number] = 0
                self._shut(self._open[number], f"it has not read {unread:,} bytes")
                if own:
                    return False
        return True

    def sent(self, client: bytes, trackers: list[zmq.MessageTracker], size: int) -> None:
        """Note that a message of `size` bytes was passed to libzmq, which holds it until the trackers are done."""
        connection = self._of(client)
        if connection is not None and trackers:
            connection.unread.append((trackers, size))

    def _of(self, client: bytes) -> _Connection | None:
        return next((connection for connection in self._open.values() if connection.client == client), None)

    def _limit_strangers(self) -> None:
        strangers = [connection for connection in self._open.values() if connection.client is None]
        for connection in strangers[:-MAX_STRANGERS]:
            self._shut(connection, "it has sent no message, and many others wait")

    def _shut(self, connection: _Connection, reason: str) -> None:
        """Shut a connection down; libzmq notices, and frees what it holds for it."""
        log.warning("closed a connection: %s", reason)
        number = next(number for number, other in self._open.items() if other is connection)
        del self._open[number]
        try:
            connection.socket.shutdown(socket.SHUT_RDWR)
        except OSError as error:
            log.info("it was closed already: %s", error)
        connection.socket.close()


def _copy(number: int) -> socket.socket | None:
    """Return a socket object of its own for a connection of libzmq; None where that is closed already."""
    try:
        # Not the method dup, which would make libzmq's own descriptor wait.
        return socket.fromfd(number, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return None


def _received(connection: socket.socket) -> int:
    """Return the number of bytes received on a connection so far; 0 where the system doesn't tell."""
    if sys.platform not in _RECEIVED:
        return 0
    option, place = _RECEIVED[sys.platform]
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, option, _INFO_BYTES)
    except OSError:  # closed by the other side
        return 0
    return struct.unpack_from("<Q", info, place)[0] if len(info) >= place + 8 else 0
