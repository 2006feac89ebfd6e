"""Find, check and load a base checkpoint: a diffusers folder, a single file, or a hub id.

Everything is checked by the headers of the safetensors files, in milliseconds even for 24 GB, before any weight is
read: every tensor of the architecture must exist, in its shape, and no other. diffusers would initialise missing
tensors randomly.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from ....shared import json_file
from ....shared.engines import ENGINES, MAX_GUIDANCE, MAX_STEPS, EngineSettings
from ....shared.jobs.perceive import MAX_HEIGHT
from ....shared.protocol.errors import WeightsError
from ....shared.weights import WEIGHTS
from ...jobs.progress import ProgressReporter
from ...perception import decode
from ...pipelines.omnix import OmniXPipeline
from .. import bitsandbytes_file, folders, foreign, gguf_file, hub, parts, quantised
from ..parts import Header, Part
from . import scales, single_file

STARTER = Path(__file__).parents[2] / "starter"
FLUX_ID = WEIGHTS["flux"].repository
OMNIX_ID = WEIGHTS["omnix"].repository
#: Files of a FLUX repository that perception needs; text_encoding.py downloads the text encoders if needed.
BASE_PATTERNS = ("model_index.json", "scheduler/*", "transformer/*", "vae/*")

#: The configs of FLUX.1-dev's networks, as its repository has them.
_TRANSFORMER = {
    "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True,
}  # fmt: skip
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
#: How many folders below ComfyUI's `models` a file may be.
_MAX_NESTED = 3
_FORMS = "Give a diffusers folder of FLUX.1-dev, a single .safetensors or .gguf file, or a hub id."
_AGAIN = f"FLUX.1-dev is needed. {scales.USE}"


_Height = Annotated[int, msgspec.Meta(ge=1, le=MAX_HEIGHT)]


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is used: the content of `panoform.json` beside it."""

    name: str
    trained: bool
    #: Default height of the maps in pixels.
    height: _Height
    num_inference_steps: Annotated[int, msgspec.Meta(ge=1, le=MAX_STEPS)]
    guidance_scale: Annotated[float, msgspec.Meta(ge=0, le=MAX_GUIDANCE)]
    #: What the target stream starts from.
    start: Literal["noise", "condition"]
    decode: decode.Decode = decode.Decode()
    #: Heights that it was trained at, ascending, if it works at no others. Larger maps are enlarged; a panorama is also
    #: processed at all smaller heights, and the results are merged (postprocess.py).
    heights: Annotated[tuple[_Height, ...], msgspec.Meta(max_length=16)] = ()
    #: See OmniXPipeline.
    position_rows: _Height | None = None
    #: Passes over a panorama, each rotated further about the vertical axis; their results are averaged.
    num_passes: Annotated[int, msgspec.Meta(ge=1, le=64)] = msgspec.field(default=1, name="turns")
    #: Amplitude of the noise from token to token in its pictures of distance, which a filter removes (postprocess.py).
    token_noise: float = msgspec.field(default=0.0, name="waves")
    #: False where the yaw of its normals is not reliable (OmniX).
    reliable_yaw: bool = msgspec.field(default=True, name="exact_yaw")

    def input_heights(self, height: int) -> list[int]:
        """Return the heights of the model's inputs for maps of `height`, in ascending order."""
        largest = min([height, *self.heights[-1:]])
        return [smaller for smaller in self.heights if smaller < largest] + [largest]


FLUX_CONFIG = ModelConfig(
    name="FLUX + OmniX",
    trained=True,
    height=ENGINES["flux"].qualities["standard"].height,
    num_inference_steps=ENGINES["flux"].qualities["standard"].num_inference_steps,
    guidance_scale=3.5,
    start="noise",
    reliable_yaw=False,
)


@dataclass(frozen=True)
class Checkpoint:
    """A base model on this computer, and the adapters that go with it."""

    #: Folder or file.
    path: Path
    #: Folder or hub id.
    adapters: str
    config: ModelConfig
    #: Names of the two for messages and records.
    name: str
    adapters_name: str
    #: As `EngineSettings.model`; a hub id with the downloaded revision.
    pinned_model: str | None = None

    def fingerprint(self) -> tuple[object, ...]:
        """Return names, sizes and modification times of all files, which change when a file is replaced."""
        return (str(self.path), self.adapters, parts.fingerprint(self.path), parts.fingerprint(Path(self.adapters)))


