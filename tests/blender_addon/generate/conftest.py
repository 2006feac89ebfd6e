"""Fixtures for generating, with a real backend process and tests/backend's tiny checkpoints."""

import backend_fixtures
import pytest

from panoform.shared.engines import EngineSettings

_fixtures = backend_fixtures.load()
tiny_flux, tiny_adapters, tiny_lora = _fixtures.tiny_flux, _fixtures.tiny_adapters, _fixtures.tiny_lora


@pytest.fixture(scope="session")
def flux(tiny_flux, tiny_adapters):
    return EngineSettings(engine="flux", model=str(tiny_flux), adapters=str(tiny_adapters), device="cpu", dtype="fp32")
