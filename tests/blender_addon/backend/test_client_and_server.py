"""Clients and a server, connected by real sockets, against a model of the queue: hypothesis tries orders of what may
happen, and shortens those that fail."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import settings, strategies  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule  # noqa: E402

from panoform.backend.server import server as server_module  # noqa: E402
from panoform.blender_addon.backend.client import Client  # noqa: E402
from panoform.shared.engines import EngineSettings  # noqa: E402
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings  # noqa: E402
from panoform.shared.protocol.errors import SettingError  # noqa: E402
from panoform.shared.protocol.messages import CancelReply, ErrorReply, QueuedEvent, Reply, StatusReply  # noqa: E402

CLIENTS, PATIENCE_S = 3, 20
client_numbers = strategies.integers(0, CLIENTS - 1)


class ClientsAndServer(RuleBasedStateMachine):
    """Jobs run until `finish`, and fail then, which is their reply."""

    def __init__(self) -> None:
        super().__init__()
        self.finished = threading.Semaphore(0)
        self.server = server_module.Server(self.run)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        self.clients = [Client(self.server.connection) for _ in range(CLIENTS)]
        #: Jobs that have no reply, the running one first: the client's number, and the id.
        self.jobs: list[tuple[int, str]] = []
        #: What has arrived, by ids: the last position in the queue, and replies.
        self.ahead: dict[str, int] = {}
        self.replies: dict[str, list[Reply]] = {}

    def run(self, request, models, reporter):
        while not self.finished.acquire(timeout=0.005):
            reporter.check_cancelled()
        raise SettingError("It was finished.")

    # What may happen

    @rule(number=client_numbers)
    def submit(self, number: int) -> None:
        request = PerceiveRequest(
            panorama=np.ones((2, 4, 3), np.float32), encoding="linear", source="a", engine=EngineSettings(),
            settings=PerceiveSettings(maps=("distance",)),
        )  # fmt: skip
        sent = self.clients[number].submit(request)
        if len(self.jobs) == server_module.MAX_JOBS:
            assert self.error(sent) == "busy"
        else:
            self.jobs.append((number, sent))

    @rule(number=client_numbers, place=strategies.integers(0, server_module.MAX_JOBS - 1))
    def cancel(self, number: int, place: int) -> None:
        """A client cancels a job, its own, another's, or none."""
        owner, job = self.jobs[place] if place < len(self.jobs) else (-1, "no job")
        reply = self.reply(self.clients[number].cancel(job))
        assert isinstance(reply, CancelReply)
        assert reply.cancelled == (owner == number)
        if reply.cancelled:
            assert self.error(job) == "cancelled"
            self.jobs.remove((owner, job))

    @rule()
    def finish(self) -> None:
        if self.jobs:
            _, job = self.jobs.pop(0)
            self.finished.release()
            assert self.error(job) == "setting"

    @rule(number=client_numbers)
    def status(self, number: int) -> None:
        reply = self.reply(self.clients[number].status())
        assert isinstance(reply, StatusReply)
        assert reply.running == (self.jobs[0][1] if self.jobs else None)
        assert reply.queued == max(len(self.jobs) - 1, 0)

    @rule(number=client_numbers, frames=strategies.lists(strategies.binary(max_size=64), min_size=1, max_size=3))
    def send_anything(self, number: int, frames: list[bytes]) -> None:
        self.clients[number]._socket.send_multipart(frames)

    @rule(number=client_numbers)
    def reconnect(self, number: int) -> None:
        """A client without jobs leaves, and another comes."""
        if all(owner != number for owner, _ in self.jobs):
            self.clients[number].close()
            self.clients[number] = Client(self.server.connection)

    # What holds then

    @invariant()
    def positions_are_told(self) -> None:
        self.wait(lambda: [self.ahead.get(job) for _, job in self.jobs] == list(range(len(self.jobs))))

    @invariant()
    def each_request_has_one_reply_at_most(self) -> None:
        assert all(len(found) == 1 for found in self.replies.values())
        assert not any(job in self.replies for _, job in self.jobs)

    def teardown(self) -> None:
        try:
            while self.jobs:
                self.finish()
            self.status(0)
            self.each_request_has_one_reply_at_most()
        finally:
            for _ in self.jobs:
                self.finished.release()
            for client in self.clients:
                client.close()
            self.server.end()
            self.thread.join()
            self.server.close()

    # Receiving

    def wait(self, condition) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            for client in self.clients:
                for message in client.poll():
                    if isinstance(message, QueuedEvent):
                        self.ahead[message.id] = message.ahead
                    elif isinstance(message, Reply):
                        self.replies.setdefault(message.id, []).append(message)
            if condition():
                return
            assert time.monotonic() < end, "timed out"
            time.sleep(0.002)

    def reply(self, request: str) -> Reply:
        self.wait(lambda: request in self.replies)
        return self.replies[request][0]

    def error(self, request: str) -> str:
        reply = self.reply(request)
        assert isinstance(reply, ErrorReply)
        return reply.code


TestClientsAndServer = ClientsAndServer.TestCase
TestClientsAndServer.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
