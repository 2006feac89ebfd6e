"""Losses compared with the evaluation figures that they approximate."""

import numpy as np
import pytest
import torch

from panoform.backend.evaluation import evaluate
from panoform.backend.training import losses
from panoform.backend.training.architecture import DISTANCE_RATIO
from panoform.backend.training.dataset import FAR_M


def grey(distance: torch.Tensor) -> torch.Tensor:
    """Encode distance as grey values, (N, 1, H, W)."""
    return 1 + torch.log(distance / FAR_M) / torch.log(torch.tensor(DISTANCE_RATIO))


def test_ambiguous_distance_has_the_same_optimum_as_absrel():
    """Find the best constant for pixels of which half are at 3 m and half at 30 m, among others that are exact."""
    wanted = torch.full((1, 1, 20, 20), 5.0)
    wanted[..., :4, ::2], wanted[..., :4, 1::2] = 3.0, 30.0
    guesses = torch.linspace(2, 40, 77).tolist()
    lost, errors = [], []
    for guess in guesses:
        shown = wanted.clone()
        shown[..., :4, :] = guess
        lost.append(float(losses.map_loss("rgb_to_depth", grey(shown), grey(wanted), torch.ones_like(wanted))))
        known = {"distance": wanted[0, 0, ..., None].numpy()}
        errors.append(evaluate.measure({"distance": shown[0, 0, ..., None].numpy()}, known)["distance AbsRel"])
    assert guesses[int(np.argmin(lost))] == pytest.approx(guesses[int(np.argmin(errors))], abs=0.6)


def test_surfaces_weigh_more_than_sky_in_distance():
    wanted, solid = torch.full((1, 1, 8, 16), 4.0), torch.ones(1, 1, 8, 16)
    wanted[..., :4, :], solid[..., :4, :] = FAR_M, 0

    def loss(distance: torch.Tensor) -> float:
        return float(losses.map_loss("rgb_to_depth", grey(distance), grey(wanted), solid))

    nearer_sky, nearer_ground = wanted.clone(), wanted.clone()
    nearer_sky[..., 0, :], nearer_ground[..., -1, :] = FAR_M / 2, 2
    assert loss(wanted) == pytest.approx(0, abs=1e-5)
    assert 0 < loss(nearer_sky) < loss(nearer_ground)
