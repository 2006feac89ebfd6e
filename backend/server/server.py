"""The server: a message loop, and a worker thread for jobs.

    main thread     polls four sockets, manages the queue, replies at once; never uses torch
      router          ROUTER on 127.0.0.1, encrypted with keys generated at startup
      zap             authenticates clients by the key in the connection file (ZeroMQ RFC 27)
      monitor         tells of connections, which connections.py limits
      wake            signals that the worker has a message for a client
    worker thread   worker.py: runs one job at a time, and reports its progress

It queues any JobRequest, and knows nothing about the kinds of job. A client that has disconnected, or has thousands of
unread messages, is detected when a message to it can't be delivered; its jobs are then cancelled. For a running job
that happens at its next progress event; a queued job starts only after its QueuedEvent has been delivered.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import numpy as np
import zmq
from zmq.utils import z85

from ...shared.protocol import connection, wire
from ...shared.protocol.errors import BusyError, Cancelled, PanoformError, ProtocolError, SettingError
from ...shared.protocol.messages import (
    PROTOCOL_VERSION,
    CancelReply,
    CancelRequest,
    JobRequest,
    Message,
    QueuedEvent,
    Request,
    ShutdownReply,
    ShutdownRequest,
    StatusReply,
    StatusRequest,
)
from ..jobs import registry
from . import heap, log_limit, parent
from .connections import Connections
from .worker import Job, Run, WarmUp, Worker, error_reply

MAX_JOBS = 8
MAX_QUEUED_BYTES = 4 * 2**30
#: Unread messages after which a client counts as disconnected; a job sends about a thousand.
MAX_UNREAD = 10_000
#: Time in which a connection must have shown the key, in ms.
HANDSHAKE_MS = 5000
#: Frames from here on are counted until they are sent; ZeroMQ copies smaller ones.
_COUNTED_BYTES = 2**16
#: Time for a running job to stop when the backend shuts down.
GRACE_S = 3.0
_TICK_MS = 200
#: Time between checks of messages that arrive: 0.1 s of loopback, encrypted, are about 40 MB.
_LIMIT_S = 0.1
_WAKE = "inproc://wake"

log = logging.getLogger("panoform.server")


class Server:
    """Listens once constructed; `run` serves until `end` is called, then call `close`."""

    def __init__(self, run: Run = registry.run, warm_up: WarmUp = (), port: int = 0) -> None:
        """`warm_up`: what the worker does until the first job arrives. `port`: 0 for any that is free.

        Raise SettingError for a port that can't be used.
        """
        #: The job in the worker, and the queued jobs in order of arrival.
        self._running: Job | None = None
        self._queued: list[Job] = []
        self._ending = threading.Event()
        #: Clients that sent a ShutdownRequest, and its id.
        self._shutdown_requests: list[tuple[bytes, str]] = []

        self._context = zmq.Context()
        self._context.linger = 1000  # ms, to send the last messages
        # Bound before the router, so that no client connects without authentication.
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._wake = self._context.socket(zmq.PULL)
        self._wake.bind(_WAKE)

        server_public, server_secret = zmq.curve_keypair()
        client_public, client_secret = zmq.curve_keypair()
        self._client_key = z85.decode(client_public)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.curve_server = True
        self._router.curve_secretkey = server_secret
        self._router.zap_domain = b"panoform"
        self._router.router_mandatory = True
        self._router.maxmsgsize = wire.MAX_FRAME_BYTES
        self._router.rcvhwm = 2 * MAX_JOBS
        self._router.sndhwm = MAX_UNREAD
        self._router.handshake_ivl = HANDSHAKE_MS
        self._router.backlog = 512
        self._connections = Connections(self._router)
        try:
            if not 0 <= port < 2**16:  # ZeroMQ takes it modulo 2^16
                raise ValueError("there is no such port")
            self._router.bind(f"tcp://127.0.0.1:{port or '*'}")
        except (zmq.ZMQError, ValueError) as error:
            self._context.destroy(linger=0)
            raise SettingError(f"Port {port} can't be used: {error}.", "Choose another, from 1024 to 65535.") from error
        self.connection = connection.Connection(
            endpoint=self._router.get_string(zmq.LAST_ENDPOINT),
            server_public_key=server_public.decode(),
            client_public_key=client_public.decode(),
            client_secret_key=client_secret.decode(),
            protocol=PROTOCOL_VERSION,
            version=metadata.version("panoform"),
            pid=os.getpid(),
        )
        self._worker = Worker(self._context, _WAKE, run, warm_up)

    def end(self) -> None:
        """End `run`: jobs are cancelled, every request gets its reply. Callable from any thread or signal handler."""
        self._ending.set()

    def run(self, *, limit_log: bool = False) -> bool:
        """Serve until ShutdownRequest or `end`. Return False if a job did not stop within GRACE_S: it then ends only
        with the process. `limit_log`: stderr is a log of Panoform's own, which is shortened when it is too long."""
        handlers = {
            self._connections.monitor: self._connections.watch,
            self._router: self._receive,
            self._zap: self._authenticate,
            self._wake: self._deliver,
        }
        poller = zmq.Poller()
        for socket in handlers:
            poller.register(socket, zmq.POLLIN)
        limit_at = 0.0
        while not self._ending.is_set():
            for socket, _ in poller.poll(_TICK_MS):
                handlers[socket]()
            if time.monotonic() > limit_at:
                self._connections.limit()
                if limit_log:
                    log_limit.limit()
                limit_at = time.monotonic() + _LIMIT_S

        for job in (*self._queued, *([self._running] if self._running else [])):
            if job in self._jobs():  # a failed reply may have removed others of the same client
                self._cancel(job)
        end_by = time.monotonic() + GRACE_S
        while self._running and time.monotonic() < end_by:
            for socket, _ in poller.poll(_TICK_MS):
                handlers[socket]()
        if self._running:
            self._send(
                self._running.client, error_reply(self._running.request.id, Cancelled("The backend was shut down."))
            )
        for client, request_id in self._shutdown_requests:
            self._send(client, ShutdownReply(id=request_id))
        return self._running is None

    def close(self) -> None:
        """Close the sockets, after sending the last messages (at most a second). While a job does not stop, or modules
        are imported, close only the router: the rest ends with the process."""
        self._connections.close()
        self._router.close()
        if self._running or self._worker.is_warming_up:
            time.sleep(_TICK_MS / 1000)
            return
        self._worker.close()
        self._zap.close()
        self._wake.close()
        self._context.term()

    # Incoming

    def _receive(self) -> None:
        client, *frames = self._router.recv_multipart(copy=False)
        self._connections.received(client.bytes, frames[-1] if frames else client)
        try:
            self._handle(client.bytes, wire.decode_request(frames))
        except PanoformError as error:
            log.warning("rejected a message: %s", error)
            request_id = wire.read_id(frames)
            if request_id is not None:
                self._send(client.bytes, error_reply(request_id, error))

    def _handle(self, client: bytes, request: Request) -> None:
        match request:
            case StatusRequest():
                self._send(
                    client,
                    StatusReply(
                        id=request.id,
                        version=self.connection.version,
                        pid=self.connection.pid,
                        running=self._running.request.id if self._running else None,
                        queued=len(self._queued),
                        **self._worker.status._asdict(),
                    ),
                )
            case JobRequest():
                self._queue(client, request)
            case CancelRequest():
                found = self._find(client, request.job)
                if found:
                    self._cancel(found)
                self._send(client, CancelReply(id=request.id, cancelled=found is not None))
            case ShutdownRequest():
                self._shutdown_requests.append((client, request.id))
                self.end()

    def _authenticate(self) -> None:
        version, request_id, _domain, _address, _identity, mechanism, *credentials = self._zap.recv_multipart()
        accepted = mechanism == b"CURVE" and credentials == [self._client_key]
        if not accepted:
            log.warning("rejected a client with an unknown key")
        code, text = (b"200", b"OK") if accepted else (b"400", b"unknown key")
        self._zap.send_multipart([version, request_id, code, text, b"", b""])

    def _deliver(self) -> None:
        self._wake.recv()
        job, frames, is_reply = self._worker.outputs.get()
        self._send_frames(job.client, frames)
        if is_reply:
            self._running = None
            self._advance()

    # The queue

    def _jobs(self) -> list[Job]:
        return [self._running, *self._queued] if self._running else self._queued

    def _find(self, client: bytes, request_id: str) -> Job | None:
        return next((job for job in self._jobs() if (job.client, job.request.id) == (client, request_id)), None)

    def _queue(self, client: bytes, request: JobRequest) -> None:
        if self._ending.is_set():
            raise BusyError("The backend is shutting down.", "Start it again.")
        if self._find(client, request.id):
            raise ProtocolError(f"A job {request.id} exists already.")
        jobs = self._jobs()
        size = sum(_size(job.request) for job in jobs) + _size(request)
        if len(jobs) >= MAX_JOBS or size > MAX_QUEUED_BYTES:
            raise BusyError(f"{len(jobs)} jobs are queued already.", "Wait for one to finish, or cancel one.")
        self._queued.append(Job(client, request))
        self._advance()

    def _advance(self) -> None:
        """Start the next job if none runs, and report their positions to the queued jobs."""
        while not self._running and self._queued:
            job = self._queued.pop(0)
            if self._send(job.client, QueuedEvent(id=job.request.id, ahead=0)):
                self._running = job
                self._worker.submit(job)
        for ahead, job in enumerate(self._queued, start=1):
            if job.ahead != ahead:
                job.ahead = ahead
                if not self._send(job.client, QueuedEvent(id=job.request.id, ahead=ahead)):
                    return self._advance()

    def _cancel(self, job: Job) -> None:
        if job is self._running:
            job.stop.set()
            return
        self._queued.remove(job)
        self._send(job.client, error_reply(job.request.id, Cancelled("The job was cancelled.")))
        self._advance()

    def _send(self, client: bytes, message: Message) -> bool:
        return self._send_frames(client, wire.encode(message))

    def _send_frames(self, client: bytes, frames: list[wire.Buffer]) -> bool:
        """Return False if the client is gone, or leaves too much unread; its jobs are then cancelled."""
        sizes = [memoryview(frame).nbytes for frame in frames]
        parts = [
            zmq.Frame(frame, track=True, copy=False) if size >= _COUNTED_BYTES else frame
            for frame, size in zip(frames, sizes, strict=True)
        ]
        counted = [part.tracker for part in parts if isinstance(part, zmq.Frame)]
        try:
            if counted and not self._connections.may_send(client, sum(sizes)):
                raise zmq.ZMQError(zmq.EHOSTUNREACH)
            self._router.send_multipart([client, *parts], zmq.DONTWAIT, copy=False)
            self._connections.sent(client, counted, sum(sizes))
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                raise
            log.info("a client is gone: %s", error)
            self._queued = [job for job in self._queued if job.client != client]
            if self._running and self._running.client == client:
                self._running.stop.set()
            return False
        return True


