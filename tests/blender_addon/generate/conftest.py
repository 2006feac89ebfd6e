"""Fixtures for generating, with a real backend process and tests/backend's tiny checkpoints."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

from panoform.shared.engines import EngineSettings


def _backend_fixtures():
    path = Path(__file__).resolve().parents[2] / "backend" / "conftest.py"
    spec = importlib.util.spec_from_file_location("backend_fixtures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_fixtures = _backend_fixtures()
tiny_flux, tiny_adapters, tiny_lora = _fixtures.tiny_flux, _fixtures.tiny_adapters, _fixtures.tiny_lora


@pytest.fixture(scope="session")
def flux(tiny_flux, tiny_adapters):
    return EngineSettings(engine="flux", model=str(tiny_flux), adapters=str(tiny_adapters), device="cpu", dtype="fp32")


@pytest.fixture(scope="session")
def connection(tmp_path_factory):
    """Start a backend process; yield the connection to it."""
    from panoform.blender_addon.backend.process import BackendProcess

    process = BackendProcess((sys.executable, "-m", "panoform.backend"), tmp_path_factory.mktemp("vérbindung 2"))
    while (connection := process.poll()) is None:
        time.sleep(0.02)
    yield connection
    process.stop(wait=True, timeout_s=0)
