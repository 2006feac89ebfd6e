"""Load FLUX LoRAs, and refuse those that do not fit the model entirely: diffusers would skip what does not fit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers.loaders.lora_base import _fetch_state_dict
from torch import Tensor, nn

from ...shared.protocol.errors import AdapterError
from . import folders, hub, lora_file, weights

if TYPE_CHECKING:
    from ..jobs.progress import ProgressReporter
    from ..pipelines.panorama_pipeline import PanoramaPipeline

_NAMED = "Name a .safetensors file, a folder that holds one, or a hub repository."
_KEY = re.compile(r"transformer\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight")


def load(
    pipeline: PanoramaPipeline,
    source: str | Path | dict[str, Tensor],
    *,
    adapter_name: str | None = None,
    weight_name: str | None = None,
    token: str | None = None,
    scale: float = 1.0,
) -> None:
    """Add a LoRA from a file, a folder, a hub repository or a state dict: in the namings of `lora_file`, or XLabs'.

    It is applied `scale` times.
    Raise AdapterError, naming keys, where it can't be read or any of it does not fit this pipeline's transformer.
    """
    name = "The state dict" if isinstance(source, dict) else str(source)
    raw, config = _read(source, weight_name, token)
    if any("processor" in key for key in raw):
        state = _by_diffusers(pipeline, raw, name)
    else:
        state = lora_file.convert(raw, config, pipeline.transformer, name)
    if problem := misfit(state, pipeline.transformer):
        known = any(_KEY.fullmatch(key) for key in state)
        raise AdapterError(
            f"{name} is not a LoRA of this model: {problem}.",
            "Use one made for FLUX.1-dev."
            if known
            else "Its keys are in no naming that is known: convert it to the names of diffusers or ComfyUI.",
        )
    # PEFT takes the precision of the base's weights, which quantised ones don't have.
    state = {
        key: tensor.to(pipeline.compute_dtype) * (scale if ".lora_B." in key else 1) for key, tensor in state.items()
    }
    pipeline.load_lora_into_transformer(state, None, pipeline.transformer, adapter_name, low_cpu_mem_usage=True)


def _read(
    source: str | Path | dict[str, Tensor], weight_name: str | None, token: str | None
) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Return the tensors as they are stored, and PEFT's configuration, from the header or beside the file, if any.

    Raise AdapterError.
    """
    if isinstance(source, dict):
        return dict(source), None
    path = folders.expanded(source)
    if path.is_dir():
        path /= weight_name or _only_file(path)
    elif hub.is_id(str(source)) and not path.exists():
        return _read_hub(str(source), weight_name, token)
    with weights.opened(path, AdapterError, _NAMED, "can't be read as a FLUX LoRA") as tensors:
        written = (tensors.metadata() or {}).get("lora_adapter_metadata")
        state = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
    return state, lora_file.read_config(written, str(path)) if written else lora_file.config_beside(path)


def _read_hub(name: str, weight_name: str | None, token: str | None) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    repository, revision = hub.split_id(name)
    try:
        state, written = _fetch_state_dict(
            repository, weight_name, use_safetensors=True, local_files_only=None, cache_dir=None, force_download=False,
            proxies=None, token=token, revision=revision, subfolder=None, allow_pickle=False,
            user_agent={"file_type": "attn_procs_weights", "framework": "pytorch"},
        )  # fmt: skip
    except Exception as error:  # of the hub's library, of requests, and of safetensors
        raise _unreadable(name, error) from error
    if written:
        return state, lora_file.read_config(json.dumps(written), name)
    file = hub.fetch_first(name, [lora_file.CONFIG], token=token, local_files_only=False, failure=AdapterError)
    return state, lora_file.config_beside(file) if file else None


def _unreadable(name: str, error: Exception) -> AdapterError:
    return AdapterError(f"{name} can't be read as a FLUX LoRA: {error}", _NAMED)