def _size(request: JobRequest) -> int:
    """Return the total size of its arrays in bytes."""
    values = (getattr(request, name) for name in request.__struct_fields__)
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


def serve(
    connection_file: Path, parent_pipe: bool, run: Run = registry.run, warm_up: WarmUp = (), port: int = 0
) -> NoReturn:
    """Serve until a ShutdownRequest, Ctrl+C, SIGTERM or, with `parent_pipe`, the end of stdin; then exit with status 0.

    Call it in the main thread of a separate process. The log goes to stderr. Raise OutputError where the connection
    file can't be written, SettingError for a port that can't be used.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    heap.share()
    server = Server(run, warm_up, port)
    try:
        connection.write(connection_file, server.connection)
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: server.end())
            if parent_pipe:
                parent.when_parent_exits(server.end, exit_after_s=parent.EXIT_AFTER_S, connection_file=connection_file)
            log.info("Panoform %s listens on %s", server.connection.version, server.connection.endpoint)
            idle = server.run(limit_log=parent_pipe)  # else the log is the user's
        finally:
            connection_file.unlink(missing_ok=True)
    finally:
        server.close()
    log.info("shut down" if idle else "shut down, although a job did not stop")
    # Nothing is left to save; a normal exit takes seconds to unload torch, and hangs on a job that does not stop.
    logging.shutdown()
    os._exit(0)
