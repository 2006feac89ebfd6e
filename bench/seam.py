"""Measure discontinuities of panoramas at 0°/360° and at the poles, with and without circular padding.

    python bench/seam.py [--model FLUX] [--lora FILE] [--prompt PROMPT] [--height H] [--steps N] [--seeds N]

Always measured: the eight CC0 HDRIs that ship with bpy, unchanged and after encoding and decoding with the starter's
VAE, whole and in windows; and panoramas that the starter generates around views of four of them, before and after their
poles are limited. With --model: panoramas generated from the prompt, their latents and pixels. `off` denoises without
circular padding, and decodes as if the panorama or its windows ended at the seam; `on` is Panoform's method.

Columns: the step across the seam / the median step between neighbouring columns; the share of the other steps that are
smaller; the variation of the top and of the bottom row / that of the rows around the equator. Medians. See
backend/evaluation/seam_metrics.py.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import bpy
import numpy as np
import OpenImageIO as oiio
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from panoform.backend.evaluation import seam_metrics
from panoform.backend.generation.job import generate
from panoform.backend.generation.sampler import to_array, to_tensor
from panoform.backend.geometry import projection
from panoform.backend.io import panoramas
from panoform.backend.lighting import exposure
from panoform.backend.models import lora
from panoform.backend.models.cache import ModelCache
from panoform.backend.models.flux.checkpoints import STARTER
from panoform.backend.pipelines import dit360, panorama_pipeline
from panoform.backend.pipelines.layers import circular_padding, tiling
from panoform.shared.engines import EngineSettings
from panoform.shared.jobs.generate import GenerateRequest, GenerateSettings, View


def report(name: str, panoramas: list[np.ndarray]) -> None:
    """Print one row of figures."""
    found = [seam_metrics.seam(panorama) for panorama in panoramas]
    ends = np.median([seam_metrics.poles(panorama) for panorama in panoramas], axis=0)
    step, share = np.median([one.ratio for one in found]), np.median([one.percentile for one in found])
    print(f"{name:34} {step:6.2f} {share:6.2f} {ends[0]:6.2f} {ends[1]:6.2f}", flush=True)


def hdris(height: int) -> list[np.ndarray]:
    """Return the bundled HDRIs as pictures, each rotated to four positions of the seam."""
    folder = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world"
    found = []
    for file in sorted(folder.glob("*.exr")):
        light = np.maximum(np.asarray(oiio.ImageBuf(str(file)).get_pixels(oiio.FLOAT))[..., :3], 0)
        picture, _ = exposure.expose(panoramas.resize(light, height), "linear")
        found += [np.roll(picture, turn * height // 2, axis=1) for turn in range(4)]
    return found


def in_windows(pipe: dit360.DiT360Pipeline, picture: np.ndarray, *, closed: bool) -> np.ndarray:
    """Encode and decode a picture with the pipeline's VAE in windows of a quarter of the width."""
    starts = tiling._circular_starts if closed else tiling._starts
    with (
        mock.patch.multiple(panorama_pipeline, MAX_WHOLE=0, VAE_TILE=8, VAE_OVERLAP=4),
        mock.patch.object(tiling, "_circular_starts", starts),
    ):
        return to_array(pipe.decode(pipe.encode(2 * to_tensor(picture) - 1)))


def generate_around_views(height: int, *, limited: bool) -> list[np.ndarray]:
    """Generate with the starter around a view of every other HDRI; with or without limited poles."""
    models, generated = ModelCache(), []
    settings = GenerateSettings(height=height, num_inference_steps=8, hdr=False)
    keep = nullcontext() if limited else mock.patch.object(projection, "limit_poles", lambda panorama: panorama)
    with keep:
        for panorama in hdris(128)[::8]:
            view = projection.picture_from_panorama(panorama, 90, 120, 80)
            request = GenerateRequest(picture=view, view=View(fov=80), engine=EngineSettings(), settings=settings)
            (result,) = generate(request, models, Silent())
            generated.append(result.panorama)
    return generated


class Silent:
    """A ProgressReporter that reports nothing."""

    def progress(self, *_: object) -> None: ...
    def preview(self, *_: object) -> None: ...
    def check_cancelled(self) -> None: ...


@torch.no_grad()
def encoded_and_decoded(vae: AutoencoderKL, picture: np.ndarray, *, closed: bool) -> np.ndarray:
    """Encode and decode a picture with a VAE."""
    with circular_padding.circular(vae) if closed else nullcontext():
        decoded: Tensor = vae.decode(vae.encode(to_tensor(picture) * 2 - 1).latent_dist.mode()).sample
    return to_array((decoded / 2 + 0.5).clamp(0, 1))


@torch.no_grad()
def from_prompt(arguments: argparse.Namespace) -> None:
    """Generate from the prompt, and print the figures."""
    pipe = dit360.DiT360Pipeline.from_pretrained(arguments.model, dtype=torch.bfloat16)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    with lora.applied(pipe, arguments.lora):
        prompt = f"{dit360.TRIGGER} {arguments.prompt}"
        for name, options in (("off", {"padding": 0}), ("on", {})):
            latents, pixels = [], []
            for seed in range(arguments.seeds):
                answer = pipe(
                    prompt, height=arguments.height, width=2 * arguments.height, num_inference_steps=arguments.steps,
                    generator=torch.Generator().manual_seed(seed), output_type="latent", **options,
                )  # fmt: skip
                latent = torch.as_tensor(answer.images)
                latents.append(to_array(latent))
                if name == "on":
                    decoded = pipe.decode(latent)
                else:
                    config = pipe.vae.config
                    z = (latent / config.scaling_factor + config.shift_factor).to(pipe.vae.device, pipe.vae.dtype)
                    decoded = (pipe.vae.decode(z).sample.float() / 2 + 0.5).clamp(0, 1)
                pixels.append(to_array(decoded))
            report(f"prompt, latents, {name}", latents)
            report(f"prompt, pixels, {name}", pixels)
        report("prompt, pixels, on, poles limited", [projection.limit_poles(one) for one in pixels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--lora")
    parser.add_argument("--prompt", default="a stone courtyard at dusk")
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()

    print(f"{'':34} {'step':>6} {'share':>6} {'top':>6} {'bottom':>6}")
    pictures = hdris(128)
    report("HDRIs", pictures)
    report("HDRIs, left half (with a seam)", [picture[:, :128] for picture in pictures])
    pipe = dit360.DiT360Pipeline.from_pretrained(STARTER)
    for name, closed in (("off", False), ("on", True)):
        report(
            f"HDRIs after the VAE, {name}",
            [encoded_and_decoded(pipe.vae, picture, closed=closed) for picture in pictures],
        )
        report(
            f"HDRIs after the VAE, windows, {name}",
            [in_windows(pipe, picture, closed=closed) for picture in pictures[::4]],
        )
    for name, limited in (("unlimited", False), ("poles limited", True)):
        report(f"starter, around a view, {name}", generate_around_views(256, limited=limited))
    if arguments.model:
        from_prompt(arguments)


if __name__ == "__main__":
    main()
