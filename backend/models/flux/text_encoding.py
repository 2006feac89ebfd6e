"""The embedding of perception's prompt: computed once and cached, so that 9.5 GB of text encoders need not be loaded.

It is read from `prompt_embeds.safetensors` in the model's folder, or from the user's cache under the checkpoint's
fingerprint; else CLIP and T5 are loaded from the checkpoint, used, and released.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import save
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast
from transformers.utils import logging as transformers_logging

from ....shared.protocol.errors import PanoformError, SettingError, WeightsError
from ....shared.weights import WEIGHTS
from ...io import atomic
from ...jobs.progress import ProgressReporter
from ...pipelines.omnix import TRIGGER
from .. import config_bounds, folders, hub, weights
from .checkpoints import Base, Checkpoint

#: File in a model's folder with the embedding, as `embeds` returns it.
KEPT = "prompt_embeds.safetensors"
_PARTS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
_NAMES = ("prompt_embeds", "pooled_prompt_embeds")
#: Maximum number of T5 tokens that FLUX reads.
MAX_TOKENS = 512


def embeds(checkpoint: Checkpoint, base: Base, reporter: ProgressReporter) -> dict[str, torch.Tensor]:
    """Return `prompt_embeds` (1, tokens, joint_attention_dim), `pooled_prompt_embeds` (1, pooled_projection_dim).

    Raise WeightsError where they are neither stored nor computable, or do not fit the transformer.
    """
    folder, kept = _folder(checkpoint), _cached(base)
    file = next((file for file in (folder / KEPT, kept) if file.is_file()), None)
    if file is None:
        encoded = encode(checkpoint, [TRIGGER], reporter)[0]
        with atomic.writing(kept.parent) as draft:
            (draft / kept.name).write_bytes(save(encoded))
        file = kept
    found = weights.load(file, WeightsError, "Delete it; it is made again.")
    dims = [base.transformer.config[name] for name in ("joint_attention_dim", "pooled_projection_dim")]
    if sorted(found) != sorted(_NAMES) or [found[name].shape[-1] for name in _NAMES] != dims:
        raise WeightsError(f"{file} was not made for this model.", "Delete it; it is made again.")
    return found


def origin(checkpoint: Checkpoint, base: Base) -> str:
    """Return where `embeds` finds them: "kept", "text encoders", or "" for nowhere on this computer."""
    folder = _folder(checkpoint)
    if (folder / KEPT).is_file() or _cached(base).is_file():
        return "kept"
    return "text encoders" if _has_encoders(_encoders(checkpoint)) else ""


def _encoders(checkpoint: Checkpoint) -> Path:
    """Return the folder with the text encoders: the model's, or for a single file without, that of FLUX.1-dev, whose
    encoders all such files are made for."""
    folder = _folder(checkpoint)
    downloaded = folders.models_folder() / WEIGHTS["flux"].folder
    return downloaded if checkpoint.path.is_file() and not _has_encoders(folder) and downloaded.is_dir() else folder


def _has_encoders(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in _PARTS)


def _folder(checkpoint: Checkpoint) -> Path:
    return checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent


def _cached(base: Base) -> Path:
    """Return the cached file, named by the paths, sizes and modification times of the transformer's files."""
    files = [file.resolve() for file in base.transformer.files]
    fingerprint = "\n".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    name = hashlib.sha256(f"{TRIGGER}\n{fingerprint}".encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("panoform", appauthor=False) / "prompt" / f"{name}.safetensors"


def _pipeline(folder: Path) -> FluxPipeline:
    """Return a pipeline of the text encoders alone; the folder needs no model_index.json."""
    none: Any = None
    encoders: dict[str, Any] = {
        part: cls.from_pretrained(folder / part, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True)
        for part, cls in (("text_encoder", CLIPTextModel), ("text_encoder_2", T5EncoderModel))
    }
    return FluxPipeline(
        scheduler=none,
        vae=none,
        transformer=none,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        tokenizer_2=T5TokenizerFast.from_pretrained(folder / "tokenizer_2", local_files_only=True),
        **encoders,
    )


def encode(checkpoint: Checkpoint, texts: Sequence[str], reporter: ProgressReporter) -> list[dict[str, torch.Tensor]]:
    """Encode each text as `embeds` returns it. The text encoders are in memory only during the call.

    Raise SettingError for a text longer than the model reads, WeightsError where the text encoders are missing.
    """
    folder = _encoders(checkpoint)
    if not _has_encoders(folder) and hub.is_id(checkpoint.name):
        folder = hub.fetch(checkpoint.name, [f"{part}/*" for part in _PARTS], folder, reporter)
    missing = [part for part in _PARTS if not (folder / part).is_dir()]
    if missing:
        raise WeightsError(
            f"The text encoders of {checkpoint.name} are missing ({', '.join(missing)}); no encoded prompt is kept.",
            f"Put these folders of FLUX.1-dev (FLUX.1-schnell's are the same) into {folder}.",
        )
    for part in _PARTS[:2]:
        if not any((folder / part).glob("*.safetensors")):
            raise WeightsError(
                f"{folder / part} has no .safetensors file; a pickle (pytorch_model.bin) can run code and is not read.",
                "Download the safetensors files of FLUX.1-dev's text encoders.",
            )
    config_bounds.check_folder(folder, "Download the text encoders again.")
    # Their progress bars would overwrite ours.
    for logging in (diffusers_logging, transformers_logging):
        logging.disable_progress_bar()
    reporter.progress("Loading the text encoders", 0, 0, 0.0, None)
    try:
        pipeline = _pipeline(folder)
        return [_encoded(pipeline, text, reporter) for text in texts]
    except PanoformError:
        raise
    except Exception as error:  # transformers checks no configs: one can make it raise anything, and at any time
        raise WeightsError(f"The text encoders in {folder} can't be used: {error}", "Download them again.") from error


def _encoded(pipeline: FluxPipeline, text: str, reporter: ProgressReporter) -> dict[str, torch.Tensor]:
    reporter.progress("Encoding the prompt", 0, 0, 0.0, None)
    tokens = len(pipeline.tokenizer_2(text).input_ids)
    if tokens > MAX_TOKENS:
        raise SettingError(
            f"The prompt is {tokens} tokens long; the model reads {MAX_TOKENS}.",
            f"Shorten it to about {len(text.split()) * MAX_TOKENS // tokens} words.",
        )
    with torch.no_grad():
        embeds, pooled, _ = pipeline.encode_prompt(text, device=torch.device("cpu"))
    assert embeds is not None
    assert pooled is not None
    return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}
