"""The transfer function on tensors compared with that on arrays."""

import numpy as np
import torch

from panoform.backend.training import colour
from panoform.shared.imaging.colour import linear_from_srgb, srgb_from_linear


def test_both_transfer_functions_are_one():
    values = np.concatenate([np.linspace(0, 0.01, 101), np.linspace(0.03, 0.05, 201), np.linspace(0, 4, 101)])
    tensor = torch.from_numpy(values)
    np.testing.assert_allclose(colour.srgb_from_linear(tensor), srgb_from_linear(values), atol=1e-12)
    np.testing.assert_allclose(colour.linear_from_srgb(tensor), linear_from_srgb(values), atol=1e-12)


def test_black_has_a_gradient():
    black = torch.zeros(1, requires_grad=True)
    colour.srgb_from_linear(black).sum().backward()
    torch.testing.assert_close(black.grad, torch.tensor([12.92]))
