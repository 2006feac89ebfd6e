"""Fit GLOW and LAMP of `backend.lighting.inverse_tonemapping` to HDRIs, and measure them on others.

    python bench/hdr_fit.py FILE.hdr …

Each HDRI is exposed and clipped in the five ways of bench/hdr.py. The fit minimises the mean of
log (1 + irradiance error / 15 %), which limits the influence of outliers, plus a weighted logarithm of the strongest
light's energy error (the 5° cap with the most energy), plus a small ridge penalty. The coefficients are printed as
Python. The irradiance error is measured three times: on the HDRIs of the fit; by tenfold cross-validation; and on the
eight HDRIs that ship with bpy, which are excluded from the fit (files that show one of them are skipped).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import hdr as bench
import numpy as np
import torch
from scipy import sparse

from panoform.backend.lighting import clipped_regions, inverse_tonemapping
from panoform.shared.imaging.colour import linear_from_srgb

HEIGHT = 512
RIDGE = 0.003
#: Weight of the strongest light's error.
LIGHT = 0.15
#: Number of clipped regions considered, the largest first; further ones contribute little.
REGIONS = 16


class Case(NamedTuple):
    """One exposure of one HDRI."""

    path: Path
    #: Irradiance in 256 directions, then the energy of the strongest light, (257,): of the HDRI, and of the clipped
    #: picture.
    true: torch.Tensor
    clipped: torch.Tensor
    #: Contribution of each region to these with a glow of radiance 1, and with a lamp of irradiance 1, (2, 257, R).
    response: torch.Tensor
    #: Features of the regions, GLOW's and then LAMP's, (R, F).
    features: torch.Tensor


def cases(meter: bench.Meter, path: Path) -> list[Case]:
    """Return the cases of one HDRI, one per exposure."""
    light = bench.load(path)
    factor = light.shape[0] // HEIGHT
    light = light.reshape(HEIGHT, factor, 2 * HEIGHT, factor, 3).mean((1, 3))
    found = []
    for exposure in bench.EXPOSURES:
        truth, picture = bench.expose(light, exposure)
        linear = linear_from_srgb(picture.astype(np.float64))
        mask = (picture >= np.float32(inverse_tonemapping.THRESHOLD)).all(-1)
        ray, _ = meter.strongest(meter.cells(truth))
        sums = np.vstack([meter.cosine, meter.rays @ ray > np.cos(bench.CAP_RAD)])  # [257, cells]
        true, clipped = (torch.tensor(sums @ meter.cells(panorama)) for panorama in (truth, linear))
        response, features = (
            torch.zeros(2, 257, 0),
            torch.zeros(0, len(inverse_tonemapping.GLOW) + len(inverse_tonemapping.LAMP)),
        )
        if mask.any():
            response, features = _regions(sums, clipped_regions.find(linear, mask), mask)
        found.append(Case(path, true.float(), clipped.float(), response.float(), features.float()))
    return found


def _regions(sums: np.ndarray, lights: clipped_regions.Clipped, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `response` and `features` of the largest clipped regions (see Case)."""
    row, column = np.nonzero(mask)
    factor = mask.shape[0] // bench.Meter.HEIGHT
    cell = row // factor * 2 * bench.Meter.HEIGHT + column // factor
    largest = (-lights.size).argsort()[:REGIONS]
    current = inverse_tonemapping.GLOW, inverse_tonemapping.LAMP
    # Models that predict 1 everywhere.
    inverse_tonemapping.GLOW, inverse_tonemapping.LAMP = ({"intercept": (0.0, 1.0, 1.0)} for _ in range(2))
    response = []
    for part in inverse_tonemapping.lost_radiance(lights):
        energy = sparse.csc_array((part * lights.solid, (cell, lights.region)), shape=(sums.shape[1], len(lights.size)))
        response.append((energy[:, largest].T @ sums.T).T)
    inverse_tonemapping.GLOW, inverse_tonemapping.LAMP = current
    values = inverse_tonemapping.features(lights)
    features = np.stack(
        [values[name][largest] for name in (*inverse_tonemapping.GLOW, *inverse_tonemapping.LAMP)], axis=-1
    )
    return torch.tensor(np.stack(response)), torch.tensor(features)


