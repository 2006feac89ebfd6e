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
    target = torch.full((1, 1, 20, 20), 5.0)
    target[..., :4, ::2], target[..., :4, 1::2] = 3.0, 30.0
    guesses = torch.linspace(2, 40, 77).tolist()
    loss_values, errors = [], []
    for guess in guesses:
        predicted = target.clone()
        predicted[..., :4, :] = guess
        loss_values.append(
            float(losses.map_loss("rgb_to_depth", grey(predicted), grey(target), torch.ones_like(target)))
        )
        known = {"distance": target[0, 0, ..., None].numpy()}
        errors.append(evaluate.measure({"distance": predicted[0, 0, ..., None].numpy()}, known)["distance AbsRel"])
    assert guesses[int(np.argmin(loss_values))] == pytest.approx(guesses[int(np.argmin(errors))], abs=0.6)


def test_surfaces_weigh_more_than_sky_in_distance():
    target, solid = torch.full((1, 1, 8, 16), 4.0), torch.ones(1, 1, 8, 16)
    target[..., :4, :], solid[..., :4, :] = FAR_M, 0

    def loss(distance: torch.Tensor) -> float:
        return float(losses.map_loss("rgb_to_depth", grey(distance), grey(target), solid))

    nearer_sky, nearer_ground = target.clone(), target.clone()
    nearer_sky[..., 0, :], nearer_ground[..., -1, :] = FAR_M / 2, 2
    assert loss(target) == pytest.approx(0, abs=1e-5)
    assert 0 < loss(nearer_sky) < loss(nearer_ground)