def locate(settings: EngineSettings, reporter: ProgressReporter | None) -> Checkpoint:
    """Find the model that `settings` name; download it if needed (without a `reporter`: don't download).

    Raise WeightsError.
    """
    pinned_model = settings.model
    if settings.spec.bundled:
        path = folders.expanded(settings.model) if settings.model else STARTER
        if not (path / "panoform.json").is_file():
            raise WeightsError(
                f"{path} is not a starter model: it has no panoform.json.",
                "For FLUX choose the engine flux (--engine flux).",
            )
        name = settings.model or "built in"
    else:
        local = folders.models_folder() / WEIGHTS["flux"].folder
        name = settings.model or (str(local) if local.exists() else FLUX_ID)
        path = folders.expanded(name)
        if not path.exists():
            if not hub.is_id(name):
                raise WeightsError(
                    f"There is no folder or file {name}.", "Check the path, or give a hub id as owner/name."
                )
            path = hub.fetch(name, BASE_PATTERNS, folders.models_folder() / "FLUX.1-dev", reporter)
            pinned_model = hub.pinned(name, path)
    config = _model_config(path)
    adapters = adapters_of(settings, path)
    adapters_name = "built in" if path == STARTER and not settings.adapters else adapters
    return Checkpoint(path, adapters, config, name, adapters_name, pinned_model)


def adapters_of(settings: EngineSettings, path: Path | None) -> str:
    """Return the folder or hub id of the adapters that go with the base at `path`, None for one that isn't here yet."""
    if settings.adapters is not None:
        return settings.adapters
    local = folders.models_folder() / WEIGHTS["omnix"].folder
    choices = (local,) if path is None else (path / "adapters", local)
    return next((str(folder) for folder in choices if folder.is_dir()), OMNIX_ID)


def _model_config(path: Path) -> ModelConfig:
    file = path / "panoform.json"
    if not file.is_file():
        return FLUX_CONFIG
    try:
        return json_file.read(file, ModelConfig)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} can't be read: {error}.", "Restore the model's folder.") from error


@dataclass(frozen=True)
class Base:
    """A base checkpoint, checked."""

    path: Path
    transformer: Part
    vae: Part
    scheduler: FlowMatchEulerDiscreteScheduler

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Return the memory of its networks in that precision, in bytes."""
        return self.transformer.bytes_in(dtype) + self.vae.bytes_in(dtype)

    @property
    def is_fill(self) -> bool:
        """Whether it is FLUX.1-Fill, which reads the latents of an image and the pixels of a mask besides the noise."""
        channels = 4 * self.vae.config["latent_channels"]
        pixels = 4 ** len(self.vae.config["block_out_channels"])
        config = self.transformer.config
        return config["in_channels"] == 2 * channels + pixels and config.get("out_channels") == channels


def inspect(path: Path, *, dtype: str = "auto") -> Base:
    """Check the headers of the base checkpoint at `path`. Raise WeightsError unless a complete FLUX.1-dev or Fill.

    `dtype` is the setting: with "int8" and "nf4" the transformer's blocks are rounded when they are loaded, where they
    are not quantised yet.
    """
    base = _inspect_folder(path) if path.is_dir() else _inspect_file(path)
    config, channels = base.transformer.config, base.vae.config["latent_channels"]
    if config["in_channels"] != 4 * channels and not base.is_fill:
        raise WeightsError(
            f"{path} is not FLUX.1-dev: its transformer takes {config['in_channels']} channels, not {4 * channels} "
            "(FLUX Canny and Depth, and Fill in a single file, take more).", _AGAIN,
        )  # fmt: skip
    if not config["guidance_embeds"]:
        raise WeightsError(f"{path} is not FLUX.1-dev: it has no guidance embedding (FLUX.1-schnell has none).", _AGAIN)
    for part in (base.transformer, base.vae):
        parts.check_tensors(part, _AGAIN)
    _check_numbers(base)
    return rounded(base, dtype)


def _check_numbers(base: Base) -> None:
    """Raise WeightsError for numbers in configurations that no tensor's shape shows, and that sampling fails with."""
    transformer, vae, scheduler = base.transformer.config, base.vae.config, base.scheduler.config
    axes = [axis if isinstance(axis, int) else 0 for axis in transformer["axes_dims_rope"]]
    lengths = scheduler["base_image_seq_len"], scheduler["max_image_seq_len"]
    numbers = (*lengths, scheduler["base_shift"], scheduler["max_shift"], vae["scaling_factor"], vae["shift_factor"])
    if len(axes) != 3 or sum(axes) != transformer["attention_head_dim"] or any(axis < 2 or axis % 2 for axis in axes):
        problem = f"positions (axes_dims_rope) are {transformer['axes_dims_rope']}"
    elif not all(isinstance(number, int | float) for number in numbers) or lengths[0] >= lengths[1]:
        problem = f"scheduler or VAE has the numbers {', '.join(map(str, numbers))}"
    elif vae["scaling_factor"] <= 0:
        problem = f"scaling_factor is {vae['scaling_factor']}"
    else:
        return
    raise WeightsError(f"{base.path} is not FLUX.1-dev: its {problem}.", _AGAIN)


def rounded(base: Base, dtype: str) -> Base:
    """Return the base as it is loaded with that setting: "int8" and "nf4" round the transformer's blocks."""
    return replace(base, transformer=replace(base.transformer, rounding=quantised.ROUNDINGS.get(dtype, "")))


