"""Measure the backend's startup time and the transfer of panoramas: python bench/startup.py [--height 1024]

Prints the median time of five starts from the start of the process to its StatusReply, and the processor time of it
(the rest is spent waiting for the disk or other processes); then the round trip of one panorama of that height and its
result of the same size.
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


def start(command: list[str], folder: Path) -> tuple[BackendProcess, Client, float, float]:
    """Start a backend and a client; return them, and the wall-clock and processor seconds until the first reply."""
    began = time.perf_counter()
    process = BackendProcess(command, folder)
    while (connection := process.poll()) is None:
        time.sleep(0.001)
    client = Client(connection)
    client.status()
    wait_for(client, StatusReply)
    seconds = time.perf_counter() - began
    used = psutil.Process(connection.pid).cpu_times()
    return process, client, seconds, used.user + used.system


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
