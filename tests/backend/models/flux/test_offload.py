"""Offload modes, with main memory in place of a GPU's: `links.to` is replaced by a simulated link."""

import shutil

import numpy as np
import pytest
import torch

from panoform.backend.models import links
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux import checkpoints, loader, memory
from panoform.backend.models.links import ThreadLink
from panoform.backend.models.residency import Streaming
from panoform.backend.perception import job
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings
from panoform.shared.protocol.errors import DeviceMemoryError

MAPS = ("distance", "normal", "albedo")


@pytest.fixture
def flux(tiny_flux, tiny_adapters):
    return {"engine": "flux", "model": str(tiny_flux), "adapters": str(tiny_adapters), "dtype": "fp32"}


@pytest.fixture
def simulate(monkeypatch):
    """Return a function that simulates a device with so many bytes free, and returns its link."""

    def simulate(free: int) -> ThreadLink:
        link = ThreadLink(memory=free)

        def to(_, budget=None):
            link.memory = link.memory if budget is None else min(link.memory, budget)
            return link

        monkeypatch.setattr(links, "to", to)
        monkeypatch.setattr(links, "exist", lambda _: True)
        monkeypatch.setattr("panoform.backend.models.device.memory", lambda _: (free, 2 * free))
        monkeypatch.setattr("panoform.backend.models.device.choose", lambda _: torch.device("cpu"))
        return link

    return simulate


def perceive(settings: EngineSettings, reporter, models: ModelCache | None = None) -> dict[str, np.ndarray]:
    panorama = np.random.default_rng(0).random((32, 64, 3)).astype(np.float32)
    request = PerceiveRequest(
        panorama=panorama, encoding="srgb", source="noise", engine=settings,
        settings=PerceiveSettings(maps=MAPS, height=64, num_inference_steps=2),
    )  # fmt: skip
    return job.perceive(request, models or ModelCache(), reporter).maps


@pytest.mark.slow
def test_all_offload_modes_give_the_same_maps(simulate, flux, reporter):
    link = simulate(2**40)
    expected = perceive(EngineSettings(**flux, offload="none"), reporter)
    fetched = {}
    for mode in ("auto", "model", "sequential"):
        link.copied = 0
        maps = perceive(EngineSettings(**flux, offload=mode), reporter)
        fetched[mode] = link.copied
        assert all(np.array_equal(maps[name], expected[name]) for name in MAPS)
    assert fetched["auto"] == fetched["model"] == 0
    assert fetched["sequential"] > 0


@pytest.mark.slow
def test_auto_streams_what_does_not_fit(simulate, flux, reporter, tiny_flux):
    settings = EngineSettings(**flux)
    assert settings.offload == "auto"
    expected = perceive(settings, reporter)
    source = loader.find(settings, reporter)
    base = checkpoints.inspect(tiny_flux)
    link = simulate(loader.need(source, base).least)
    # The activations, and part of the blocks
    tokens = 4 * (8 + 3) + 512
    link.memory = memory.activations([2] * 3, tokens, 128, torch.float32) + base.bytes_in(torch.float32) // 2
    models = ModelCache()
    maps = perceive(settings, reporter, models)
    assert 0 < link.copied < 3 * base.bytes_in(torch.float32)
    assert all(np.array_equal(maps[name], expected[name]) for name in MAPS)
    maps = perceive(settings, reporter, models)  # the model stays in main memory
    assert all(np.array_equal(maps[name], expected[name]) for name in MAPS)


@pytest.mark.slow
def test_auto_streams_once_a_job_does_not_fit_beside_the_weights(simulate, flux, reporter):
    """Another program has taken memory meanwhile, or the job is larger than the one before."""
    settings, models = EngineSettings(**flux), ModelCache()
    link = simulate(2**40)
    expected = perceive(settings, reporter, models)
    assert link.copied == 0
    assert not isinstance(models.latest.pipeline.residency, Streaming)
    link = simulate(memory.activations([2] * 3, 4 * (8 + 3) + 512, 128, torch.float32) + 2**22)
    maps = perceive(settings, reporter, models)
    assert isinstance(models.latest.pipeline.residency, Streaming)
    assert all(np.array_equal(maps[name], expected[name]) for name in MAPS)


@pytest.mark.slow
def test_another_model_on_the_device_is_released(simulate, flux, reporter):
    """A device that the first model fills: it goes, before the second is refused for what it has taken."""
    models = ModelCache()
    simulate(2**40)
    first = loader.load(models, loader.find(EngineSettings(**flux, offload="none"), reporter), [], reporter)
    free = iter([2**20])  # while the first is there

    def memory_of(where):
        return (next(free, 2**40), 2**41)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("panoform.backend.models.device.memory", memory_of)
        second = loader.load(models, loader.find(EngineSettings(**flux, offload="auto"), reporter), [], reporter)
    assert models.latest is second
    assert first is not second
    models.release_unused()
    assert len(models._models) == 1


