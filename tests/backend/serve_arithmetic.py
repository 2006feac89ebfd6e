"""A real backend process whose jobs only do simple arithmetic.

In its replies the maps are not image files, but the bytes of the arrays.
"""

import ctypes
import sys
import time
from pathlib import Path

import numpy as np

from panoform.backend.io import results
from panoform.backend.server.server import serve
from panoform.shared.jobs.perceive import Info, PerceiveReply
from panoform.shared.protocol.errors import DeviceMemoryError, OutputError

STEP_S = 0.02


class Arithmetic:
    """The model in the cache."""

    label = "Arithmetic"
    device_label = "abacus"

    def device_memory(self):
        return 3, 10, 2

    def leave_device(self):
        return False


def run(request, models, reporter):
    """Return the sum of the channels as distance, half the panorama as albedo. `source` selects special behaviour."""
    panorama, source = request.panorama, request.source
    if request.directory:
        if not Path(request.directory).is_absolute():
            raise OutputError(f"{request.directory} isn't an absolute path.")
        results.check_writable(Path(request.directory))
    if source == "memory":
        raise DeviceMemoryError("Out of memory at Normal: 1.3 GB short.", "Use model offload.")
    if source == "bug":
        print(1 / 0)
    if source == "exit":
        sys.exit(3)
    models.get("arithmetic", Arithmetic, lambda: True)
    if source == "stuck":
        reporter.progress("Stuck", 0, 1, 0.0, None)
        time.sleep(1000)
    if source == "locked":
        reporter.progress("Locked", 0, 1, 0.0, None)
        time.sleep(0.3)  # until it is sent
        ctypes.PyDLL(None).sleep(1000)  # a PyDLL keeps Python's lock
    steps = request.settings.num_inference_steps or 1
    for step in range(1, steps + 1):
        time.sleep(STEP_S)
        reporter.progress("Adding", step, steps, step / steps, (steps - step) * STEP_S)
        reporter.preview("distance", np.full((2, 4, 3), step, np.uint8))
    maps = {"distance": panorama.sum(-1, keepdims=True), "albedo": panorama / 2}
    info = Info(
        panoform="0.1.0",
        engine=request.engine.engine,
        model="",
        adapters="",
        notice="",
        maps={"distance": "sum", "albedo": "half"},
        frame="",
        source=source,
        source_size=panorama.shape[:2],
        size=panorama.shape[:2],
        exposure=None,
        seed=request.settings.seed,
        num_inference_steps=steps,
        guidance_scale=0.0,
        device="cpu",
        dtype="fp32",
        seconds={"all": steps * STEP_S},
        versions={"python": sys.version},
    )
    if request.directory:
        results.write(Path(request.directory), results.Perceived(maps, panorama, info))
    contents = {name: array.reshape(-1).view(np.uint8) for name, array in maps.items()}
    if source == "float64":
        contents["albedo"] = maps["albedo"].astype(np.float64)
    return PerceiveReply(id=request.id, maps=contents, info=info)


if __name__ == "__main__":
    # Arguments as of `panoform serve --connection-file PATH [--parent-pipe]`.
    assert sys.argv[1:3] == ["serve", "--connection-file"]
    serve(Path(sys.argv[3]), "--parent-pipe" in sys.argv, run)
