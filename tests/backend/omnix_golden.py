"""The reference's inputs and values of OmniX in tests/golden, and random adapters in the hub's layout."""

import json
from pathlib import Path

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file

from panoform.backend.models.flux import stream_adapters
from panoform.backend.pipelines.omnix import TASKS, OmniXPipeline

GOLDEN = Path(__file__).parents[1] / "golden"
INDEX = json.loads((GOLDEN / "index.json").read_text())
GOLDEN_TASKS = [task for task in INDEX if task in TASKS]


def golden(task: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{task}.safetensors")


def arguments(task: str) -> dict:
    """Return the inputs of the reference, as arguments of the pipeline."""
    values = golden(task)
    conditions = {name: values[f"condition.{name}"] for name in TASKS[task].conditions}
    return {
        "task": task,
        "conditions": conditions,
        "prompt_embeds": values["prompt_embeds"],
        "pooled_prompt_embeds": values["pooled_prompt_embeds"],
        "latents": values["noise"],
        "num_inference_steps": INDEX[task]["steps"],
        "guidance_scale": INDEX[task]["guidance_scale"],
    }


def write_adapters(pipe: OmniXPipeline, folder: Path, task: str, seed: int = 0) -> Path:
    """Write random adapters of rank 4 for a task, with PEFT and diffusers, in the hub's layout."""
    torch.manual_seed(seed)
    for stream in TASKS[task].streams:
        transformer = FluxTransformer2DModel.from_config(pipe.transformer.config)
        targets = list(stream_adapters.targets(transformer.config))
        transformer.add_adapter(LoraConfig(r=4, lora_alpha=16, target_modules=targets, init_lora_weights=False))
        FluxPipeline.save_lora_weights(
            folder / task / stream,
            transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="default"),
            transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
        )
    return folder