@functools.cache
def planned() -> Base:
    """Return FLUX.1-dev as it will be on this computer: to know what it needs before it is downloaded.

    Only its sizes are true: there are no files.
    """

    def part(cls: Any, config: Mapping[str, Any]) -> Part:
        network = parts.built(cls, dict(config), Path(FLUX_ID))
        tensors = {name: ("BF16", tuple(tensor.shape)) for name, tensor in network.state_dict().items()}
        return Part(cls, dict(network.config), (Path(FLUX_ID),), "", tensors)

    scheduler = FlowMatchEulerDiscreteScheduler(**single_file.SCHEDULER)
    return Base(Path(FLUX_ID), part(FluxTransformer2DModel, _TRANSFORMER), part(AutoencoderKL, _VAE), scheduler)


def _inspect_folder(folder: Path) -> Base:
    index = parts.read_json(folder / "model_index.json", expected=_FORMS)
    if index.get("_class_name") not in ("FluxPipeline", "FluxFillPipeline"):
        raise WeightsError(f"{folder} is a {index.get('_class_name')}, not a FluxPipeline.", _AGAIN)
    transformer = parts.part_of_folder(folder / "transformer", FluxTransformer2DModel, _AGAIN)
    vae = parts.part_of_folder(folder / "vae", AutoencoderKL, _AGAIN)
    file = folder / "scheduler" / "scheduler_config.json"
    return Base(folder, transformer, vae, parts.built(FlowMatchEulerDiscreteScheduler, parts.read_json(file), file))


def _inspect_file(file: Path) -> Base:
    read = parts.read_tensors
    if file.suffix == ".gguf":
        header, read = gguf_file.read_header(file, "flux", scales.USE), gguf_file.read
    elif file.suffix == ".safetensors":
        header = parts.read_header(file)
    else:
        raise WeightsError(
            f"{file.name} is not a .safetensors or .gguf file.", "Only these are loaded; others can run code."
        )
    foreign.refuse(file, header, scales.USE)
    if bitsandbytes_file.is_in(header):
        places = dict.fromkeys(header, file)
        header = bitsandbytes_file.header(places, header, scales.USE)
        read = partial(bitsandbytes_file.read, places, header)
    prefix = single_file.TRANSFORMER_PREFIX if any(k.startswith(single_file.TRANSFORMER_PREFIX) for k in header) else ""
    inner = parts.within(header, prefix)
    config = single_file.transformer_config({key: shape for key, (_, shape) in inner.items()}, file)
    others = (*single_file.VAE_PREFIXES, "text_encoders.")
    tensors = {key: value for key, value in inner.items() if not key.startswith(others)}
    if read is parts.read_tensors:
        tensors = scales.weights(tensors, file, prefix)
    transformer = Part(FluxTransformer2DModel, config, (file,), prefix, tensors, _transformer_state, read)
    scheduler = FlowMatchEulerDiscreteScheduler(**single_file.SCHEDULER)
    return Base(file, transformer, _vae_of_file(file, header), scheduler)


def _transformer_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return single_file.transformer_state(scales.canonical(state))


def _vae_of_file(file: Path, header: Header) -> Part:
    for prefix in single_file.VAE_PREFIXES:
        if tensors := parts.within(header, prefix):
            return _bfl_vae(file, prefix, tensors)
    # ComfyUI has models/diffusion_models/… and models/vae/ae.safetensors.
    places = (file.parent, *(folder / "vae" for folder in file.parents[: 1 + _MAX_NESTED]))
    found = next((place / "ae.safetensors" for place in places if (place / "ae.safetensors").is_file()), None)
    if found is None:
        raise WeightsError(
            f"{file.name} holds no VAE, and there is no ae.safetensors beside it.",
            f"Put FLUX.1-dev's ae.safetensors into {file.parent}.",
        )
    return _bfl_vae(found, "", parts.read_header(found))


def _bfl_vae(file: Path, prefix: str, tensors: Header) -> Part:
    config = single_file.vae_config({key: shape for key, (_, shape) in tensors.items()}, file)
    return Part(AutoencoderKL, config, (file,), prefix, tensors, partial(single_file.vae_state, config=config))


# Weights


def vae_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the VAE's precision beside a transformer's: with fp16 it stays fp32, as it overflows."""
    return torch.float32 if dtype == torch.float16 else dtype


def load(base: Base, dtype: torch.dtype) -> OmniXPipeline:
    """Load the pipeline on the CPU, without text encoders and adapters."""
    pipeline = OmniXPipeline(
        scheduler=base.scheduler,
        vae=parts.load(base.vae, vae_dtype(dtype)),
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        text_encoder_2=None,  # pyright: ignore[reportArgumentType]
        tokenizer_2=None,  # pyright: ignore[reportArgumentType]
        transformer=parts.load(base.transformer, dtype),
    )
    pipeline.compute_dtype = dtype
    return pipeline
