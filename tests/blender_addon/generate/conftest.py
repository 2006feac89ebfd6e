"""Fixtures for generating, with a real backend process and tests/backend's tiny checkpoints."""

import sys
import time

import backend_fixtures
import pytest

from panoform.shared.engines import EngineSettings

_fixtures = backend_fixtures.load()
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
