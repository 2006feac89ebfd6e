"""Find, check and load a base checkpoint: a diffusers folder, a single file, or a hub id.

Everything is checked by the headers of the safetensors files, in milliseconds even for 24 GB, before any weight is
read: every tensor of the architecture must exist, in its shape, and no other. diffusers would initialise missing
tensors randomly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import platformdirs
import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError, safe_open

from ....shared.engines import ENGINES, EngineSettings
from ....shared.protocol.errors import WeightsError
from ...jobs.progress import ProgressReporter
from ...perception import decode
from ...pipelines.omnix import OmniXPipeline
from .. import hub
from . import single_file

STARTER = Path(__file__).parents[2] / "starter"
FLUX_ID = "black-forest-labs/FLUX.1-dev"
OMNIX_ID = "KevinHuang/OmniX"
#: Files of a FLUX repository that perception needs; text_encoding.py downloads the text encoders if needed.
BASE_PATTERNS = ("model_index.json", "scheduler/*", "transformer/*", "vae/*")

_AGAIN = "Download it again; it is FLUX.1-dev that is needed."


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a model is used: the content of `panoform.json` beside it."""

    name: str
    trained: bool
    #: Default height of the maps in pixels.
    height: int
    num_inference_steps: int
    guidance_scale: float
    #: What the target stream starts from.
    start: Literal["noise", "condition"]
    decode: decode.Decode = decode.Decode()
    #: Heights that it was trained at, ascending, if it works at no others. Larger maps are enlarged; a panorama is also
    #: processed at all smaller heights, and the results are merged (postprocess.py).
    heights: tuple[int, ...] = ()
    #: See OmniXPipeline.
    position_rows: int | None = None
    #: Passes over a panorama, each rotated further about the vertical axis; their results are averaged.
    num_passes: int = msgspec.field(default=1, name="turns")
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
        return (str(self.path), self.adapters, _files(self.path), _files(Path(self.adapters)))


def models_folder() -> Path:
    """Return the default folder of FLUX and OmniX: PANOFORM_MODELS, or `models` in the user's data folder."""
    given = os.environ.get("PANOFORM_MODELS")
    return Path(given).expanduser() if given else platformdirs.user_data_path("panoform", appauthor=False) / "models"


def locate(settings: EngineSettings, reporter: ProgressReporter | None) -> Checkpoint:
    """Find the model that `settings` name; download it if needed (without a `reporter`: don't download).

    Raise WeightsError.
    """
    pinned_model = settings.model
    if settings.spec.bundled:
        path = Path(settings.model).expanduser() if settings.model else STARTER
        if not (path / "panoform.json").is_file():
            raise WeightsError(
                f"{path} is not a starter model: it has no panoform.json.",
                "For FLUX choose the engine flux (--engine flux).",
            )
        name = settings.model or "built in"
    else:
        name = settings.model or (str(local) if (local := models_folder() / "FLUX.1-dev").exists() else FLUX_ID)
        path = Path(name).expanduser()
        if not path.exists():
            if not hub.is_id(name):
                raise WeightsError(
                    f"There is no folder or file {name}.", "Check the path, or give a hub id as owner/name."
                )
            path = hub.fetch(name, BASE_PATTERNS, models_folder() / "FLUX.1-dev", reporter)
            pinned_model = hub.pinned(name, path)
    config = _model_config(path)
    adapters = settings.adapters
    if adapters is None:
        beside, local = path / "adapters", models_folder() / "OmniX"
        adapters = next((str(folder) for folder in (beside, local) if folder.is_dir()), OMNIX_ID)
    adapters_name = "built in" if path == STARTER and not settings.adapters else adapters
    return Checkpoint(path, adapters, config, name, adapters_name, pinned_model)


def _model_config(path: Path) -> ModelConfig:
    file = path / "panoform.json"
    if not file.is_file():
        return FLUX_CONFIG
    try:
        return msgspec.json.decode(file.read_bytes(), type=ModelConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} can't be read: {error}.", "Restore the model's folder.") from error


def _files(path: Path) -> tuple[tuple[str, int, int], ...]:
    """Return (name, bytes, modification time) of the file, or of each weight file in the folder."""
    files = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    return tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


# Headers

