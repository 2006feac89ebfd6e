"""A backend in a process of its own, and a peer that exchanges raw frames with it, for the tests of the server."""

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
        reply = self.until_reply("status")[-1]
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


def wait_until(true) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def idle(backend: Backend):
    def check() -> bool:
        asking = Peer(backend.connection)
        try:
            return asking.status().running is None
        finally:
            asking.close()

    return check


def endless(request, models, reporter):
    """A job that shows previews until it is stopped."""
    while True:
        reporter.preview("distance", np.zeros((128, 256, 3), np.uint8))


def kinds(heard: list[messages.Message]) -> list[str]:
    return [type(message).__name__ for message in heard]
