"""What tests of more than one side share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def zips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the built extension's zips, built once a run by whichever worker needs it first.

    Its name has a space and a letter beyond ASCII.
    """
    base = tmp_path_factory.getbasetemp()
    # pytest-xdist's workers have folders of their own inside the run's.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "built zips ü"
    with FileLock(folder.with_name("built zips.lock")):
        if not folder.exists():
            draft = folder.with_name("built zips.draft")
            command = [sys.executable, str(ROOT / "build_addon.py"), "--out", str(draft)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            draft.rename(folder)
    return folder
