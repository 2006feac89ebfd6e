"""A backend whose jobs take no time."""

import sys
from pathlib import Path

import pytest

from panoform.blender_addon.backend import session
from panoform.blender_addon.jobs.manager import Jobs

SERVER = Path(__file__).parents[2] / "backend" / "serve_arithmetic.py"


@pytest.fixture
def arithmetic(stopped: Jobs, monkeypatch) -> Jobs:
    """Jobs whose backend is serve_arithmetic.py."""
    start = session.BackendProcess
    command = (sys.executable, str(SERVER))
    monkeypatch.setattr(session, "BackendProcess", lambda _, folder, **options: start(command, folder))
    return stopped
