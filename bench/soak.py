"""Run a backend under load for minutes: python bench/soak.py [--minutes 8] [--jobs 1000] [--kind perceive] [--toy]

    jobs      after a warm-up of 100, so many jobs of one kind (bench/soak_jobs.py), one after the other: the slope of
              the backend's memory for each 1000 jobs, a line fitted to the later half; its descriptors and threads
    cancel    200 jobs submitted over time, half of them cancelled at random moments: each has exactly one reply
    clients   ten clients at once, each with ten jobs: each has exactly one reply; refusals as busy are tried again

Memory is what the backend has not mapped from files: pages of libraries that are read for the first time are no growth.
With --toy the jobs are arithmetic (tests/backend/serve_arithmetic.py), which measures the server without torch. A part
that takes more than its share of --minutes ends early, and says so. The exit code is 1 where a limit is exceeded.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

import panoform.backend

ROOT = Path(panoform.backend.__file__).parents[1]
# The add-on's package without its __init__, which needs bpy.
addon = types.ModuleType("panoform.blender_addon")
addon.__path__ = [str(ROOT / "blender_addon")]
sys.modules[addon.__name__] = addon

from soak_jobs import KINDS, all_maps, perceive  # noqa: E402

from panoform.blender_addon.backend.client import Client  # noqa: E402
from panoform.blender_addon.backend.process import BackendProcess  # noqa: E402
from panoform.shared.jobs.perceive import PerceiveReply  # noqa: E402
from panoform.shared.protocol.connection import Connection  # noqa: E402
from panoform.shared.protocol.messages import ErrorReply, JobRequest, Reply, StatusReply  # noqa: E402

TOY = [sys.executable, str(ROOT / "tests" / "backend" / "serve_arithmetic.py")]
REAL = [sys.executable, "-m", "panoform.backend"]
WARM_UP, CLIENTS, JOBS_OF_A_CLIENT, CANCELLED = 100, 10, 10, 200
#: Largest growth of memory for each 1000 jobs.
MAX_SLOPE = 0.005
#: Time after a reply in which the worker gives back what the job has freed.
_SETTLING_S = 0.05
#: Jobs from one sample to the next.
_SAMPLED = 5
#: Time after which a client tries again.
_PAUSE_S = 0.1


class Sample(NamedTuple):
    """What the backend holds after so many jobs."""

    jobs: int
    #: Bytes of memory of its own, and of files that are mapped.
    own: int
    mapped: int
    descriptors: int
    threads: int


def sample(process: psutil.Process, jobs: int) -> Sample:
    """Measure the backend. Its memory is what isn't mapped from files, on Linux; elsewhere what it doesn't share."""
    if sys.platform == "linux":
        lines = Path(f"/proc/{process.pid}/status").read_text("ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        own, mapped = (1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))
    else:
        memory = process.memory_full_info()
        own, mapped = memory.uss, memory.rss - memory.uss
    descriptors = process.num_fds() if hasattr(process, "num_fds") else 0
    return Sample(jobs, own, mapped, descriptors, process.num_threads())


def _range(sizes: Sequence[float]) -> str:
    """Return the least and the largest of sizes in bytes, in megabytes."""
    return f"{min(sizes) / 1e6:.1f} to {max(sizes) / 1e6:.1f}"


class Replies:
    """Counts the replies of a client to its jobs."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.found: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.codes: dict[str, str] = {}

    def poll(self) -> None:
        for message in self.client.poll():
            if isinstance(message, Reply) and not isinstance(message, StatusReply):
                self.found[message.id] += 1
                if isinstance(message, ErrorReply):
                    self.codes[message.id] = message.code
                    self.errors[message.code] += 1

    def wait(self, ids: Sequence[str], until: float) -> bool:
        """Wait for a reply to each job. Return False where the time is over."""
        while not all(self.found[name] for name in ids):
            if time.monotonic() > until:
                return False
            self.poll()
            time.sleep(0.001)
        return True


def maps_of_a_panorama(client: Client) -> PerceiveReply:
    """Return the maps that jobs of other kinds need."""
    name = client.submit(all_maps())
    while True:
        for message in client.poll():
            if isinstance(message, PerceiveReply) and message.id == name:
                return message
        time.sleep(0.01)


