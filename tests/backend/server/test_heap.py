"""What jobs have freed goes back to the system."""

import subprocess
import sys

import pytest

#: Frees in a thread 40 MB of small arrays, below which one stays, after large ones, which glibc learns to keep from.
FREED = """
import threading
from pathlib import Path
from panoform.backend.server import heap

def own() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def work() -> None:
    for megabytes in (8, 24, 30):
        bytearray(megabytes << 20)
    blocks = [bytearray(100_000) for _ in range(400)]
    before.append(own())
    blocks.clear()

before = []
{share}
for _ in range(2):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
heap.release()
print(before[0] - own())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_that_a_thread_has_freed_is_given_back():
    freed = {}
    for share in ("heap.share()", ""):
        done = subprocess.run([sys.executable, "-c", FREED.format(share=share)], capture_output=True, check=True)
        freed[share] = int(done.stdout) / 1000
    assert freed["heap.share()"] > 39  # of 40 MB
    assert freed[""] < 39  # else glibc has learned it, and heap.share() can go
