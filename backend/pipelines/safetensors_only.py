"""Pipelines that load safetensors only: pickles can run code."""

from __future__ import annotations

import os
from typing import Any, Self

from diffusers.pipelines.pipeline_utils import DiffusionPipeline


class SafetensorsOnly(DiffusionPipeline):
    """Base of Panoform's pipelines, before diffusers' own."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        use_safetensors: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Load the pipeline as diffusers' own class does, but never from pickles.

        With `use_safetensors` None or False it reads pickles too.
        """
        return super().from_pretrained(pretrained_model_name_or_path, use_safetensors=use_safetensors, **kwargs)
