"""A non-blocking client of one backend: `submit` sends requests, `poll` returns events and replies."""

from __future__ import annotations

import time

import zmq

from ...shared.protocol import wire
from ...shared.protocol.connection import Connection
from ...shared.protocol.errors import BackendLostError
from ...shared.protocol.messages import (
    CancelRequest,
    Event,
    Reply,
    Request,
    ShutdownRequest,
    StatusRequest,
)

#: Seconds without a message after which the client sends a StatusRequest.
PING_AFTER_S = 5.0
#: Timeout for its reply, which may queue behind a panorama of 1.6 GB, encrypted at 100 MB/s.
REPLY_TIMEOUT_S = 60.0

_DISCONNECT_EVENTS = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


class Client:
    """A connection to one backend.

    Events and replies have the id that `submit` returned. `connection` is the content of the backend's connection file.
    A lost connection is not re-established: create another client.
    """

    def __init__(
        self, connection: Connection, *, ping_after_s: float = PING_AFTER_S, reply_timeout_s: float = REPLY_TIMEOUT_S
    ) -> None:
        self._ping_after_s = ping_after_s
        self._reply_timeout_s = reply_timeout_s
        self._last_received = time.monotonic()
        #: When the pending StatusRequest was sent; None if there is none.
        self._pinged: float | None = None
        self._is_disconnected = False
        self._lost: BackendLostError | None = None

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.maxmsgsize = wire.MAX_FRAME_BYTES
        self._socket.rcvhwm = self._socket.sndhwm = 0  # bounded by the requests of this side
        # Never reconnects: the backend listens before it writes the connection file, and once it has exited another
        # program may use the port. (-1 disables reconnecting too, but then libzmq drops the last messages received.)
        self._socket.reconnect_ivl = 2**31 - 1
        self._socket.curve_serverkey = connection.server_public_key.encode()
        self._socket.curve_publickey = connection.client_public_key.encode()
        self._socket.curve_secretkey = connection.client_secret_key.encode()
        self._monitor = self._socket.get_monitor_socket(_DISCONNECT_EVENTS)
        self._socket.connect(connection.endpoint)

    def submit(self, request: Request) -> str:
        """Send a request and return its id. Its arrays must not change until an event or reply with that id arrives.

        Raise ProtocolError for an array that can't be sent, BackendLostError once the connection is lost.
        """
        if self._lost is not None:
            raise self._lost
        self._socket.send_multipart(wire.encode(request), zmq.DONTWAIT, copy=False)
        return request.id

    def status(self) -> str:
        """Request a StatusReply."""
        return self.submit(StatusRequest())

    def cancel(self, job: str) -> str:
        """Request that a job be cancelled. The reply is a CancelReply; the job's is ErrorReply(code="cancelled")."""
        return self.submit(CancelRequest(job=job))

    def shutdown(self) -> str:
        """Request that the backend exit. The reply is a ShutdownReply, its last message."""
        return self.submit(ShutdownRequest())

    def poll(self) -> list[Event | Reply]:
        """Return the messages received since the last call, in order, with StatusReplies to the client's own requests.

        Raise BackendLostError once the connection is lost or the backend does not respond,
        BackendVersionError for a backend of another version, ProtocolError for an invalid message.
        """
        # Checked first: then the last messages before the disconnect are already in the socket.
        disconnected = self._disconnected()
        messages = []
        while self._socket.poll(0):
            messages.append(wire.decode_answer(self._socket.recv_multipart(copy=False)))
        now = time.monotonic()
        if messages:
            self._last_received, self._pinged = now, None
            return messages
        if disconnected:
            self._lost = BackendLostError("The backend exited or refused the connection.", "Start it again.")
        elif self._pinged is not None and now - self._pinged > self._reply_timeout_s:
            self._lost = BackendLostError(
                f"The backend has not responded for {now - self._pinged:.0f} s, and was stopped.",
                "Start the job again: the backend starts with it.",
            )
        if self._lost is not None:
            raise self._lost
        if self._pinged is None and now - self._last_received > self._ping_after_s:
            self._pinged = now
            self.status()
        return []

    @property
    def silence_s(self) -> float:
        """Seconds for which the backend has owed an answer; 0 if it owes none."""
        return 0.0 if self._pinged is None else time.monotonic() - self._pinged

    @property
    def patience_s(self) -> float:
        """Seconds of silence after which the connection counts as lost."""
        return self._reply_timeout_s

    def close(self) -> None:
        """Close the connection; the backend cancels this client's jobs."""
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    def _disconnected(self) -> bool:
        while self._monitor.poll(0):
            self._monitor.recv_multipart()
            self._is_disconnected = True
        return self._is_disconnected
