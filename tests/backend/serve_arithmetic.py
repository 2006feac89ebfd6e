"""A backend whose engine does simple arithmetic; everything else is the real thing. Run by the tests as a process."""

import sys
import time
from pathlib import Path

import numpy as np

from panoform.backend.io.results import Perceived
from panoform.backend.server.server import serve
from panoform.shared.protocol.errors import DeviceMemoryError
from panoform.shared.protocol.messages import Info

STEP_S = 0.02


class ArithmeticEngine:
    """Distance: the sum of the channels. Albedo: half the panorama. What else it does, `source` says."""

    name = "Arithmetic"
    device = "abacus"
    memory = (3, 10)

    def perceive(self, panorama, *, encoding, source, engine, settings, watch):
        if source == "memory":
            raise DeviceMemoryError("Out of memory at Normal: 1.3 GB short.", "Use model offload.")
        if source == "bug":
            print(1 / 0)
        if source == "exit":
            sys.exit(3)
        if source == "stuck":
            watch.progress("Stuck", 0, 1, 0.0, None)
            time.sleep(1000)
        steps = settings.num_inference_steps or 1
        for step in range(1, steps + 1):
            time.sleep(STEP_S)
            watch.progress("Adding", step, steps, step / steps, (steps - step) * STEP_S)
            watch.preview("distance", np.full((2, 4, 3), step, np.uint8))
        maps = {"distance": panorama.sum(-1, keepdims=True), "albedo": panorama / 2}
        if source == "float64":
            maps["albedo"] = maps["albedo"].astype(np.float64)
        info = Info(
            panoform="0.1.0",
            engine=engine.engine,
            model="",
            adapters="",
            notice="",
            maps={"distance": "sum", "albedo": "half"},
            frame="",
            source=source,
            source_size=panorama.shape[:2],
            size=panorama.shape[:2],
            exposure=None,
            seed=settings.seed,
            num_inference_steps=steps,
            guidance_scale=0.0,
            device="cpu",
            dtype="fp32",
            seconds={},
            versions={"python": sys.version},
        )
        return Perceived(maps=maps, panorama=panorama, info=info)


if __name__ == "__main__":
    # As `panoform serve --connection-file PATH [--parent-pipe]`.
    assert sys.argv[1:3] == ["serve", "--connection-file"]
    serve(Path(sys.argv[3]), "--parent-pipe" in sys.argv, ArithmeticEngine)
