"""What the second stage trains: several objects at once, each with its own reference picture, which may be hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...pipelines import multiview
from ...pipelines.layers import multiview_attention
from ...pipelines.layers.multiview_attention import MultiViewAttnProcessor, MultiViewState
from . import architecture

VIEWS = 6


@dataclass
class BatchState(MultiViewState):
    """The state of a batch of objects (views of the first, views of the second, …)."""

    #: (B, 1, 1): 0 where an object's reference picture is hidden, as in the pipeline's unconditional half.
    shown: Tensor | None = None


class BatchAttnProcessor(MultiViewAttnProcessor):
    """The pipeline's processor, but for a batch of objects, of which each has its own reference picture."""

    def _reference(self, attn: Any, x: Tensor, state: MultiViewState) -> Tensor:
        assert isinstance(state, BatchState)
        assert state.shown is not None
        reference = state.reference[self.name]  # (B, tokens, C)
        objects = len(reference)
        query = self._layer("q_ref")(x).unflatten(0, (objects, -1)).flatten(1, 2)
        key, value = self._layer("k_ref")(reference), self._layer("v_ref")(reference)
        attended = multiview_attention.attention(attn, query, key, value) * state.shown
        return self._layer("out_ref")(attended.unflatten(1, (state.views, -1)).flatten(0, 1))


class Views(nn.Module):
    """U-Net with the adapter's branches, the encoder of control images, and the prompts."""

    unet: Any

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.unet = architecture.create_unet(seed)
        task = multiview.TASKS[architecture.TASK]
        created = {
            name: BatchAttnProcessor(name, module.inner_dim, task.layout, task.reference)
            for name, module in self.unet.named_modules()
            if name.endswith("attn1")
        }
        for processor in created.values():
            for name, parameter in processor.named_parameters():
                if name.startswith("to_out"):
                    nn.init.zeros_(parameter)
        multiview_attention.install(self.unet, created)
        self.encoder = architecture.create_encoder()
        #: (2, tokens, dim): the prompt, and the negative one.
        self.prompts = nn.Parameter(torch.randn(2, architecture.PROMPT_TOKENS, architecture.TEXT_DIM) * 0.1)

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of the U-Net and of the adapter, by their names in the files."""
        state = self.unet.state_dict()
        adapter = {name: tensor for name, tensor in state.items() if ".processor." in name}
        return {name: state[name] for name in state if name not in adapter}, adapter | self.encoder.state_dict()


def predict(
    views: Views, noisy: Tensor, timesteps: Tensor, control: Tensor, reference: Tensor, shown: Tensor
) -> Tensor:
    """Predict v of B objects' views, (B · 6, C, h, w), as `MultiViewPipeline` does.

    Args:
        noisy: (B · 6, C, h, w) latents with noise.
        timesteps: (B,).
        control: (B · 6, 6, H, W) in [0, 1].
        reference: (B, C, h, w) clean latents of the reference pictures.
        shown: (B,) bool: whether the reference picture and the prompt are shown, or the negative prompt alone.
    """
    state = BatchState(shown=shown[:, None, None].to(noisy.dtype))
    features = views.encoder(control)
    prompts = torch.where(shown[:, None, None], views.prompts[:1], views.prompts[1:])
    with multiview_attention.active(views.unet, state):
        views.unet(reference, torch.zeros_like(timesteps), views.prompts[:1].expand(len(reference), -1, -1))
        state.views = VIEWS
        return views.unet(
            noisy,
            timesteps.repeat_interleave(VIEWS),
            prompts.repeat_interleave(VIEWS, 0),
            down_intrablock_additional_residuals=list(features),
            return_dict=False,
        )[0]


def loss(predicted: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error of latents (N, C, h, w), the object's (mask (N, 1, H, W)) four times as heavy as
    the background's."""
    weight = 0.25 + 0.75 * F.adaptive_max_pool2d(mask, predicted.shape[-2:])
    return ((predicted.float() - wanted).square() * weight).sum() / weight.sum() / predicted.shape[1]
