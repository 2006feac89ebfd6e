"""Helpers for the tests of the server: a backend process, and a client that exchanges raw frames with it."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import zmq

from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.protocol import connection, messages, wire

ARITHMETIC = [sys.executable, str(Path(__file__).with_name("serve_arithmetic.py"))]
REAL = [sys.executable, "-m", "panoform.backend"]
TIMEOUT_S = 60


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
    """A client with a DEALER socket, which sends and receives frames unchanged."""

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

    def receive(self, timeout_s: float = TIMEOUT_S) -> messages.Message:
        assert self.socket.poll(timeout_s * 1000), "no message received"
        return wire.decode_answer(self.socket.recv_multipart(copy=False))

    def receive_until_reply(self, request_id: str) -> list[messages.Message]:
        """Receive messages up to the reply to this request, and return them all."""
        received = []
        while not (received and received[-1].id == request_id and isinstance(received[-1], messages.Reply)):
            received.append(self.receive())
        return received

    def status(self) -> messages.StatusReply:
        self.send(messages.StatusRequest(id="status"))
        reply = self.receive_until_reply("status")[-1]
        assert isinstance(reply, messages.StatusReply)
        return reply

    def perceive(
        self, request_id: str, panorama: np.ndarray | None = None, *, source="", steps=1, directory=""
    ) -> None:
        self.send(
            PerceiveRequest(
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


def wait_until(condition) -> None:
    """Wait until `condition()` is true, at most TIMEOUT_S."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def idle(backend: Backend):
    """Return a function that returns whether the backend runs no job."""

    def check() -> bool:
        peer = Peer(backend.connection)
        try:
            return peer.status().running is None
        finally:
            peer.close()

    return check


def run_endlessly(request, models, reporter):
    """A job that sends previews until it is cancelled."""
    while True:
        reporter.preview("distance", np.zeros((128, 256, 3), np.uint8))
        time.sleep(0.001)  # so that a client that reads late isn't considered disconnected


def message_types(received: list[messages.Message]) -> list[str]:
    return [type(message).__name__ for message in received]