class Cases:
    """N cases, stacked in tensors and padded to R regions."""

    def __init__(self, cases: list[Case]) -> None:
        self.paths = [case.path for case in cases]
        self.true = torch.stack([case.true for case in cases])  # [N, 257]
        self.clipped = torch.stack([case.clipped for case in cases])
        pad = torch.nn.utils.rnn.pad_sequence
        self.response = pad([case.response.permute(2, 0, 1) for case in cases], batch_first=True)  # [N, R, 2, 257]
        self.features = pad([case.features for case in cases], batch_first=True)  # [N, R, F]
        self.valid = pad([torch.ones(len(case.features)) for case in cases], batch_first=True)  # [N, R]

    def errors(self, coefficients: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the relative irradiance error, mean over directions, and |log| of the strongest light's factor, (N,).

        `coefficients` is (F,); `indices` selects the cases.
        """
        parts = (self.features[indices] * coefficients).split(
            [len(inverse_tonemapping.GLOW), len(inverse_tonemapping.LAMP)], -1
        )
        lost = torch.stack([part.sum(-1).exp() for part in parts], -1) * self.valid[indices, :, None]  # [N, R, 2]
        factor = (self.clipped[indices] + torch.einsum("nrkd,nrk->nd", self.response[indices], lost)) / self.true[
            indices
        ]
        return (factor[:, :-1] - 1).abs().mean(-1), factor[:, -1].log().abs()

    def fit(self, indices: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Fit the coefficients, (F,), to the cases selected by `indices`, beginning with `start`."""
        coefficients = start.clone().requires_grad_(True)
        constants = [0, len(inverse_tonemapping.GLOW)]
        optimizer = torch.optim.LBFGS([coefficients], max_iter=80, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            ridge = coefficients.square().sum() - coefficients[constants].square().sum()
            irradiance, light = self.errors(coefficients, indices)
            loss = torch.log1p(irradiance / 0.15).mean() + LIGHT * light.mean() + RIDGE * ridge
            loss.backward()
            return loss

        optimizer.step(loss)
        return coefficients.detach()


def _is_one_of(path: Path, others: list[Path]) -> bool:
    """Return whether `path` shows the same picture as one of `others`: whether their log luminances correlate."""
    thumbnail = _thumbnail(path)
    return any(float((thumbnail * _thumbnail(other)).mean()) > 0.99 for other in others)


def _thumbnail(path: Path) -> np.ndarray:
    """Return the normalised log luminance of a panorama, (64, 128)."""
    light = bench.load(path)
    factor = light.shape[0] // 64
    small = np.log(light.reshape(64, factor, 128, factor, 3).mean((1, 3, 4)) + 1e-3)
    return (small - small.mean()) / small.std()


def _report(name: str, *methods: Sequence[torch.Tensor]) -> None:
    """Print the errors of the fitted model and of the plain picture, as returned by `Cases.errors`."""
    figures = (
        f"{100 * error.median():.0f} %, mean {100 * error.mean():.0f} %, light {light.median().exp():.1f}×"
        for error, light in methods
    )
    print(f"# {name:32} median " + "   plain ".join(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="HDR or EXR panoramas, their height a multiple of 256")
    bundled = bench.bundled()
    files = [path for path in parser.parse_args().files if not _is_one_of(path, bundled)]
    meter = bench.Meter()
    fitted = Cases([case for path in files for case in cases(meter, path)])
    others = Cases([case for path in bundled for case in cases(meter, path)])
    values_in_fit = fitted.features[fitted.valid > 0]
    low, high = values_in_fit.quantile(0.01, 0), values_in_fit.quantile(0.99, 0)
    mean, deviation = values_in_fit.clamp(low, high).mean(0), values_in_fit.clamp(low, high).std(0)
    constants = [0, len(inverse_tonemapping.GLOW)]
    mean[constants], deviation[constants] = 0, 1
    for group in (fitted, others):
        group.features = (group.features.clamp(low, high) - mean) / deviation

    start, no_light = torch.zeros(len(mean)), torch.zeros(len(mean))
    start[constants], no_light[constants] = torch.tensor([1.0, -1.0]), torch.tensor([-50.0, -50.0])
    everything, all_others = torch.arange(len(fitted.paths)), torch.arange(len(others.paths))
    coefficients = fitted.fit(everything, start)
    print(f"# {len(files)} HDRIs")
    _print(
        "GLOW",
        list(inverse_tonemapping.GLOW),
        *(values[: constants[1]] for values in (coefficients, mean, deviation, low, high)),
    )
    _print(
        "LAMP",
        list(inverse_tonemapping.LAMP),
        *(values[constants[1] :] for values in (coefficients, mean, deviation, low, high)),
    )
    cross_validated = [torch.zeros(len(everything)) for _ in range(2)]
    for fold in range(10):
        test = torch.tensor([files.index(path) % 10 == fold for path in fitted.paths])
        found = fitted.errors(fitted.fit(everything[~test], coefficients), everything[test])
        for errors, fold_errors in zip(cross_validated, found, strict=True):
            errors[test] = fold_errors
    plain = fitted.errors(no_light, everything)
    _report("HDRIs of the fit", fitted.errors(coefficients, everything), plain)
    _report("tenfold cross-validation", cross_validated, plain)
    _report("HDRIs that ship with bpy", others.errors(coefficients, all_others), others.errors(no_light, all_others))


def _print(name: str, features: list[str], coefficients, mean, deviation, low, high) -> None:
    """Print coefficients as Python, for features in their original units."""
    weights = coefficients / deviation
    weights[0] = coefficients[0] - (weights * mean)[1:].sum()
    print(f"{name} = {{")
    for feature, *numbers in zip(features, weights.tolist(), low.tolist(), high.tolist(), strict=True):
        print(f'    "{feature}": ({", ".join(f"{number:.4g}" for number in numbers)}),')
    print("}")


if __name__ == "__main__":
    main()
