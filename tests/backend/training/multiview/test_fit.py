"""Training of the model that completes views: its forward pass is the product's; it resumes, and exports what loads."""

import itertools
import time
import types

import pytest
import torch

from panoform.backend.pipelines.layers.multiview_attention import MultiViewState
from panoform.backend.texturing import completion
from panoform.backend.training.multiview import architecture, evaluate, fit, model
from panoform.backend.training.multiview.__main__ import main
from panoform.backend.training.multiview.model import Views


@pytest.mark.slow
@torch.no_grad()
def test_two_objects_are_completed_as_each_alone_is_by_what_was_saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    views = Views()
    for parameter in views.parameters():  # branches that start from zero would hide a difference
        parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
        parameter.copy_(parameter.half())
    architecture.save(tmp_path, *views.parts(), views.prompt)
    shown, seen = torch.rand(2, 6, 3, 32, 32, generator=generator), torch.rand(2, 6, 1, 32, 32, generator=generator)
    control = torch.rand(2, 6, 6, 32, 32, generator=generator)
    together = views(shown, seen.round(), control)
    loaded = completion.read(tmp_path, torch.device("cpu"))
    for number in range(2):
        alone = completion.complete(
            loaded.unet, loaded.encoder, loaded.prompt, shown[number], seen[number].round(), control[number],
            MultiViewState(),
        )  # fmt: skip
        torch.testing.assert_close(alone, together[number], atol=1e-4, rtol=1e-4)
    assert (together - shown).abs().mean() > 0.01


def test_an_untrained_model_changes_nothing():
    shown, control = torch.rand(1, 6, 3, 32, 32), torch.rand(1, 6, 6, 32, 32)
    with torch.no_grad():
        assert torch.equal(Views()(shown, torch.ones(1, 6, 1, 32, 32), control), shown)


def test_errors_are_those_of_what_is_hidden():
    truth, control = torch.zeros(1, 6, 3, 8, 8), torch.full((1, 6, 6, 8, 8), 0.5)
    control[:, :, 5, :4] = 1.0  # the upper half is the object
    seen = torch.zeros(1, 6, 1, 8, 8)
    seen[..., :4] = 1.0
    views = truth.clone()
    views[..., :4] = 1.0  # wrong where it is seen
    assert model.errors(views, truth, seen, control).item() == 0
    views[..., 4:, 4:] = 1.0  # wrong beside the object
    assert model.errors(views, truth, seen, control).item() == 0
    views[..., :4, 4:] = 0.5
    assert model.errors(views, truth, seen, control).item() == pytest.approx(0.25)


@pytest.mark.slow
def test_train_resume_export_evaluate(tmp_path, capsys, monkeypatch):
    # A clock that is a second further each time that it is read: two steps in each training.
    clock = types.SimpleNamespace(monotonic=itertools.count().__next__, strftime=time.strftime)
    monkeypatch.setattr(fit, "time", clock)
    data, folder, sheet = tmp_path / "data", tmp_path / "model", tmp_path / "sheet.png"
    train = [
        "--data", str(data), "train", "--batch", "1", "--size", "32", "--pool", "2", "--fresh", "1", "--exact",
        "--minutes", "0.1",
    ]  # fmt: skip
    main(train)
    main(train)
    assert "from step 0" in (printed := capsys.readouterr().out)
    assert printed.count("from step") == 2
    assert printed.count("from step 0") == 1
    main(["--data", str(data), "export", "--out", str(folder)])
    assert completion.read(folder, torch.device("cpu")).prompt.shape == (1, 2, 64)
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 20e6
    assert "2 objects: " in evaluate.evaluate(data, sheet, 2, 32, exact=True)
    assert sheet.stat().st_size > 0
