"""Perception when memory runs out."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from panoform.backend.models import device
from panoform.backend.models.flux.checkpoints import STARTER
from panoform.shared.protocol.errors import DeviceMemoryError

_LIMITED_MEMORY = """
import resource, sys
import numpy as np
from panoform.backend.models.cache import ModelCache
from panoform.backend.perception import job
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.protocol.errors import DeviceMemoryError

class Silent:
    def progress(self, *_): pass
    def preview(self, *_): pass
    def check_cancelled(self): pass

def perceive(height):
    request = PerceiveRequest(panorama=panorama, encoding="srgb", engine=EngineSettings(model=sys.argv[1]),
        settings=PerceiveSettings(maps=("albedo",), height=height))
    return job.perceive(request, models, Silent())

panorama = np.random.default_rng(0).random((64, 128, 3)).astype(np.float32)
models = ModelCache()
small = perceive(64).maps["albedo"]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20,) * 2)
try:
    perceive(512)
except DeviceMemoryError as error:
    print(error)
print(np.array_equal(perceive(64).maps["albedo"], small))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
def test_out_of_memory_is_reported_and_the_model_stays_usable(tmp_path):
    folder = shutil.copytree(STARTER, tmp_path / "starter")
    config = json.loads((folder / "panoform.json").read_text(encoding="utf-8"))
    del config["heights"]
    (folder / "panoform.json").write_text(json.dumps(config), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED_MEMORY, str(folder)], capture_output=True, text=True, check=True
    )
    message, usable = done.stdout.splitlines()
    assert re.match(r"(Encoding the panorama|Albedo) at 1024 × 512 ran out of memory on CPU", message)
    assert re.search(r"\d+(\.\d)? (MB|GB) more were requested", message)
    assert "Lower the height" in message
    assert "offload" not in message, "on a CPU, offloading does not help"
    assert usable == "True"


def test_out_of_memory_of_cuda_is_translated():
    message = r"Normal at 1024 × 512 ran out of memory .*\(1\.3 GB more"
    translated = device.translate_out_of_memory("Normal at 1024 × 512", torch.device("cpu"), "Lower it.")
    with pytest.raises(DeviceMemoryError, match=message), translated:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.30 GiB. GPU 0 has a total …")


def test_other_errors_are_not_translated():
    with pytest.raises(RuntimeError, match="shape"), device.translate_out_of_memory("x", torch.device("cpu")):
        raise RuntimeError("shape mismatch")
