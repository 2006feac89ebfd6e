"""By how much quantised weights change the starter's maps: `python bench/quantised.py`.

The Linears of its blocks are quantised, as in the files that users have. The maps are compared with those of float32,
as means over tests/scenes: distance by AbsRel, normals by their angle, albedo by the root of its mean square.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor, nn

from panoform.backend.evaluation import ground_truth
from panoform.backend.models import quantised
from panoform.backend.models.cache import ModelCache
from panoform.backend.perception.job import perceive
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.perceive import PerceiveRequest, PerceiveSettings

SCENES = Path(__file__).parents[1] / "tests" / "scenes"
MAPS = ("distance", "normal", "albedo")


class Quiet:
    """A ProgressReporter that reports nothing."""

    def progress(self, *_: object) -> None: ...
    def preview(self, *_: object) -> None: ...
    def check_cancelled(self) -> None: ...


def in_gguf(kind: gguf.GGMLQuantizationType, linear: nn.Linear) -> nn.Module:
    """Quantise in blocks of 32 weights."""
    data = gguf.quants.quantize(linear.weight.float().numpy(), kind)
    return quantised.stored(linear, kind.name, torch.from_numpy(data))


def in_float8(dtype: torch.dtype, scale_of: Callable[[Tensor], Tensor] | None, linear: nn.Linear) -> nn.Module:
    """Round to 8-bit floats; `scale_of` returns the scales of the absolute weights, (rows, 1)."""
    storage = next(name for name, value in quantised.FLOAT8.items() if value == dtype)
    weight, scale = linear.weight.float(), None
    if scale_of is not None:
        scale = scale_of(weight.abs()) / torch.finfo(dtype).max
        weight = weight / scale
    return quantised.stored(linear, storage, weight.to(dtype).view(torch.uint8), scale)


def rounded(storage: str, linear: nn.Linear) -> nn.Module:
    """Round as `--dtype int8` and `--dtype nf4` do."""
    box = nn.ModuleDict({"blocks": nn.ModuleList([linear])})
    quantised.round_linears(box, storage)
    return box.get_submodule("blocks.0")


def _tensor(weight: Tensor) -> Tensor:
    return weight.max().expand(len(weight), 1).clone()


def _row(weight: Tensor) -> Tensor:
    return weight.amax(1, keepdim=True)


E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
METHODS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "bf16 weights": lambda linear: linear.to(torch.bfloat16).float(),
    "int8, per row": partial(rounded, "I8"),
    "nf4": partial(rounded, "NF4"),
    "e4m3": partial(in_float8, E4M3, None),
    "e4m3, per tensor": partial(in_float8, E4M3, _tensor),
    "e4m3, per row": partial(in_float8, E4M3, _row),
    "e5m2": partial(in_float8, E5M2, None),
    **{kind: partial(in_gguf, gguf.GGMLQuantizationType[kind]) for kind in ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")},
}


def changes(methods: list[str], height: int, maps: tuple[str, ...], scenes: list[Path]) -> dict[str, dict[str, float]]:
    """Return method → map → mean change of the starter's maps of that height."""
    models, settings = ModelCache(), PerceiveSettings(maps=maps, height=height)
    engine = EngineSettings(device="cpu")

    def perceived(scene: Path) -> dict[str, np.ndarray]:
        panorama = ground_truth.read_scene(scene)["panorama"]
        return perceive(
            PerceiveRequest(panorama=panorama, encoding="linear", engine=engine, settings=settings), models, Quiet()
        ).maps

    plain = [perceived(scene) for scene in scenes]
    pipeline = models.latest.pipeline
    original = pipeline.transformer
    result = {}
    for method in methods:
        transformer = copy.deepcopy(original)
        for name, module in list(transformer.named_modules()):
            if "blocks." in name and isinstance(module, nn.Linear):
                transformer.set_submodule(name, METHODS[method](module))
        pipeline.transformer = transformer
        found = [change(perceived(scene), maps) for scene, maps in zip(scenes, plain, strict=True)]
        result[method] = {name: float(np.mean([each[name] for each in found])) for name in maps}
    return result


def change(maps: dict[str, np.ndarray], plain: dict[str, np.ndarray]) -> dict[str, float]:
    """Return map → its difference from `plain`."""
    found = {}
    for name, values in maps.items():
        if name == "distance":
            found[name] = float(np.abs(values / plain[name] - 1).mean())
        elif name == "normal":
            cosine = (values * plain[name]).sum(-1).clip(-1, 1)
            found[name] = float(np.degrees(np.arccos(cosine)).mean())
        else:
            found[name] = float(np.sqrt(np.square(values - plain[name]).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=128, help="height of the maps in pixels")
    height = parser.parse_args().height
    found = changes(list(METHODS), height, MAPS, ground_truth.scenes(SCENES))
    print(f"{'':18}{'distance AbsRel':>16}{'normal °':>10}{'albedo':>9}")
    for method, values in found.items():
        print(f"{method:18}{values['distance']:16.4f}{values['normal']:10.2f}{values['albedo']:9.4f}")


if __name__ == "__main__":
    main()
