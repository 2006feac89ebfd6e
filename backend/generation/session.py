"""What all panoramas of one generating job share: model, settings, progress, record."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch

from ...shared.engines import EngineSettings
from ...shared.jobs.generate import MIN_HEIGHT, MULTIPLE, GenerateSettings, rounded
from ...shared.protocol.errors import AdapterError
from ...shared.protocol.messages import Recipe
from ..io import panoramas
from ..jobs.pace import Pace, Stage
from ..jobs.watch import Watch
from ..models import device, hub, lora
from ..models.flux import checkpoints, text_encoding
from ..models.loaded import Loaded, Loader
from ..pipelines import dit360, omnix
from . import sampler
from .sampler import Drawing, Embeds

STEPS = 28
#: Height that each way was trained at, in pixels; what is higher is drawn at that, enlarged, and refined in windows.
NATIVE = {"dit360": 1024, "lora": 1024, "omnix": 512}
TRIGGERS = {"dit360": dit360.TRIGGER, "lora": "", "omnix": omnix.TRIGGER}
GUIDANCE = {"dit360": 2.8, "lora": 3.5, "omnix": 3.5}
FILL_GUIDANCE = 30.0
#: Texts whose embeddings are kept in memory, 4 MB each.
_MAX_KNOWN = 32
#: How many of its widest pictures the VAE's decoder has in memory at once: FLUX's at 512 × 256 and 768 × 384, on a CPU.
_WIDEST_PICTURES = 5


class Studio:
    """Loads what the settings need. Raises SettingError, WeightsError, AdapterError, and Cancelled out of `watch`."""

    def __init__(self, loader: Loader, engine: EngineSettings, settings: GenerateSettings, watch: Watch) -> None:
        self.where = device.choose(engine)
        checkpoint = checkpoints.locate(engine, watch)
        self.config = checkpoint.config
        self.watch = watch
        method, starter = settings.method, engine.engine == "starter"
        self.native = self.config.shown(self.config.height)[-1] if starter else NATIVE[method]
        self.notices = []
        height = rounded(settings.height)
        if height != settings.height:
            self.notices.append(f"The height {settings.height} was rounded to {height}, a multiple of {MULTIPLE}.")
        if starter and height > self.native:
            self.notices.append(f"The starter draws {2 * self.native} × {self.native}; that was enlarged.")
        self.settings = msgspec.structs.replace(
            settings,
            height=height,
            prompt=settings.prompt.strip(),
            negative_prompt=settings.negative_prompt.strip(),
            trigger=TRIGGERS[method] if settings.trigger is None else settings.trigger.strip(),
            lora=dit360.ADAPTER if settings.lora is None and method == "dit360" else settings.lora,
            num_inference_steps=settings.num_inference_steps or STEPS,
        )
        # Found, or fetched, before gigabytes are read.
        self._lora = None if method == "omnix" else _find_lora(self.settings.lora, watch)
        self.loaded = loader.load(engine, checkpoint, self.where, ["image_to_pano"] if method == "omnix" else [], watch)
        self.refines = not starter
        if settings.guidance_scale is None:
            fill = dit360.is_fill(self.loaded.pipeline)
            guidance = self.config.guidance_scale if starter else FILL_GUIDANCE if fill else GUIDANCE[method]
            self.settings = msgspec.structs.replace(self.settings, guidance_scale=guidance)

    @property
    def base_height(self) -> int:
        return min(self.settings.height, self.native)

    def embeds(self, texts: list[str]) -> list[Embeds]:
        """The embeddings of each text, and of the negative prompt with it where that counts."""
        negative = [self.settings.negative_prompt] if self.settings.true_cfg_scale > 1 else []
        wanted, known = [*texts, *negative], self.loaded.words
        if len(known) > _MAX_KNOWN:
            known.clear()
        known.setdefault(omnix.TRIGGER, self.loaded.prompt)
        if missing := [text for text in dict.fromkeys(wanted) if text not in known]:
            known |= zip(missing, text_encoding.encode(self.loaded.checkpoint, missing, self.watch), strict=True)
        dtype = self.loaded.dtype
        found = [{name: value.to(self.where, dtype) for name, value in known[text].items()} for text in wanted]
        extra = {f"negative_{name}": value for name, value in found[-1].items()} if negative else {}
        return [{**each, **extra} for each in found[: len(texts)]]

    @contextmanager
    def lora(self) -> Iterator[None]:
        try:
            with self._memory(), lora.applied(self.loaded.pipeline, self._lora):
                yield
        finally:
            self.loaded.pipeline.maybe_free_model_hooks()

    def drawings(self, *, square_first: bool = False, strength: float = 1.0) -> Iterator[tuple[int, Drawing]]:
        """A drawing for each seed, to be done before the next is asked for."""
        settings, steps = self.settings, self.settings.num_inference_steps or STEPS
        stages: list[Stage] = []
        for i in range(len(settings.seeds)):
            label = f"Panorama {i + 1} of {len(settings.seeds)}" if len(settings.seeds) > 1 else "Panorama"
            if square_first:
                stages.append(Stage("Picture", steps, sampler.SQUARE**2))
            stages.append(Stage(label, _steps(steps, strength), 2 * self.base_height**2))
            if settings.height > self.base_height and self.refines:
                stages.append(
                    Stage(f"Refining {label}", _steps(steps, sampler.REFINE_STRENGTH), 3 * settings.height**2)
                )
        pace = Pace(self.watch, stages)
        for seed in settings.seeds:
            generator = torch.Generator().manual_seed(seed)
            yield seed, Drawing(self.loaded.pipeline, settings, generator, pace, self.loaded.settings.offload == "none")

    def enlarge(self, draw: Drawing, made: np.ndarray, mask: np.ndarray | None, embeds: Embeds) -> np.ndarray:
        """What was drawn at the base height, at the height that was asked for; refined inside the mask."""
        if self.settings.height == self.base_height:
            return made
        large = panoramas.resize(made, self.settings.height)
        if not self.refines:
            return large
        return sampler.array(draw.refine(sampler.tensor(large), sampler.mask_tensor(mask), embeds))

    def recipe(self, seed: int, began: float, *, kind: Literal["words", "picture", "edit"], source: str) -> Recipe:
        loaded = self.loaded
        return Recipe(
            panoform=metadata.version("panoform"),
            kind=kind,
            engine=loaded.settings,
            model=loaded.checkpoint.name,
            adapters=loaded.checkpoint.adapters_name if self.settings.method == "omnix" else "",
            settings=msgspec.structs.replace(self.settings, seeds=(seed,)),
            source=source,
            size=(self.settings.height, 2 * self.settings.height),
            notices=tuple(self.notices),
            device=device.name(self.where),
            dtype=device.dtype_name(loaded.dtype),
            seconds=round(time.monotonic() - began, 3),
            versions={"python": platform.python_version()}
            | {
                package: metadata.version(package)
                for package in ("torch", "diffusers", "transformers", "peft", "numpy")
            },
        )

    @contextmanager
    def _memory(self) -> Iterator[None]:
        height = self.settings.height
        hint = _what_fits(self.where, self.loaded, height)
        with device.translate_out_of_memory(f"A panorama of {2 * height} × {height}", self.where, hint):
            yield


def _find_lora(name: str | None, watch: Watch) -> Path | None:
    """The LoRA's file or folder on this computer, fetched from the hub where it is not there. Raises AdapterError."""
    if not name:
        return None
    local = checkpoints.models_folder() / "DiT360"
    path = local if name == dit360.ADAPTER and local.exists() else Path(name).expanduser()
    if path.exists():
        return path
    if not hub.is_id(name):
        raise AdapterError(f"There is no LoRA {name}.", "Check the path, or give a hub id as owner/name.")
    files = [dit360.ADAPTER_FILE] if name == dit360.ADAPTER else ["*.safetensors"]
    return hub.fetch(name, files, local, watch, AdapterError)


def _what_fits(where: torch.device, loaded: Loaded, height: int) -> str:
    """A hint for when memory runs out; "" where only the general one can be given.

    What decides is the VAE, which works on its widest pictures at full size.
    """
    vae = loaded.pipeline.vae
    per_pixel = _WIDEST_PICTURES * vae.config.block_out_channels[1] * torch.finfo(vae.dtype).bits // 8
    fits = int(math.sqrt(device.memory(where)[0] / per_pixel / 2)) // MULTIPLE * MULTIPLE
    if not MIN_HEIGHT <= fits < height:
        return ""
    less = "" if where.type == "cpu" else "; or use the offload mode model, then sequential"
    return f"About {2 * fits} × {fits} would fit{less}."


def _steps(steps: int, strength: float) -> int:
    """How many are done from there: as DiT360Pipeline counts."""
    return steps - min(steps - 1, int(steps * (1 - strength)))
