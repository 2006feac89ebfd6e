"""Fixtures for generation: the tiny FLUX and its settings."""

import pytest
from generating import HEIGHT, SIZE

from panoform.backend.generation import edit_job, session
from panoform.backend.models.cache import ModelCache
from panoform.backend.pipelines import panorama_pipeline
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs import generate
from panoform.shared.jobs.generate import GenerateSettings


@pytest.fixture(scope="module")
def models():
    return ModelCache()


@pytest.fixture
def small(monkeypatch):
    """Allow small panoramas."""
    for module in (generate, edit_job, session):
        monkeypatch.setattr(module, "MIN_HEIGHT", HEIGHT)


@pytest.fixture
def flux(fast_flux, tiny_adapters, small):
    return EngineSettings(engine="flux", model=str(fast_flux), adapters=str(tiny_adapters), dtype="fp32")


@pytest.fixture
def prompt_settings(tiny_lora, small):
    return GenerateSettings(prompt="a stone yard", lora=str(tiny_lora), **SIZE)


@pytest.fixture
def in_windows(monkeypatch):
    """Shrink all sizes so that 768 × 384 is processed like 4096 × 2048: enlarged, then refined and coded in windows."""
    for method in session.NATIVE:
        monkeypatch.setitem(session.NATIVE, method, 256)
    monkeypatch.setattr("panoform.backend.generation.sampler.WINDOW", (256, 256))
    for name, latents in (("MAX_WHOLE", 32 * 64), ("VAE_TILE", 32), ("VAE_OVERLAP", 8)):
        monkeypatch.setattr(panorama_pipeline, name, latents)
