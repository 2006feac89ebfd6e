"""The client of one backend. Nothing here blocks: `submit` hands requests over, `poll` returns what has come."""

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

#: Seconds of silence after which the backend is asked for its status.
ASK_AFTER_S = 5.0
#: Seconds it may take to answer that. The answer may queue behind a panorama of 1.6 GB, encrypted at 100 MB/s.
SILENCE_S = 60.0

_GONE = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


class Client:
    """One connection; `poll` returns events and replies under the id that `submit` returned.

    `connection` is what the backend's connection file holds. A broken connection stays broken: make another client.
    """

    def __init__(
        self, connection: Connection, *, ask_after_s: float = ASK_AFTER_S, silence_s: float = SILENCE_S
    ) -> None:
        self._ask_after_s = ask_after_s
        self._silence_s = silence_s
        self._heard = time.monotonic()
        #: When the backend was asked for its status because it was silent; None while it isn't.
        self._asked: float | None = None
        self._gone = False
        self._lost: BackendLostError | None = None

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.maxmsgsize = wire.MAX_FRAME_BYTES
        self._socket.rcvhwm = self._socket.sndhwm = 0  # bounded by what this side asks for
        # Never reconnects: the backend listens before it writes the connection file, and once it is gone the port may
        # be anybody's. (-1 would say so too, but then libzmq drops what the backend said last.)
        self._socket.reconnect_ivl = 2**31 - 1
        self._socket.curve_serverkey = connection.server_public_key.encode()
        self._socket.curve_publickey = connection.client_public_key.encode()
        self._socket.curve_secretkey = connection.client_secret_key.encode()
        self._monitor = self._socket.get_monitor_socket(_GONE)
        self._socket.connect(connection.endpoint)

    def submit(self, request: Request) -> str:
        """Send a request and return its id. Its arrays must not change until an event or reply about it has come.

        Raise ProtocolError for an array that can't travel, BackendLostError once the connection is lost.
        """
        if self._lost is not None:
            raise self._lost
        self._socket.send_multipart(wire.encode(request), zmq.DONTWAIT, copy=False)
        return request.id

    def status(self) -> str:
        """Ask for a StatusReply."""
        return self.submit(StatusRequest())

    def cancel(self, job: str) -> str:
        """Ask for a job's end. Ends in a CancelReply; the job itself in ErrorReply(code="cancelled")."""
        return self.submit(CancelRequest(job=job))

    def shutdown(self) -> str:
        """End the backend. Ends in a ShutdownReply, the last message there will be."""
        return self.submit(ShutdownRequest())

    def poll(self) -> list[Event | Reply]:
        """Return what has come since the last call, in order; StatusReplies may come unasked.

        Raise BackendLostError once the connection is gone or the backend has been silent for too long,
        BackendVersionError for a backend of another version, ProtocolError for what isn't a message.
        """
        # Checked first: what the backend sent before it ended is in the socket then.
        gone = self._disconnected()
        messages = []
        while self._socket.poll(0):
            messages.append(wire.decode_answer(self._socket.recv_multipart(copy=False)))
        now = time.monotonic()
        if messages:
            self._heard, self._asked = now, None
            return messages
        if gone:
            self._lost = BackendLostError("The backend ended, or refused the connection.", "Start it again.")
        elif self._asked is not None and now - self._asked > self._silence_s:
            self._lost = BackendLostError(f"The backend has not answered for {now - self._asked:.0f} s.", "Restart it.")
        if self._lost is not None:
            raise self._lost
        if self._asked is None and now - self._heard > self._ask_after_s:
            self._asked = now
            self.status()
        return []

    def close(self) -> None:
        """Close the connection; the backend cancels this client's jobs."""
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()

    def _disconnected(self) -> bool:
        while self._monitor.poll(0):
            self._monitor.recv_multipart()
            self._gone = True
        return self._gone
