"""A stand-in for a Blender that is killed: start a backend by process.py, print its pid, send it a job and wait.

Run by test_process.py: parent.py SERVER_SCRIPT FOLDER SOURCE
"""

import sys
import time
import types
from pathlib import Path

import numpy as np

import panoform.backend

# The add-on's package without its __init__, which needs bpy; client and process don't.
addon = types.ModuleType("panoform.blender_addon")
addon.__path__ = [str(Path(panoform.backend.__file__).parents[1] / "blender_addon")]
sys.modules[addon.__name__] = addon

from panoform.blender_addon.backend.client import Client  # noqa: E402
from panoform.blender_addon.backend.process import BackendProcess  # noqa: E402
from panoform.shared.engines import EngineSettings  # noqa: E402
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings  # noqa: E402
from panoform.shared.protocol.messages import ProgressEvent  # noqa: E402

server, folder, source = sys.argv[1:]
process = BackendProcess([sys.executable, server], Path(folder))
while (connection := process.poll()) is None:
    time.sleep(0.02)
client = Client(connection)
settings = PerceiveSettings(maps=("distance",), num_inference_steps=200)
client.submit(
    PerceiveRequest(
        panorama=np.ones((4, 8, 3), np.float32),
        encoding="linear",
        source=source,
        engine=EngineSettings(),
        settings=settings,
    )
)
while not any(isinstance(message, ProgressEvent) for message in client.poll()):
    time.sleep(0.02)
print(connection.pid, flush=True)
time.sleep(1000)