def jobs_in_a_row(client: Client, pid: int, make: Callable[[int], JobRequest], count: int, until: float) -> bool:
    """Print the slope of memory; return whether the limits hold."""
    process, replies, samples = psutil.Process(pid), Replies(client), []
    began = time.monotonic()
    for number in range(WARM_UP + count):
        if not replies.wait([client.submit(make(number))], until):
            break
        if number >= WARM_UP and number % _SAMPLED == 0:
            time.sleep(_SETTLING_S)
            samples.append(sample(process, number - WARM_UP))
    done = samples[-1].jobs if samples else 0
    later = samples[len(samples) // 2 :]
    if len(later) < 5:
        print(f"jobs: only {done} in {time.monotonic() - began:.0f} s: too few to measure")
        return False
    memory = np.array([each.own for each in later], float)
    slope = np.polyfit([each.jobs for each in later], memory, 1)[0] * 1000 / memory.mean()
    descriptors, threads = ({each[index] for each in later} for index in (3, 4))
    print(
        f"jobs: {done} after {WARM_UP}, {time.monotonic() - began:.0f} s; memory {_range(memory)} MB, in the first "
        f"half {_range([each.own for each in samples[: len(samples) // 2]])}, {slope:+.2%} for each 1000; mapped files "
        f"{_range([each.mapped for each in later])} MB; descriptors {sorted(descriptors)}, threads {sorted(threads)}; "
        f"errors {dict(replies.errors)}"
    )
    flat = max(descriptors) - min(descriptors) <= 1 and max(threads) - min(threads) <= 1
    return slope <= MAX_SLOPE and flat and not replies.errors and max(replies.found.values()) == 1


def cancelled_at_random(client: Client, until: float) -> bool:
    """Return whether each job had exactly one reply."""
    chance, replies = random.Random(0), Replies(client)
    ids: list[str] = []
    cancels: list[str] = []
    while len(ids) < CANCELLED and time.monotonic() < until:
        if sum(not replies.found[name] for name in ids) < 6:
            ids.append(client.submit(perceive(len(ids), steps=chance.randint(1, 5))))
        if chance.random() < 0.5:
            cancels.append(client.cancel(chance.choice(ids[-6:])))
        for _ in range(chance.randint(0, 20)):
            replies.poll()
            time.sleep(0.001)
    in_time = replies.wait(ids + cancels, until)
    for _ in range(100):  # a second reply would come late
        replies.poll()
        time.sleep(0.005)
    counts = Counter(replies.found[name] for name in ids)
    print(
        f"cancel: {len(ids)} jobs, {replies.errors['cancelled']} cancelled; jobs by number of replies: {dict(counts)}"
    )
    return in_time and set(counts) == {1} and len(ids) == CANCELLED and set(replies.errors) <= {"cancelled"}


def clients_at_once(connection: Connection, until: float) -> bool:
    """Return whether each job of each client had exactly one reply."""
    clients = [Replies(Client(connection)) for _ in range(CLIENTS)]
    waiting: dict[int, str] = {}
    again: dict[int, float] = {}
    done, refused = Counter(), 0
    while sum(done.values()) < CLIENTS * JOBS_OF_A_CLIENT and time.monotonic() < until:
        for index, replies in enumerate(clients):
            is_free = index not in waiting and time.monotonic() > again.get(index, 0.0)
            if is_free and done[index] < JOBS_OF_A_CLIENT:
                waiting[index] = replies.client.submit(perceive(index))
            replies.poll()
            if index in waiting and replies.found[waiting[index]]:
                name, again[index] = waiting.pop(index), time.monotonic() + _PAUSE_S
                refused += replies.codes.get(name) == "busy"
                done[index] += replies.codes.get(name) != "busy"
        time.sleep(0.002)
    counts = Counter(count for replies in clients for count in replies.found.values())
    print(f"clients: {dict(done)} jobs done, {refused} refused as busy; jobs by number of replies: {dict(counts)}")
    for replies in clients:
        replies.client.close()
    return set(counts) == {1} and all(done[index] == JOBS_OF_A_CLIENT for index in range(CLIENTS))


def main() -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, metavar="M", help="time for all parts (default: 8)")
    parser.add_argument("--jobs", type=int, default=1000, metavar="N", help="jobs in a row (default: 1000)")
    parser.add_argument("--kind", choices=KINDS, default="perceive", help="of the jobs in a row (default: perceive)")
    parser.add_argument("--toy", action="store_true", help="arithmetic instead of the starter")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="panoform-soak-", ignore_cleanup_errors=True) as folder:
        process = BackendProcess(TOY if options.toy else REAL, Path(folder))
        while (connection := process.poll()) is None:
            time.sleep(0.01)
        client = Client(connection)
        make = perceive if options.toy else KINDS[options.kind](maps_of_a_panorama(client))
        left = end - time.monotonic()
        results = [
            jobs_in_a_row(client, connection.pid, make, options.jobs, time.monotonic() + 0.7 * left),
            cancelled_at_random(client, time.monotonic() + 0.2 * left),
            clients_at_once(connection, max(end, time.monotonic() + 0.1 * left)),
        ]
        client.close()
        process.stop(wait=True)
    print("all limits hold" if all(results) else "a limit is exceeded")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
