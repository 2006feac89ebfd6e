"""Measure the backend's startup time and the transfer of panoramas: python bench/startup.py [--height 1024]

Prints the median time of five starts from the start of the process to its StatusReply, and the processor time of it
(the rest is spent waiting for the disk or other processes); then the duration of the first and second jobs, drafts
of one map, in a backend without and with --warm-up; then the round trip of one panorama of that height and its result
of the same size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import types
from pathlib import Path
from statistics import median

import numpy as np
import psutil

import panoform.backend

ROOT = Path(panoform.backend.__file__).parents[1]
# The add-on's package without its __init__, which needs bpy.
addon = types.ModuleType("panoform.blender_addon")
addon.__path__ = [str(ROOT / "blender_addon")]
sys.modules[addon.__name__] = addon

from panoform.blender_addon.backend.client import Client  # noqa: E402
from panoform.blender_addon.backend.process import BackendProcess  # noqa: E402
from panoform.shared.engines import EngineSettings  # noqa: E402
from panoform.shared.jobs.perceive import PerceiveReply, PerceiveRequest, PerceiveSettings  # noqa: E402
from panoform.shared.protocol.messages import StatusReply  # noqa: E402

ARITHMETIC = ROOT / "tests" / "backend" / "serve_arithmetic.py"


def wait_for(client: Client, kind: type) -> None:
    """Poll the client until a message of type `kind` arrives."""
    while not any(isinstance(message, kind) for message in client.poll()):
        time.sleep(0.001)


def start(command: list[str], folder: Path, *, warm_up: bool = False) -> tuple[BackendProcess, Client, float, float]:
    """Start a backend and a client; return them, and the wall-clock and processor seconds until the first reply."""
    began = time.perf_counter()
    process = BackendProcess(command, folder, warm_up=warm_up)
    while (connection := process.poll()) is None:
        time.sleep(0.001)
    client = Client(connection)
    client.status()
    wait_for(client, StatusReply)
    seconds = time.perf_counter() - began
    used = psutil.Process(connection.pid).cpu_times()
    return process, client, seconds, used.user + used.system


def perceive(client: Client) -> float:
    """Perceive a draft of one map and return the wall-clock seconds that it took."""
    began = time.perf_counter()
    panorama = np.random.default_rng(0).random((256, 512, 3), np.float32)
    settings = PerceiveSettings(maps=("distance",), height=128, num_inference_steps=1)
    client.submit(PerceiveRequest(panorama=panorama, encoding="linear", engine=EngineSettings(), settings=settings))
    wait_for(client, PerceiveReply)
    return time.perf_counter() - began


def first_jobs(folder: Path) -> None:
    """Print the durations of the first and second jobs of a backend, without and with --warm-up."""
    for warm_up in (False, True):
        process, client, *_ = start([sys.executable, "-m", "panoform.backend"], folder, warm_up=warm_up)
        if warm_up:
            connection = process.poll()
            assert connection
            pid = psutil.Process(connection.pid)
            used = -1.0
            while (now := sum(pid.cpu_times()[:2])) - used > 0.05:  # until it is idle
                used = now
                time.sleep(0.5)
            print(f"warmed up after {used:.1f} s processor time, {pid.memory_info().rss / 1e6:.0f} MB of memory")
        first, second = perceive(client), perceive(client)
        print(f"{'with' if warm_up else 'without'} warm-up: first job {first:.1f} s, second {second:.1f} s")
        client.close()
        process.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=1024, help="of the panorama that is sent, in pixels")
    height = parser.parse_args().height
    with tempfile.TemporaryDirectory() as folder:
        times = []
        for _ in range(5):
            process, client, seconds, used = start([sys.executable, "-m", "panoform.backend"], Path(folder))
            client.close()
            process.stop()
            times.append((seconds, used))
        seconds, used = (median(column) for column in zip(*times, strict=True))
        print(f"first reply after {seconds:.2f} s, of which {used:.2f} s processor time (medians of 5)")

        first_jobs(Path(folder))

        # This engine hardly computes, so that the time is that of the transfer.
        process, client, *_ = start([sys.executable, str(ARITHMETIC)], Path(folder))
        panorama = np.random.default_rng(0).random((height, 2 * height, 3), np.float32)
        began = time.perf_counter()
        settings = PerceiveSettings(maps=("distance",))
        client.submit(PerceiveRequest(panorama=panorama, encoding="linear", engine=EngineSettings(), settings=settings))
        wait_for(client, PerceiveReply)
        seconds = time.perf_counter() - began
        megabytes = panorama.nbytes * (1 + 1 / 3 + 1) / 1e6  # the panorama; distance and albedo in return
        print(f"round trip of {megabytes:.0f} MB in {seconds:.2f} s: {megabytes / seconds:.0f} MB/s")
        client.close()
        process.stop()


if __name__ == "__main__":
    main()
