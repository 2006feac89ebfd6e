"""What is trained: U-Net and adapter, on several objects at once, each with a front of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...pipelines import multiview
from ...pipelines.layers import multiview_attention
from ...pipelines.layers.multiview_attention import MultiViewAttnProcessor, MultiViewState
from ...texturing import completion
from . import architecture


class BatchAttnProcessor(MultiViewAttnProcessor):
    """The pipeline's processor, but for a batch of objects (views of the first, views of the second, …)."""

    def _reference(self, attn: Any, x: Tensor, state: MultiViewState) -> Tensor:
        reference = state.reference[self.name]  # (B, tokens, C)
        query = self._layer("q_ref")(x).unflatten(0, (len(reference), -1)).flatten(1, 2)
        key, value = self._layer("k_ref")(reference), self._layer("v_ref")(reference)
        attended = multiview_attention.attention(attn, query, key, value)
        return self._layer("out_ref")(attended.unflatten(1, (state.views, -1)).flatten(0, 1))


class Views(nn.Module):
    """U-Net with the adapter's branches, the encoder of control images, and the prompt."""

    unet: Any

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.unet = architecture.create_unet(seed)
        task = multiview.TASKS[completion.TASK]
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
        self.prompt = nn.Parameter(torch.randn(1, architecture.PROMPT_TOKENS, architecture.TEXT_DIM) * 0.1)

    def forward(self, views: Tensor, seen: Tensor, control: Tensor) -> Tensor:
        """Complete views as `completion.complete`; all arguments (B, 6, C, H, H)."""
        made = completion.complete(
            self.unet, self.encoder, self.prompt,
            views.flatten(0, 1), seen.flatten(0, 1), control.flatten(0, 1), MultiViewState(),
        )  # fmt: skip
        return made.unflatten(0, (-1, completion.VIEWS))

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the tensors of the U-Net and of the adapter, by their names in the files."""
        state = self.unet.state_dict()
        adapter = {name: tensor for name, tensor in state.items() if ".processor." in name}
        return {name: state[name] for name in state if name not in adapter}, adapter | self.encoder.state_dict()


def errors(views: Tensor, truth: Tensor, seen: Tensor, control: Tensor) -> Tensor:
    """Return the mean squared error of each object's pixels that the picture doesn't show, (B,); 0 without any."""
    hidden = object_mask(control) * (1 - seen)
    square = (views - truth).square().mean(2, keepdim=True)
    return (square * hidden).flatten(1).sum(1) / hidden.flatten(1).sum(1).clamp_min(1)


def object_mask(control: Tensor) -> Tensor:
    """Return where control images (…, 6, H, W) show the object, (…, 1, H, W) in {0, 1}: there are normals."""
    return ((control[..., 3:, :, :] - 0.5).abs().amax(-3, keepdim=True) > 0.01).float()