def _by_diffusers(pipeline: PanoramaPipeline, raw: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Convert XLabs' naming, which has no alpha. Raise AdapterError."""
    if key := lora_file.kind(list(raw))[0]:
        raise AdapterError(f"{name} is {lora_file.kind([key])[1]} ({key}).", "Use a LoRA.")
    lora_file.check_finite(raw, name)
    given: Any = dict(raw)
    try:
        return dict(pipeline.lora_state_dict(given, use_safetensors=True))  # type: ignore[arg-type]
    except Exception as error:  # diffusers' converters raise exceptions of any class
        raise AdapterError(
            f"{name} can't be read as a FLUX LoRA of XLabs: {error} (its keys are {', '.join(sorted(raw)[:3])}, …).",
            "Convert it to the names of diffusers or ComfyUI.",
        ) from error


@contextmanager
def applied(pipeline: PanoramaPipeline, source: str | Path | None, scale: float = 1.0) -> Iterator[None]:
    """Apply a LoRA, times `scale`, to the pipeline's transformer within the block. None: none. Raise AdapterError."""
    if source is None:
        yield
        return
    load(pipeline, source, scale=scale)
    try:
        yield
    finally:
        pipeline.unload_lora_weights()


def find(
    name: str,
    reporter: ProgressReporter | None,
    files: Sequence[str] = ("*.safetensors",),
    local: Path | None = None,
) -> Path:
    """Return the file or folder of a LoRA; `files` of a hub id are downloaded (without a `reporter`: not).

    `local` is a folder into which the user may copy them instead. Raise AdapterError where there is none.
    """
    path = folders.expanded(name)
    if path.exists():
        return path
    if not hub.is_id(name):
        raise AdapterError(f"There is no LoRA {name}.", "Check the path, or give a hub id as owner/name.")
    local = local or folders.models_folder() / hub.split_id(name)[0].rpartition("/")[2]
    return hub.fetch(name, files, local, reporter, AdapterError)


def _only_file(folder: Path) -> str:
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    if len(files) != 1:
        raise AdapterError(
            f"The folder {folder} has {len(files)} .safetensors files: {', '.join(files[:3]) or 'none'}.",
            "Name the LoRA's file.",
        )
    return files[0]


def misfit(state: Mapping[str, Tensor], transformer: nn.Module) -> str:
    """Describe why the tensors of a LoRA, as diffusers names them, do not fit `transformer`; "" if they do.

    Names and shapes are "transformer.….lora_A.weight" (rank, in) and "transformer.….lora_B.weight" (out, rank).
    """
    linears: dict[str, Any] = {
        name: module for name, module in transformer.named_modules() if hasattr(module, "in_features")
    }
    others, unexpected, wrong = [], [], []
    ranks: dict[str, dict[str, int]] = {}
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        linear = linears.get(match["module"]) if match else None
        if key.startswith(("text_encoder", "lora_te", "te1", "te2")):
            others.append(key)
        elif match is None or linear is None:
            unexpected.append(key)
        else:
            size = tuple(value.shape) if match["factor"] == "A" else tuple(value.shape)[::-1]  # (rank, features)
            features = linear.in_features if match["factor"] == "A" else linear.out_features
            if len(size) != 2 or size[1] != features:
                wrong.append(f"{key} is {' × '.join(map(str, value.shape))}, for {features} features")
            else:
                ranks.setdefault(match["module"], {})[match["factor"]] = size[0]
    halves = [name for name, rank in ranks.items() if len(rank) != 2 or len(set(rank.values())) != 1]
    found = (
        (unexpected, "unexpected keys"),
        (others, "keys for the text encoder, which is never adapted here"),
        (wrong, "of the wrong shape"),
        ([] if wrong else halves, "modules without two factors of one rank"),
    )
    problems = [f"{len(names)} {what} ({', '.join(sorted(names)[:3])})" for names, what in found if names]
    return "; ".join(problems) or ("" if ranks else "it is empty")
