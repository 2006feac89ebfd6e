"""Kernels that compute the same faster, where this computer has them: of attention, and compiled blocks."""

from __future__ import annotations

import functools
import logging
import warnings

import torch
import torch._dynamo
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

from ...shared.engines import EngineSettings
from ...shared.protocol.errors import SettingError

_log = logging.getLogger(__name__)
#: Largest difference of attention from PyTorch's own, of numbers of about 1: SageAttention rounds to 8 bit.
_MAX_DIFFERENCE = 0.1
#: Ending of kernels that are programs downloaded from the hub.
_DOWNLOADED = "_hub"
#: Fast in compiled blocks only: alone it holds all scores in memory.
_NEEDS_COMPILING = AttentionBackendName.FLEX
#: Variants of a block that are compiled at most; PyTorch's own limit is 8.
_RECOMPILE_LIMIT = 64


def check(settings: EngineSettings, device: torch.device, dtype: torch.dtype) -> None:
    """Raise SettingError where the kernels that the settings name don't work on the device, by trying them."""
    if settings.compile:
        _check_compiler(device)
    if settings.attention != "auto":
        found = available(device, dtype, compiled=settings.compile)
        if settings.attention not in found:
            why = ""
            if settings.attention.endswith(_DOWNLOADED):
                why = ": it would download programs"
            elif settings.attention == _NEEDS_COMPILING.value:
                why = " without compiled blocks"
            raise SettingError(
                f"The attention {settings.attention!r} can't be used here{why}.",
                f"Use auto, or one of {', '.join(found)}.",
            )


def apply(settings: EngineSettings, transformer: FluxTransformer2DModel) -> None:
    """Let the transformer use the kernels that the settings name, which were checked."""
    if settings.attention != "auto":
        # diffusers' own set_attention_backend would change the default of all models.
        for processor in transformer.attn_processors.values():
            processor._attention_backend = AttentionBackendName(settings.attention)  # pyright: ignore
    if settings.compile:
        # The limit counts all blocks of a kind, numbers of tasks and heights together; reaching it is an error.
        config = torch._dynamo.config
        name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # before PyTorch 2.7
        setattr(config, name, max(getattr(config, name), _RECOMPILE_LIMIT))
        transformer.compile_repeated_blocks(fullgraph=True)


def is_compiled(network: nn.Module) -> bool:
    """Return whether `apply` compiled blocks of the network."""
    return any(module._compiled_call_impl is not None for module in network.modules())


@functools.cache
def available(device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> tuple[str, ...]:
    """Return the names of the attention kernels that work on the device, as diffusers' dispatcher has them."""
    x = torch.randn(1, 16, 2, 128, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    expected = _attention(x, AttentionBackendName.NATIVE)
    found = []
    for backend in AttentionBackendName:
        if backend.value.endswith(_DOWNLOADED) or (backend == _NEEDS_COMPILING and not compiled):
            continue
        try:
            difference = (_attention(x, backend) - expected).abs().max().item()
        except Exception as error:  # of a package that is missing, or of a kernel for other devices: anything
            _log.debug("The attention kernel %s doesn't work on %s: %s", backend.value, device, error)
            continue
        if difference < _MAX_DIFFERENCE:
            found.append(backend.value)
    return tuple(found)


@torch.no_grad()
def _attention(x: Tensor, backend: AttentionBackendName) -> Tensor:
    with warnings.catch_warnings(action="ignore"):
        return dispatch_attention_fn(x, x, x, backend=backend)


@functools.cache
def _check_compiler(device: torch.device) -> None:
    """Raise SettingError where PyTorch can't compile for the device, by compiling a small function."""
    try:
        with warnings.catch_warnings(action="ignore"):
            torch.compile(lambda x: (x * 2).sin())(torch.ones(8, device=device))
    except Exception as error:  # of the compiler, of its absence, of an unknown device: anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SettingError(
            f"Blocks can't be compiled here: {reason[0][:200]}",
            "Leave out --compile (Compile in the preferences), or install a C++ compiler, and Triton for a GPU.",
        ) from error