@pytest.mark.slow
def test_two_bases_alternate_on_a_device_that_holds_one_and_are_read_once(
    simulate, flux, tiny_flux, reporter, tmp_path, monkeypatch
):
    """Each is whole on the device when it comes, and in main memory while the other is used."""
    bases = {"first": flux, "second": flux | {"model": str(shutil.copytree(tiny_flux, tmp_path / "other"))}}
    settings = {name: EngineSettings(**base) for name, base in bases.items()}
    expected = {name: perceive(base, reporter) for name, base in settings.items()}
    simulate(2**40)
    source = loader.find(settings["first"], reporter)
    weights = checkpoints.inspect(tiny_flux).bytes_in(torch.float32)
    room = loader.need(source, checkpoints.inspect(tiny_flux)).everything
    models, read, load = ModelCache(), [], checkpoints.load

    def memory_of(_):
        whole = [model for model in models._models.values() if not model.streams]
        return room - weights * len(whole), room

    monkeypatch.setattr("panoform.backend.models.device.memory", memory_of)
    monkeypatch.setattr(checkpoints, "load", lambda base, dtype: read.append(base.path) or load(base, dtype))
    for name in ("first", "second", "first", "second", "first"):
        maps = perceive(settings[name], reporter, models)
        assert all(np.array_equal(maps[kind], expected[name][kind]) for kind in MAPS)
    assert [model.streams for model in models._models.values()] == [False, True]
    assert len(read) == 2


@pytest.mark.slow
def test_too_little_memory_is_refused_before_the_weights_are_read(simulate, flux, reporter, monkeypatch):
    simulate(2**20)

    def load(*_):
        raise AssertionError("weights are read")

    monkeypatch.setattr(checkpoints, "load", load)
    for mode in ("auto", "model", "sequential"):
        with pytest.raises(DeviceMemoryError, match=r"needs at least [\d.]+ GB of memory on .* GB are free"):
            perceive(EngineSettings(**flux, offload=mode), reporter)


@pytest.mark.slow
def test_memory_budget_limits_what_stays(simulate, flux, reporter):
    """As on a smaller device."""
    expected = perceive(EngineSettings(**flux), reporter)
    settings = EngineSettings(**flux, memory=1.5, offload="sequential")
    link = simulate(2**40)
    assert loader.find(settings, reporter).free() == int(1.5 * 2**30)
    maps = perceive(settings, reporter)
    assert link.copied > 0
    assert link.memory == int(1.5 * 2**30)
    assert all(np.array_equal(maps[name], expected[name]) for name in MAPS)


@pytest.mark.parametrize(
    ("mode", "gigabytes", "hint"), [("auto", 0.5, "larger budget."), ("none", 0.6, "or use the offload mode auto")]
)
def test_budget_below_one_block_is_refused_before_the_weights_are_read(
    simulate, flux, reporter, monkeypatch, mode, gigabytes, hint
):
    simulate(2**40)
    monkeypatch.setattr(checkpoints, "load", lambda *_: pytest.fail("weights are read"))
    with pytest.raises(DeviceMemoryError, match=rf"needs at least .*, and the budget is {gigabytes} GB") as caught:
        perceive(EngineSettings(**flux, offload=mode, memory=gigabytes), reporter)
    assert caught.value.hint.endswith(hint + ("" if hint.endswith(".") else "."))


@pytest.mark.slow
def test_out_of_memory_tells_what_is_needed(simulate, flux, reporter, monkeypatch):
    simulate(2**40)

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.30 GiB.")

    monkeypatch.setattr("panoform.backend.pipelines.omnix.denoiser", fail)
    for mode, advised in (("none", True), ("auto", False)):
        with pytest.raises(DeviceMemoryError, match=r"Distance, Normal, Albedo at 128 × 64 ran out") as caught:
            perceive(EngineSettings(**flux, offload=mode), reporter)
        assert "needs at least 1.3 GB of free memory" in caught.value.hint
        assert ("offload mode auto" in caught.value.hint) == advised


def test_need_of_flux_at_full_size():
    """Between what the weights alone need and what cards have: by FLUX.1-dev's configs, in bfloat16."""
    transformer = {
        "num_attention_heads": 24, "attention_head_dim": 128, "num_layers": 19, "num_single_layers": 38,
        "in_channels": 64, "joint_attention_dim": 4096, "pooled_projection_dim": 768,
    }  # fmt: skip
    vae = {"block_out_channels": (128, 256, 512, 512)}
    need = memory.perception(
        transformer, vae, 2 * 11_901_408_320, 2 * 83_819_683, [2] * 5, 512, 2 * 512**2, torch.bfloat16, torch.bfloat16
    )  # fmt: skip
    gib = 2**30
    assert 22.2 + 2.1 < need.everything / gib < 27
    assert 16.1 + 0.16 + 2.1 < need.denoising / gib < 21.5
    assert 0.9 < need.least / gib < 4
