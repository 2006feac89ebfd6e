"""State common to all panoramas of a job: the model, the resolved settings, the progress, the recipe."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import torch

from ...shared.engines import Capability, EngineSettings
from ...shared.jobs.generate import MIN_HEIGHT, MULTIPLE, GenerateSettings, Recipe, rounded
from ...shared.protocol.errors import WeightsError
from ..jobs.progress import ProgressReporter, Stage, StagedProgress
from ..models import device, folders, hub, lora, records
from ..models.cache import ModelCache
from ..models.flux import checkpoints, loader, text_encoding
from ..models.flux.loader import FluxModel
from ..pipelines import dit360, omnix
from . import sampler
from .sampler import Embeds, Sampler

STEPS = 28
#: Height that each method was trained at, in pixels; a higher panorama is generated at that, enlarged, then refined.
NATIVE = {"dit360": 1024, "lora": 1024, "omnix": 512}
TRIGGERS = {"dit360": dit360.TRIGGER, "lora": "", "omnix": omnix.TRIGGER}
GUIDANCE = {"dit360": 2.8, "lora": 3.5, "omnix": 3.5}
FILL_GUIDANCE = 30.0
NEEDS_FLUX = "Prompts and edits need FLUX.1-dev; the built-in starter only completes a picture."
GET_FLUX = (
    f"Accept its licence at https://huggingface.co/{checkpoints.FLUX_ID}, set HF_TOKEN or run `hf auth login`, and "
    "choose the engine flux (--engine flux): it is downloaded then. Or give a local copy (--model)."
)
#: Texts whose embeddings are kept in memory, 4 MB each.
_MAX_KNOWN = 32


class Session:
    """One generating job with its model in memory; everything after construction only samples."""

    def __init__(
        self, models: ModelCache, engine: EngineSettings, settings: GenerateSettings, reporter: ProgressReporter
    ) -> None:
        """Load what the settings need.

        Raise SettingError, WeightsError or AdapterError if they are invalid or missing, and Cancelled from `reporter`.
        """
        self._reporter = reporter
        source = loader.find(engine, reporter)
        config = source.checkpoint.config
        if not config.trained:
            raise WeightsError("The built-in starter is not trained yet, so it can't complete a picture.", GET_FLUX)
        method = settings.method
        self.refines = engine.spec.can("refine")
        self.native_height = config.input_heights(config.height)[-1] if config.heights else NATIVE[method]
        self.notices: list[str] = []
        self.settings = self._resolved(settings, engine)
        # Found or downloaded before the model is loaded.
        self._lora = None if method == "omnix" else find_lora(self.settings.lora, reporter)
        if self._lora and self.settings.lora:
            self.settings = msgspec.structs.replace(self.settings, lora=hub.pinned(self.settings.lora, self._lora))
        self._tasks = ["image_to_pano"] if method == "omnix" else []
        self.model: FluxModel = loader.load(models, source, self._tasks, reporter)
        loader.make_room(models, self.model, *self._denoised)
        if settings.guidance_scale is None:
            self.settings = msgspec.structs.replace(self.settings, guidance_scale=self._default_guidance(method))

    def _resolved(self, settings: GenerateSettings, engine: EngineSettings) -> GenerateSettings:
        """Return the settings with all defaults resolved except guidance, which depends on the model."""
        height, native = rounded(settings.height), self.native_height
        if height != settings.height:
            self.notices.append(f"The height {settings.height} was rounded to {height}, a multiple of {MULTIPLE}.")
        if not self.refines and height > native:
            self.notices.append(
                f"{engine.spec.short_label} generates {2 * native} × {native}; the panorama was enlarged."
            )
        return msgspec.structs.replace(
            settings,
            height=height,
            prompt=settings.prompt.strip(),
            negative_prompt=settings.negative_prompt.strip(),
            trigger=TRIGGERS[settings.method] if settings.trigger is None else settings.trigger.strip(),
            lora=dit360.ADAPTER if settings.lora is None and settings.method == "dit360" else settings.lora,
            num_inference_steps=settings.num_inference_steps or STEPS,
        )

    def _default_guidance(self, method: str) -> float:
        if not self.model.source.settings.spec.can("text_to_panorama"):
            return self.model.config.guidance_scale
        return FILL_GUIDANCE if dit360.is_fill(self.model.pipeline) else GUIDANCE[method]

    @property
    def base_height(self) -> int:
        """Height at which panoramas are generated before they are enlarged."""
        return min(self.settings.height, self.native_height)

    @property
    def _denoised(self) -> tuple[int, list[int], int]:
        """What is denoised, as `loader.needs` takes it: height, rows of each batch, and most of the height at once."""
        # With OmniX the picture is a stream of its own, and with a negative prompt there are two panoramas.
        rows = 2 if self._tasks or self.settings.true_cfg_scale > 1 else 1
        return self.settings.height, [rows], self.native_height

    @property
    def prompt(self) -> str:
        """The prompt with its trigger."""
        return f"{self.settings.trigger} {self.settings.prompt}".strip()

    def embeds(self, texts: list[str]) -> list[Embeds]:
        """Return the embeddings of each text, with those of the negative prompt if true guidance is used."""
        negative = [self.settings.negative_prompt] if self.settings.true_cfg_scale > 1 else []
        needed, cache = [*texts, *negative], self.model.prompt_cache
        if len(cache) > _MAX_KNOWN:
            own = self.model.perception_prompt
            cache.clear()
            cache[omnix.TRIGGER] = own
        if missing := [text for text in dict.fromkeys(needed) if text not in cache]:
            encoded = text_encoding.encode(self.model.source.checkpoint, missing, self._reporter)
            cache |= zip(missing, encoded, strict=True)
        where, dtype = self.model.source.device, self.model.dtype
        found = [{name: value.to(where, dtype) for name, value in cache[text].items()} for text in needed]
        extra = {f"negative_{name}": value for name, value in found[-1].items()} if negative else {}
        return [{**each, **extra} for each in found[: len(texts)]]

    @contextmanager
    def lora_applied(self) -> Iterator[None]:
        """Apply the LoRA of the settings; out-of-memory errors name a size that fits."""
        height = self.settings.height
        where = self.model.source.device
        hint = partial(loader.advice, self.model, *self._denoised, smallest=MIN_HEIGHT)
        try:
            with (
                device.translate_out_of_memory(f"A panorama of {2 * height} × {height}", where, hint),
                lora.applied(self.model.pipeline, self._lora),
            ):
                yield
        finally:
            self.model.pipeline.maybe_free_model_hooks()

    def samplers(self, *, picture_first: bool = False, strength: float = 1.0) -> Iterator[tuple[int, Sampler]]:
        """Yield (seed, sampler) for each seed; each must be finished before the next.

        `picture_first`: generate a perspective picture from the prompt before each panorama. `strength`: of an edit.
        """
        settings, steps = self.settings, self.settings.num_inference_steps or STEPS
        stages: list[Stage] = []
        for i in range(len(settings.seeds)):
            label = f"Panorama {i + 1} of {len(settings.seeds)}" if len(settings.seeds) > 1 else "Panorama"
            if picture_first:
                stages.append(Stage("Picture", steps, sampler.PICTURE_SIDE**2))
            stages.append(Stage(label, _steps(steps, strength), 2 * self.base_height**2))
            if settings.height > self.base_height and self.refines:
                stages.append(
                    Stage(f"Refining {label}", _steps(steps, sampler.REFINE_STRENGTH), 3 * settings.height**2)
                )
        progress = StagedProgress(self._reporter, stages)
        for seed in settings.seeds:
            generator = torch.Generator().manual_seed(seed)
            yield seed, Sampler(self.model.pipeline, settings, generator, progress, self.refines)

    def recipe(self, seed: int, began: float, kind: Literal["words", "picture", "edit"], source: str) -> Recipe:
        """Return the recipe of the panorama of `seed`, without the fields that belong to one kind of job."""
        loaded, own_lora = self.model.source, self.settings.lora
        adapters = loaded.checkpoint.adapters_name if self._tasks else ""
        return Recipe(
            panoform=metadata.version("panoform"),
            kind=kind,
            engine=records.engine(loader.pinned(loaded, self._tasks)),
            model=records.name(loaded.checkpoint.name, loaded.settings),
            adapters=records.name(adapters, loaded.settings),
            weights=records.digests(loaded.checkpoint.name, adapters, own_lora),
            settings=msgspec.structs.replace(
                self.settings, seeds=(seed,), lora=own_lora and records.name(own_lora, loaded.settings)
            ),
            source=source,
            size=(self.settings.height, 2 * self.settings.height),
            notices=tuple(self.notices),
            device=device.name(loaded.device),
            dtype=device.dtype_name(loaded.settings, loaded.dtype),
            seconds=round(time.monotonic() - began, 3),
            versions={"python": platform.python_version()}
            | {
                package: metadata.version(package)
                for package in ("torch", "diffusers", "transformers", "peft", "numpy")
            },
        )


def check_capability(engine: EngineSettings, capability: Capability) -> None:
    """Raise WeightsError if the engine lacks this capability, with a hint on how to get FLUX."""
    if not engine.spec.can(capability):
        raise WeightsError(NEEDS_FLUX, GET_FLUX)


def find_lora(name: str | None, reporter: ProgressReporter | None) -> Path | None:
    """Find the LoRA's file or folder; download it from the hub if needed (without a `reporter`: don't download).

    Raise AdapterError if there is none.
    """
    if not name:
        return None
    own = hub.is_id(name) and hub.split_id(name)[0] == dit360.ADAPTER
    local = folders.models_folder() / "DiT360"
    if name == dit360.ADAPTER and local.exists():
        return local
    return lora.find(name, reporter, [dit360.ADAPTER_FILE] if own else ["*.safetensors"], local)


def _steps(steps: int, strength: float) -> int:
    """Return the number of steps of an edit of that strength, as in DiT360Pipeline."""
    return steps - min(steps - 1, int(steps * (1 - strength)))
