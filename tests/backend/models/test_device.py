"""The choice of a device, and of kernels on it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from panoform.backend.inventory import diagnosis
from panoform.backend.models import device, kernels
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux import loader
from panoform.shared.engines import EngineSettings
from panoform.shared.protocol.errors import SettingError, WeightsError

CPU = torch.device("cpu")


@pytest.fixture
def present(monkeypatch):
    """Return a function that lets this computer have so many devices of each kind."""

    def present(**counts: int) -> None:
        for kind, module in {"cuda": torch.cuda, "xpu": torch.xpu}.items():
            monkeypatch.setattr(module, "device_count", lambda kind=kind: counts.get(kind, 0))
            monkeypatch.setattr(module, "is_available", lambda kind=kind: kind in counts)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in counts)

    return present


@pytest.mark.parametrize(
    ("counts", "chosen"),
    [({}, "cpu"), ({"mps": 1}, "mps"), ({"xpu": 1}, "xpu"), ({"cuda": 2, "xpu": 1}, "cuda")],
)
def test_best_device_is_chosen(present, counts, chosen):
    present(**counts)
    assert device.choose(EngineSettings()).type == chosen


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_devices_with_too_old_a_driver_are_not_used(present, monkeypatch, kind):
    """The driver counts one, and PyTorch can't use it."""
    present(**{kind: 1})
    monkeypatch.setattr(getattr(torch, kind), "is_available", lambda: False)
    assert device.choose(EngineSettings()) == CPU
    with pytest.raises(SettingError, match=f"{kind} is not on this computer"):
        device.choose(EngineSettings(device=kind))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "cuda:2"}, r"cuda:2 is not on this computer\. Use auto, or one of cuda, xpu, cpu"),
        ({"device": "moon"}, r"no device called 'moon'\. Use auto, cpu, cuda, cuda:1, xpu or mps"),
        ({"device": "cpu", "offload": "model"}, "off a GPU, but the model runs on the CPU"),
        ({"device": "xpu", "offload": "model"}, "on Intel's GPUs that is not built in"),
        (
            {"device": "cpu", "memory": 4.0},
            "budget is for a GPU with its own memory, but the model runs on the",
        ),
    ],
)
def test_refusals_say_why(present, settings, words):
    present(cuda=2, xpu=1)
    with pytest.raises(SettingError, match=words):
        device.choose(EngineSettings(**settings))


@pytest.mark.slow
def test_8_bit_floats_are_refused_on_apple_gpus(present, tiny_flux, tiny_adapters, tmp_path, reporter, monkeypatch):
    """By the loader before weights are read, and by the diagnosis."""
    folder = tmp_path / "float8"
    folder.mkdir()
    for file in tiny_flux.iterdir():
        if file.name != "transformer":
            (folder / file.name).symlink_to(file)
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text((tiny_flux / "transformer" / "config.json").read_text())
    name = "diffusion_pytorch_model.safetensors"
    state = load_file(tiny_flux / "transformer" / name)
    save_file({key: x.to(torch.float8_e4m3fn) for key, x in state.items()}, folder / "transformer" / name)
    present(mps=1)
    settings = EngineSettings(engine="flux", model=str(folder), adapters=str(tiny_adapters), device="mps")
    words = "has 8-bit floats, which Apple GPU can't decode"
    with pytest.raises(WeightsError, match=words):
        loader.load(ModelCache(), loader.find(settings, reporter), [], reporter)
    assert any("8-bit floats" in problem and "GGUF" in problem for problem in diagnosis.diagnose(settings).problems)


def test_attention_that_works_here_is_found_by_trying():
    found = kernels.available(CPU, torch.float32)
    assert {"native", "_native_math"} <= set(found)
    assert not {"_native_cudnn", "flex"} & set(found)
    assert not any(name.endswith("_hub") for name in found)
    kernels.check(EngineSettings(attention="native"), CPU, torch.float32)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("moon", "'moon' can't be used here. Use auto, or one of native, _native"),
        ("_native_cudnn", "'_native_cudnn' can't be used here"),
        ("flash_hub", "it would download programs"),
        ("flex", "'flex' can't be used here without compiled blocks"),
    ],
)
def test_other_attention_is_refused_with_what_works(name, words):
    with pytest.raises(SettingError, match=words):
        kernels.check(EngineSettings(attention=name), CPU, torch.float32)


@pytest.mark.slow
def test_attention_is_that_of_the_settings(tiny_flux, tiny_adapters, reporter):
    def load(**options):
        settings = EngineSettings(
            engine="flux", model=str(tiny_flux), adapters=str(tiny_adapters), device="cpu", **options
        )
        return loader.load(ModelCache(), loader.find(settings, reporter), [], reporter).pipeline.transformer

    names = {p._attention_backend for p in load(attention="_native_math").attn_processors.values()}
    assert [name.value for name in names] == ["_native_math"]
    assert {p._attention_backend for p in load().attn_processors.values()} == {None}


def test_missing_compiler_is_told(monkeypatch):
    def fail(_):
        raise RuntimeError("No working C++ compiler found\nTraceback …")

    kernels._check_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda _: fail)
    with pytest.raises(SettingError, match=r"compiled here: No working C\+\+ compiler found Leave out --compile"):
        kernels.check(EngineSettings(compile=True), CPU, torch.float32)
    kernels._check_compiler.cache_clear()
