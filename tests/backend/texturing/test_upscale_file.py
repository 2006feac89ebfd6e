"""Image upscalers from files: what spandrel reads, and what is refused."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from texturing_shapes import compact_upscaler

from panoform.backend.texturing import upscale_file
from panoform.shared.protocol.errors import BackendMissingError, WeightsError

CPU = torch.device("cpu")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "compact.safetensors"
    save_file(compact_upscaler(2), path)
    return path


@pytest.mark.parametrize("scale", [2, 4])
def test_views_are_enlarged_by_two(tmp_path: Path, scale: int) -> None:
    pytest.importorskip("spandrel", reason="spandrel isn't installed: pip install -e '.[upscale]'")
    save_file(compact_upscaler(scale), tmp_path / "compact.safetensors")
    model = upscale_file.load(tmp_path / "compact.safetensors", CPU)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    result = upscale_file.enlarge(model, images, tmp_path, lambda: None)
    assert result.shape == (2, 3, 32, 32)
    repeated = images.repeat_interleave(2, -1).repeat_interleave(2, -2)
    # Four times as large and averaged, its edges are a bit softer.
    assert (result - repeated).abs().mean() < (1e-6 if scale == 2 else 0.06)


def test_other_models_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("spandrel")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="can't be used to upscale"):
        upscale_file.load(tmp_path / "other.safetensors", CPU)
    save_file(compact_upscaler(1), tmp_path / "same.safetensors")
    with pytest.raises(WeightsError, match="doesn't enlarge"):
        upscale_file.load(tmp_path / "same.safetensors", CPU)
    broken = compact_upscaler(2)
    broken["body.4.bias"].fill_(torch.nan)
    save_file(broken, tmp_path / "nan.safetensors")
    model = upscale_file.load(tmp_path / "nan.safetensors", CPU)
    with pytest.raises(WeightsError, match="NaN"):
        upscale_file.enlarge(model, torch.rand(1, 3, 8, 8), tmp_path, lambda: None)


def test_without_spandrel_it_is_said_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(BackendMissingError, match="spandrel, which reads upscalers") as caught:
        upscale_file.load(file, CPU)
    assert "pip install" in caught.value.hint


def test_pickles_and_missing_files_are_refused(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"There is no file .*none\.safetensors"):
        upscale_file.load(file.with_name("none.safetensors"), CPU)
    pickle = file.with_suffix(".pth")
    torch.save({"weight": torch.zeros(2)}, pickle)
    with pytest.raises(WeightsError, match="pickle"):
        upscale_file.load(pickle, CPU)
