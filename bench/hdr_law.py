"""Fit GLOW and LAMP of `backend.lighting.inverse_tonemapping` to HDRIs, and measure them on others.

    python bench/hdr_law.py FILE.hdr …

Each HDRI is exposed and clipped in the five ways of bench/hdr.py. The fit minimises the mean of
log (1 + irradiance error / 15 %), which limits the influence of outliers, plus a weighted logarithm of the strongest
light's energy error (the 5° cap with the most energy), plus a small ridge penalty. The coefficients are printed as
Python. The irradiance error is measured three times: on the HDRIs of the fit; by tenfold cross-validation; and on the
eight HDRIs that ship with bpy, which are excluded from the fit (given files that show one of them are skipped).
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
    #: Irradiance in 256 directions, and the energy of the true strongest light, (257,): true values, and those of the
    #: clipped picture.
    true: torch.Tensor
    shown: torch.Tensor
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
        true, shown = (torch.tensor(sums @ meter.cells(panorama)) for panorama in (truth, linear))
        response, features = (
            torch.zeros(2, 257, 0),
            torch.zeros(0, len(inverse_tonemapping.GLOW) + len(inverse_tonemapping.LAMP)),
        )
        if mask.any():
            response, features = _regions(sums, clipped_regions.find(linear, mask), mask)
        found.append(Case(path, true.float(), shown.float(), response.float(), features.float()))
    return found


def _regions(sums: np.ndarray, lights: clipped_regions.Clipped, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    row, column = np.nonzero(mask)
    factor = mask.shape[0] // bench.Meter.HEIGHT
    cell = row // factor * 2 * bench.Meter.HEIGHT + column // factor
    largest = (-lights.size).argsort()[:REGIONS]
    shipped = inverse_tonemapping.GLOW, inverse_tonemapping.LAMP
    # Models that predict 1 everywhere.
    inverse_tonemapping.GLOW, inverse_tonemapping.LAMP = (
        {"intercept": (0.0, 1.0, 1.0)} for _ in range(2)
    )  # 1 everywhere
    response = []
    for part in inverse_tonemapping.lost_radiance(lights):
        energy = sparse.csc_array((part * lights.solid, (cell, lights.region)), shape=(sums.shape[1], len(lights.size)))
        response.append((energy[:, largest].T @ sums.T).T)
    inverse_tonemapping.GLOW, inverse_tonemapping.LAMP = shipped
    values = inverse_tonemapping.features(lights)
    features = np.stack(
        [values[name][largest] for name in (*inverse_tonemapping.GLOW, *inverse_tonemapping.LAMP)], axis=-1
    )
    return torch.tensor(np.stack(response)), torch.tensor(features)


class Cases:
    """Cases, stacked in tensors."""

    def __init__(self, cases: list[Case]) -> None:
        self.paths = [case.path for case in cases]
        self.true = torch.stack([case.true for case in cases])  # [N, 257]
        self.shown = torch.stack([case.shown for case in cases])
        pad = torch.nn.utils.rnn.pad_sequence
        self.response = pad([case.response.permute(2, 0, 1) for case in cases], batch_first=True)  # [N, R, 2, 257]
        self.features = pad([case.features for case in cases], batch_first=True)  # [N, R, F]
        self.known = pad([torch.ones(len(case.features)) for case in cases], batch_first=True)  # [N, R]

    def errors(self, laws: torch.Tensor, some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the relative irradiance error, mean over directions, and |log| of the strongest light's factor, (N,).

        `laws` are the coefficients, (F,).
        """
        parts = (self.features[some] * laws).split([len(inverse_tonemapping.GLOW), len(inverse_tonemapping.LAMP)], -1)
        lost = torch.stack([part.sum(-1).exp() for part in parts], -1) * self.known[some, :, None]  # [N, R, 2]
        factor = (self.shown[some] + torch.einsum("nrkd,nrk->nd", self.response[some], lost)) / self.true[some]
        return (factor[:, :-1] - 1).abs().mean(-1), factor[:, -1].log().abs()

    def fit(self, some: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Fit the coefficients to the cases of indices `some`."""
        laws = start.clone().requires_grad_(True)
        constants = [0, len(inverse_tonemapping.GLOW)]
        optimizer = torch.optim.LBFGS([laws], max_iter=80, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            ridge = laws.square().sum() - laws[constants].square().sum()
            irradiance, light = self.errors(laws, some)
            loss = torch.log1p(irradiance / 0.15).mean() + LIGHT * light.mean() + RIDGE * ridge
            loss.backward()
            return loss

        optimizer.step(loss)
        return laws.detach()


def _is_one_of(path: Path, others: list[Path]) -> bool:
    """Return whether it is the same picture, at any exposure: whether their logarithms correlate."""
    this, those = (_thumbnail(path), [_thumbnail(other) for other in others])
    return any(float((this * other).mean()) > 0.99 for other in those)


def _thumbnail(path: Path) -> np.ndarray:
    light = bench.load(path)
    factor = light.shape[0] // 64
    small = np.log(light.reshape(64, factor, 128, factor, 3).mean((1, 3, 4)) + 1e-3)
    return (small - small.mean()) / small.std()


def _report(name: str, *methods: Sequence[torch.Tensor]) -> None:
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
    seen = fitted.features[fitted.known > 0]
    low, high = seen.quantile(0.01, 0), seen.quantile(0.99, 0)
    mean, deviation = seen.clamp(low, high).mean(0), seen.clamp(low, high).std(0)
    constants = [0, len(inverse_tonemapping.GLOW)]
    mean[constants], deviation[constants] = 0, 1
    for group in (fitted, others):
        group.features = (group.features.clamp(low, high) - mean) / deviation

    start, nothing = torch.zeros(len(mean)), torch.zeros(len(mean))
    start[constants], nothing[constants] = torch.tensor([1.0, -1.0]), torch.tensor([-50.0, -50.0])
    everything, all_others = torch.arange(len(fitted.paths)), torch.arange(len(others.paths))
    laws = fitted.fit(everything, start)
    print(f"# {len(files)} HDRIs")
    _print(
        "GLOW",
        list(inverse_tonemapping.GLOW),
        *(values[: constants[1]] for values in (laws, mean, deviation, low, high)),
    )
    _print(
        "LAMP",
        list(inverse_tonemapping.LAMP),
        *(values[constants[1] :] for values in (laws, mean, deviation, low, high)),
    )
    left_out = [torch.zeros(len(everything)) for _ in range(2)]
    for fold in range(10):
        test = torch.tensor([files.index(path) % 10 == fold for path in fitted.paths])
        found = fitted.errors(fitted.fit(everything[~test], laws), everything[test])
        for errors, of_test in zip(left_out, found, strict=True):
            errors[test] = of_test
    plain = fitted.errors(nothing, everything)
    _report("HDRIs of the fit", fitted.errors(laws, everything), plain)
    _report("tenfold cross-validation", left_out, plain)
    _report("HDRIs that ship with bpy", others.errors(laws, all_others), others.errors(nothing, all_others))


def _print(name: str, features: list[str], law, mean, deviation, low, high) -> None:
    """Print coefficients as Python, for features in their original units."""
    weights = law / deviation
    weights[0] = law[0] - (weights * mean)[1:].sum()
    print(f"{name} = {{")
    for feature, *numbers in zip(features, weights.tolist(), low.tolist(), high.tolist(), strict=True):
        print(f'    "{feature}": ({", ".join(f"{number:.4g}" for number in numbers)}),')
    print("}")


if __name__ == "__main__":
    main()
