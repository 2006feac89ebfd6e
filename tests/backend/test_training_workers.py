"""Two processes that train together step as one that has both their batches."""

import averaging
import torch
from safetensors.torch import load_file

from panoform.backend.training import workers


def test_two_processes_are_one_with_both_batches(tmp_path):
    workers.run(2, averaging.average, tmp_path)
    linear = averaging.model()
    linear(averaging.inputs()).square().mean().backward()
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(found["weight"], linear.weight.grad)
        torch.testing.assert_close(found["bias"], linear.bias.grad)
        assert found["stop"]  # one of them wanted to


def test_one_process_needs_no_others(tmp_path):
    workers.run(1, averaging_alone, tmp_path)


def averaging_alone(place: workers.Workers, folder) -> None:
    assert place.first
    assert place.agree(stop=True)
    assert not place.agree(stop=False)
    assert place.in_turn(lambda: folder) == folder