Header = dict[str, tuple[str, tuple[int, ...]]]
Network = type[FluxTransformer2DModel] | type[AutoencoderKL]


def _built(cls: Any, config: dict[str, Any], file: Path) -> Any:
    """Build a diffusers object from the `config` in `file`; a network has no weights. Raise WeightsError."""
    try:
        with init_empty_weights():
            return cls.from_config(config)
    # diffusers does not check configs: an invalid one can raise anything.
    except Exception as error:
        raise WeightsError(f"No {cls.__name__} can be made from {file}: {error}.", _AGAIN) from error


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint: its config, its files, and the tensors by their headers."""

    cls: Network
    config: dict[str, Any]
    files: tuple[Path, ...]
    #: Prefix of the tensor names in the files.
    prefix: str
    #: Name → (safetensors dtype, shape), prefix removed.
    tensors: Header
    #: Converts their naming to that of the class; None where no conversion is needed.
    convert: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None

    @property
    def place(self) -> Path:
        """Return the file, or the folder of the shards."""
        return self.files[0] if len(self.files) == 1 else self.files[0].parent

    @property
    def parameters(self) -> int:
        return sum(torch.Size(shape).numel() for _, shape in self.tensors.values())

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @property
    def dtypes(self) -> list[str]:
        return sorted({dtype for dtype, _ in self.tensors.values()})


@dataclass(frozen=True)
class Base:
    """A base checkpoint, checked."""

    path: Path
    transformer: Part
    vae: Part
    scheduler: FlowMatchEulerDiscreteScheduler

    def bytes_in(self, dtype: torch.dtype) -> int:
        """Return the memory of its networks in that precision, in bytes."""
        return (self.transformer.parameters + self.vae.parameters) * dtype.itemsize

    @property
    def is_fill(self) -> bool:
        """Whether it is FLUX.1-Fill, which reads the latents of an image and the pixels of a mask besides the noise."""
        channels = 4 * self.vae.config["latent_channels"]
        pixels = 4 ** len(self.vae.config["block_out_channels"])
        config = self.transformer.config
        return config["in_channels"] == 2 * channels + pixels and config.get("out_channels") == channels


def inspect(path: Path) -> Base:
    """Check the headers of the base checkpoint at `path`. Raise WeightsError unless a complete FLUX.1-dev or Fill."""
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
        _check_tensors(part)
    return base


def _inspect_folder(folder: Path) -> Base:
    index = _json(folder / "model_index.json")
    if index.get("_class_name") not in ("FluxPipeline", "FluxFillPipeline"):
        raise WeightsError(f"{folder} is a {index.get('_class_name')}, not a FluxPipeline.", _AGAIN)
    parts: list[Part] = []
    for name, cls in (("transformer", FluxTransformer2DModel), ("vae", AutoencoderKL)):
        file = folder / name / "config.json"
        config = _json(file)
        if config.get("_class_name") != cls.__name__:
            raise WeightsError(f"{folder / name} is a {config.get('_class_name')}, not a {cls.__name__}.", _AGAIN)
        config = dict(_built(cls, config, file).config)
        files = _weight_files(folder / name)
        tensors = {key: value for file in files for key, value in read_header(file).items()}
        parts.append(Part(cls, config, files, "", tensors))
    file = folder / "scheduler" / "scheduler_config.json"
    return Base(folder, parts[0], parts[1], _built(FlowMatchEulerDiscreteScheduler, _json(file), file))


class _Shards(msgspec.Struct):
    weight_map: dict[str, str]


def _weight_files(folder: Path) -> tuple[Path, ...]:
    stem = "diffusion_pytorch_model.safetensors"
    if (folder / f"{stem}.index.json").is_file():
        names = sorted(set(_json(folder / f"{stem}.index.json", _Shards).weight_map.values()))
    else:
        names = [stem]
    for name in names:
        if not (folder / name).is_file():
            raise WeightsError(
                f"{folder / name} is missing.", "Download the rest of the checkpoint (safetensors only)."
            )
    return tuple(folder / name for name in names)


def _inspect_file(file: Path) -> Base:
    if file.suffix != ".safetensors":
        raise WeightsError(
            f"{file.name} is not a .safetensors file.", "Only safetensors files are loaded; others can run code."
        )
    header = read_header(file)
    prefix = single_file.TRANSFORMER_PREFIX if any(k.startswith(single_file.TRANSFORMER_PREFIX) for k in header) else ""
    inner = _within(header, prefix)
    config = single_file.transformer_config({key: shape for key, (_, shape) in inner.items()}, file)
    names = tuple(key for key in inner if not key.startswith((*single_file.VAE_PREFIXES, "text_encoders.")))
    tensors = {key: inner[key] for key in names}
    transformer = Part(FluxTransformer2DModel, config, (file,), prefix, tensors, single_file.transformer_state)
    scheduler = FlowMatchEulerDiscreteScheduler(**single_file.SCHEDULER)
    return Base(file, transformer, _vae_of_file(file, header), scheduler)


def _vae_of_file(file: Path, header: Header) -> Part:
    for prefix in single_file.VAE_PREFIXES:
        if tensors := _within(header, prefix):
            return _bfl_vae(file, prefix, tensors)
    beside = file.with_name("ae.safetensors")
    if not beside.is_file():
        raise WeightsError(
            f"{file.name} holds no VAE, and there is no ae.safetensors beside it.",
            f"Put FLUX.1-dev's ae.safetensors into {file.parent}.",
        )
    return _bfl_vae(beside, "", read_header(beside))


def _bfl_vae(file: Path, prefix: str, tensors: Header) -> Part:
    config = single_file.vae_config({key: shape for key, (_, shape) in tensors.items()}, file)
    return Part(AutoencoderKL, config, (file,), prefix, tensors, partial(single_file.vae_state, config=config))


def _within(header: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in header.items() if key.startswith(prefix)}


def read_header(file: Path) -> Header:
    """Read a header: tensor name → (safetensors dtype, shape). Raise WeightsError for a damaged or incomplete file."""
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {key: tensors.get_slice(key) for key in tensors.keys()}  # noqa: SIM118
            return {key: (found.get_dtype(), tuple(found.get_shape())) for key, found in slices.items()}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged or incomplete: {error}.", "Download it again.") from error


def _check_tensors(part: Part) -> None:
    network = _built(part.cls, part.config, part.place)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: shape for key, (_, shape) in part.tensors.items()}
    if part.convert:
        converted = part.convert({key: torch.empty(shape, device="meta") for key, shape in found.items()})
        found = {key: tuple(tensor.shape) for key, tensor in converted.items()}
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    problems = [
        f"{len(keys)} tensors {what} ({', '.join(keys[:3])}{' …' if len(keys) > 3 else ''})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if keys
    ]
    if problems:
        raise WeightsError(f"{part.place} does not fit {part.cls.__name__}: {'; '.join(problems)}.", _AGAIN)


def _json(file: Path, kind: Any = dict[str, Any]) -> Any:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        raise WeightsError(
            f"{file} is missing.", "Give a diffusers folder of FLUX.1-dev, a single .safetensors file, or a hub id."
        ) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{file} can't be read: {error}.", "Download it again.") from error


# Weights


def load(base: Base, dtype: torch.dtype) -> OmniXPipeline:
    """Load the pipeline on the CPU, without text encoders and adapters. With fp16 the VAE stays fp32: it overflows."""
    vae_dtype = torch.float32 if dtype == torch.float16 else dtype
    return OmniXPipeline(
        scheduler=base.scheduler,
        vae=_load(base.vae, vae_dtype),
        text_encoder=None,  # pyright: ignore[reportArgumentType]
        tokenizer=None,  # pyright: ignore[reportArgumentType]
        text_encoder_2=None,  # pyright: ignore[reportArgumentType]
        tokenizer_2=None,  # pyright: ignore[reportArgumentType]
        transformer=_load(base.transformer, dtype),
    )


def _load(part: Part, dtype: torch.dtype) -> Any:
    state: dict[str, torch.Tensor] = {}
    for file in part.files:
        with safe_open(file, framework="pt") as tensors:
            names = {key.removeprefix(part.prefix): key for key in tensors.keys() if key.startswith(part.prefix)}  # noqa: SIM118
            state |= {name: tensors.get_tensor(key).to(dtype) for name, key in names.items() if name in part.tensors}
    if part.convert:
        state = part.convert(state)
    model = _built(part.cls, part.config, part.place)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)
