"""OmniX compared with values of the reference implementation (tests/golden), and with its literal loop."""

import importlib.util
import math
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from omnix_golden import GOLDEN, GOLDEN_TASKS, INDEX, arguments, golden, write_adapters
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from panoform.backend.pipelines import omnix, panorama_pipeline
from panoform.backend.pipelines.layers import circular_padding
from panoform.backend.pipelines.omnix import TASKS, OmniXPipeline
from panoform.shared.protocol.errors import (
    AdapterError,
    Cancelled,
    InputError,
    NumericsError,
    PanoramaError,
    SettingError,
    WeightsError,
)

_SPEC = importlib.util.spec_from_file_location("bench_streams", Path(__file__).parents[3] / "bench" / "streams.py")
assert _SPEC
assert _SPEC.loader
bench_streams = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(bench_streams)

FILE = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def pipe() -> OmniXPipeline:
    pipe = OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux")
    for task in GOLDEN_TASKS:
        pipe.load_adapters(GOLDEN / "adapters", task)
    return pipe


@pytest.mark.parametrize("task", GOLDEN_TASKS)
def test_every_step_matches_the_reference(pipe, task):
    trace, timesteps = [], []

    def record(pipe, i, t, tensors):
        assert i == len(trace)
        trace.append(tensors["latents"])
        timesteps.append(float(t))

    result = pipe(**arguments(task), circular_encode=False, output_type="latent", callback_on_step_end=record).images

    expected = golden(task)
    torch.testing.assert_close(torch.cat(trace), expected["trace"], atol=1e-4, rtol=0)
    torch.testing.assert_close(result, expected["final_latents"][None], atol=1e-4, rtol=0)
    assert timesteps == pytest.approx(INDEX[task]["timesteps"])
    assert pipe.scheduler.sigmas.tolist() == pytest.approx(INDEX[task]["sigmas"])


@pytest.mark.parametrize("task", GOLDEN_TASKS)
def test_image_matches_the_reference(pipe, task):
    image = pipe(**arguments(task), circular_encode=False).images
    torch.testing.assert_close(image, golden(task)["image"][None], atol=1e-4, rtol=0)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.fixture
def new_pipe() -> OmniXPipeline:
    return OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux")


@torch.no_grad()
def sample_as_reference(
    pipe: OmniXPipeline, folder: Path, task: str, clean: torch.Tensor, values: dict
) -> torch.Tensor:
    """Follow the reference's loop: step and blend every stream, then restore the clean conditions.

    PEFT adapters are applied sample by sample, keys and values copied. Return the target, (1, 16, h, w).
    """
    transformer = FluxTransformer2DModel.from_pretrained(GOLDEN / "tiny-flux", subfolder="transformer")
    names = list(TASKS[task].streams)
    for name in names:
        transformer.load_lora_adapter(folder / task / name, weight_name=FILE, adapter_name=name)
    latents = torch.cat([clean, values["latents"]])
    latents = torch.cat([latents, latents[..., :6]], dim=-1)
    clean = latents[:-1].clone()
    count, channels, height, width = latents.shape
    inputs = bench_streams.random_inputs(transformer, count, height // 2, width // 2, values["prompt_embeds"].shape[1])
    inputs["encoder_hidden_states"] = values["prompt_embeds"].repeat(count, 1, 1)
    inputs["pooled_projections"] = values["pooled_prompt_embeds"].repeat(count, 1)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(GOLDEN / "tiny-flux", subfolder="scheduler")
    steps, tokens = values["num_inference_steps"], height * width // 4
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    scheduler.set_timesteps(sigmas=[1 - i / steps for i in range(steps)], mu=mu)

    def blend() -> None:
        for x in range(6):
            latents[..., x] = latents[..., width - 6 + x] * (1 - x / 6) + latents[..., x] * (x / 6)

    with bench_streams.reference(transformer, names):
        for t in scheduler.timesteps:
            packed = (
                latents.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
            )
            inputs |= {"hidden_states": packed, "timestep": torch.full([count], t / 1000)}
            velocity = transformer(**inputs, return_dict=False)[0]
            velocity = velocity.reshape(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
            latents = scheduler.step(velocity.reshape(latents.shape), t, latents, return_dict=False)[0]
            blend()
            latents[:-1] = clean
    blend()
    return latents[-1:, ..., : width - 6]


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # several adapters are intended
def test_three_streams_match_the_reference(new_pipe, tmp_path):
    task = "rgb_camray_to_normal"
    new_pipe.load_adapters(write_adapters(new_pipe, tmp_path, task), task)
    values = arguments("rgb_to_depth") | {"task": task}
    result = new_pipe(**values, output_type="latent", circular_encode=False).images

    v, u = torch.meshgrid((torch.arange(64) + 0.5) / 64, (torch.arange(128) + 0.5) / 128, indexing="ij")
    lon, lat = (0.5 - u) * 2 * torch.pi, (0.5 - v) * torch.pi
    rays = torch.stack([lat.cos() * lon.cos(), lat.sin(), lat.cos() * lon.sin()])[None]
    clean = torch.cat([new_pipe.encode(image, circular=False) for image in (values["conditions"]["rgb"], rays)])
    expected = sample_as_reference(new_pipe, tmp_path, task, clean, values)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)

    with_rays = values | {"conditions": values["conditions"] | {"camray": rays}}
    torch.testing.assert_close(new_pipe(**with_rays, output_type="latent", circular_encode=False).images, result)


def test_camera_rays_of_a_wide_panorama_are_distinct():
    rays = omnix.camera_rays(512, 1024)
    assert rays.dtype == torch.float32
    assert len(rays[0, :, 256].T.unique(dim=0)) == 1024
    torch.testing.assert_close(rays.norm(dim=1), torch.ones(1, 512, 1024))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 3])
def test_rolled_panorama_gives_a_rolled_map(pipe, columns):
    """Roll by whole tokens (16 px). RoPE counts columns from the left edge, so the maps agree to 0.05, not exactly.

    The reference's method (an edge in the VAE, blended afterwards) fails this test.
    """

    def maps(**options) -> tuple[torch.Tensor, torch.Tensor]:
        values = arguments("rgb_to_depth")
        rolled = values | {
            "conditions": {"rgb": values["conditions"]["rgb"].roll(16 * columns, -1)},
            "latents": values["latents"].roll(2 * columns, -1),
        }
        return pipe(**values, **options).images, pipe(**rolled, **options).images.roll(-16 * columns, -1)

    assert error(*maps()) < 0.05
    assert error(*maps(circular_encode=False)) > 0.2


def test_blending_is_needed_to_match_the_reference(pipe, monkeypatch):
    monkeypatch.setattr(circular_padding, "blend", lambda x, columns=6: x)
    values = arguments("rgb_to_depth")
    result = pipe(**values, circular_encode=False, output_type="latent").images
    assert error(result, golden("rgb_to_depth")["final_latents"]) > 0.1


@pytest.mark.slow
def test_alternating_tasks_do_not_affect_each_other(pipe):
    expected = {}
    for task in GOLDEN_TASKS:
        single = OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux")
        single.load_adapters(GOLDEN / "adapters", task)
        expected[task] = single(**arguments(task)).images
    for task in (*GOLDEN_TASKS, *GOLDEN_TASKS):
        assert torch.equal(pipe(**arguments(task)).images, expected[task])


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["rgb", "depth"])
def test_swapped_or_zero_adapter_changes_the_result(new_pipe, tmp_path, stream):
    """Replacing a stream's adapter by the other stream's, or by zeros, changes the result."""
    other = {"rgb": "depth", "depth": "rgb"}[stream]
    for change in (lambda file: load_file(file.parents[1] / other / file.name), lambda file: zeroed(load_file(file))):
        folder = shutil.copytree(GOLDEN / "adapters", tmp_path / str(len(list(tmp_path.iterdir()))))
        file = folder / "rgb_to_depth" / stream / FILE
        save_file(change(file), file)
        new_pipe.load_adapters(folder, "rgb_to_depth")
        result = new_pipe(**arguments("rgb_to_depth"), circular_encode=False, output_type="latent").images
        assert error(result, golden("rgb_to_depth")["final_latents"]) > 1e-2


def zeroed(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: torch.zeros_like(value) if "lora_B" in key else value for key, value in state.items()}


@pytest.mark.slow
def test_large_panoramas_are_coded_in_tiles(pipe, monkeypatch):
    """As DiT360's: the tiles wrap around, so that a half turn of the panorama only turns the result."""
    for name, value in (("MAX_WHOLE", 100), ("VAE_TILE", 16), ("VAE_OVERLAP", 8)):
        monkeypatch.setattr(panorama_pipeline, name, value)
    latents = torch.randn(1, 16, 16, 32, generator=torch.Generator().manual_seed(6))
    image = pipe.decode(latents)
    torch.testing.assert_close(pipe.decode(latents.roll(16, -1)).roll(-128, -1), image, atol=1e-5, rtol=0)
    encoded = pipe.encode(image * 2 - 1)
    turned = pipe.encode(image.roll(128, -1) * 2 - 1).roll(-16, -1)
    torch.testing.assert_close(turned, encoded, atol=1e-4, rtol=0)
    assert panorama_pipeline.latents_at_once(16, 32) == 256


def test_condition_latents_replace_conditions(pipe):
    values = arguments("rgb_to_depth")
    expected = pipe(**values).images
    shared = {"rgb": pipe.encode(values.pop("conditions")["rgb"])}
    assert torch.equal(pipe(**values, condition_latents=shared).images, expected)


def test_same_seed_repeats_and_another_differs(pipe):
    values = arguments("rgb_to_depth") | {"latents": None}
    first, again, other = (
        pipe(**values, generator=torch.Generator().manual_seed(seed), output_type="latent").images for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert error(first, other) > 0.1


@pytest.mark.slow
def test_bfloat16_result_is_close_to_float32(pipe):
    pipe_bfloat16 = OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux", dtype=torch.bfloat16)
    pipe_bfloat16.load_adapters(GOLDEN / "adapters", "rgb_to_depth")
    assert pipe_bfloat16.transformer.dtype == pipe_bfloat16.vae.dtype == torch.bfloat16
    image = pipe_bfloat16(**arguments("rgb_to_depth")).images
    assert image.dtype == torch.float32
    assert (image - pipe(**arguments("rgb_to_depth")).images).abs().mean() < 0.02


def test_compute_dtype_is_not_guessed_from_the_first_weight(new_pipe):
    """In a quantised base the first floating weight may have any precision."""
    mixed = new_pipe
    assert mixed.compute_dtype == torch.float32
    mixed.transformer.x_embedder.to(torch.bfloat16)
    with pytest.raises(SettingError, match=r"bfloat16, torch\.float32: no single precision"):
        mixed.load_adapters(GOLDEN / "adapters", "rgb_to_depth")
    mixed.compute_dtype = torch.float16
    mixed.load_adapters(GOLDEN / "adapters", "rgb_to_depth")
    assert {factor.dtype for pair in mixed.resident["rgb_to_depth"].values() for factor in pair} == {torch.float16}


def test_offloading_of_diffusers_is_refused(pipe):
    """The denoiser calls the blocks one by one, and streams them by itself."""
    for offload in (pipe.enable_model_cpu_offload, pipe.enable_sequential_cpu_offload):
        with pytest.raises(SettingError, match=r"Use stream\(\)"):
            offload()


def test_callback_receives_the_denoised_target(pipe):
    received = []
    values = arguments("rgb_to_depth")
    result = pipe(**values, output_type="latent", callback_on_step_end=lambda *args: received.append(args[-1])).images
    assert [tuple(tensors["denoised"].shape) for tensors in received] == [(1, 16, 8, 16)] * 4
    assert pipe.decode(received[0]["denoised"]).shape == (1, 3, 64, 128)
    torch.testing.assert_close(received[-1]["denoised"][..., 6:], result[..., 6:])


@pytest.mark.slow
def test_exception_in_the_callback_stops_and_restores_the_transformer(pipe):
    def cancel(pipe, i, t, tensors) -> None:
        steps.append(i)
        raise Cancelled("Stopped.")

    steps, modules = [], dict(pipe.transformer.named_modules())
    with pytest.raises(Cancelled):
        pipe(**arguments("rgb_to_depth"), callback_on_step_end=cancel)
    assert steps == [0]
    assert dict(pipe.transformer.named_modules()) == modules
    assert torch.equal(pipe(**arguments("rgb_to_depth")).images, pipe(**arguments("rgb_to_depth")).images)


@pytest.mark.slow
def test_flux_pipeline_with_a_lora_runs_between_tasks(pipe):
    """Text to panorama uses the same transformer in diffusers' own pipeline, with diffusers' LoRA loading."""
    values = arguments("rgb_to_depth")
    expected = pipe(**values).images
    text = {name: values[name] for name in ("prompt_embeds", "pooled_prompt_embeds")}
    plain = FluxPipeline(**pipe.components)
    plain.set_progress_bar_config(disable=True)

    def picture():
        seed = torch.Generator().manual_seed(0)
        return plain(**text, height=64, width=64, num_inference_steps=2, generator=seed, output_type="pt").images

    before = picture()
    plain.load_lora_weights(GOLDEN / "adapters" / "dit360", weight_name="adapter_model.safetensors")
    assert error(picture(), before) > 1e-3
    plain.unload_lora_weights()
    assert torch.equal(picture(), before)
    assert torch.equal(pipe(**values).images, expected)


@pytest.mark.slow
def test_prompt_begins_with_the_trigger(new_pipe):
    """With real (tiny, random) text encoders, the encoded text is the trigger followed by the prompt."""
    torch.manual_seed(0)
    letters = [*"[]EQUIRCTANGLabcdefghijklmnopqrstuvwxyz"]
    clip_tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    t5_tokens = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in letters)]
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    clip = CLIPTextConfig(vocab_size=len(clip_tokens), projection_dim=32, bos_token_id=0, eos_token_id=1, **sizes)
    t5 = T5Config(vocab_size=64, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    new_pipe.register_modules(
        tokenizer=CLIPTokenizer(
            vocab={token: i for i, token in enumerate(clip_tokens)}, merges=[], model_max_length=77
        ),
        text_encoder=CLIPTextModel(clip).eval(),
        tokenizer_2=T5TokenizerFast(vocab=t5_tokens),
        text_encoder_2=T5EncoderModel(t5).eval(),
    )
    new_pipe.load_adapters(GOLDEN / "adapters", "image_to_pano")
    values = arguments("image_to_pano")
    del values["prompt_embeds"], values["pooled_prompt_embeds"]
    images = []
    for prompt, text in ((None, "[EQUIRECTANGULAR]"), ("a stone court", "[EQUIRECTANGULAR] a stone court")):
        embeds, pooled, _ = new_pipe.encode_prompt(text)
        assert embeds.shape == (1, 512, 32)
        images.append(new_pipe(**values, prompt=prompt).images)
        expected = new_pipe(**values, prompt_embeds=embeds, pooled_prompt_embeds=pooled).images
        torch.testing.assert_close(images[-1], expected, atol=1e-4, rtol=0)
    assert error(*images) > 1e-3


IMAGE = torch.zeros(1, 3, 64, 128)


@pytest.mark.parametrize(
    ("change", "raised", "words"),
    [
        ({"task": "rgb_to_money"}, SettingError, "rgb_to_money"),
        ({"task": "rgb_to_albedo"}, AdapterError, "adapters of rgb_to_albedo are not loaded"),
        ({"output_type": "pil"}, SettingError, "pil"),
        ({"conditions": {}}, SettingError, "takes the conditions rgb"),
        ({"conditions": {"masked_rgb": IMAGE}}, SettingError, "masked_rgb"),
        ({"conditions": {"rgb": IMAGE, "camray": IMAGE}}, SettingError, "camray"),
        ({"condition_latents": {"rgb": torch.zeros(1, 16, 8, 16)}}, SettingError, "each once"),
        ({"conditions": {"rgb": IMAGE[0]}}, PanoramaError, r"rgb is \(3, 64, 128\)"),
        ({"conditions": {"rgb": IMAGE[:, :1]}}, PanoramaError, r"rgb is \(1, 1, 64, 128\)"),
        ({"conditions": {"rgb": IMAGE[..., :120]}}, PanoramaError, "multiples of 16"),
        ({"conditions": {"rgb": IMAGE[..., :32]}}, PanoramaError, "width at least 48"),
        ({"conditions": {"rgb": IMAGE.byte()}}, InputError, "condition rgb are of type uint8"),
        ({"conditions": {"rgb": IMAGE * math.nan}}, InputError, "NaN or infinite values in the condition rgb"),
        ({"latents": torch.zeros(1, 16, 8, 8)}, PanoramaError, "noise"),
        ({"num_inference_steps": 0}, SettingError, "from 1 to 1000"),
        ({"num_inference_steps": 2.5}, SettingError, "from 1 to 1000"),
        ({"guidance_scale": math.nan}, SettingError, "guidance_scale is nan"),
        ({"prompt_embeds": torch.zeros(1, 12, 31)}, InputError, r"\(1, 12, 31\) .* instead of"),
        ({"pooled_prompt_embeds": torch.zeros(32)}, InputError, r"\(32,\) instead of"),
        ({"prompt_embeds": torch.full((1, 12, 32), math.nan)}, InputError, "NaN or infinite values in the embeddings"),
        ({"prompt_embeds": torch.zeros(2, 12, 32)}, InputError, "2 prompts"),
        ({"prompt": "a court"}, SettingError, "either a prompt"),
        ({"pooled_prompt_embeds": None}, SettingError, "both prompt_embeds"),
        ({"prompt_embeds": None, "pooled_prompt_embeds": None}, WeightsError, "text encoders are not loaded"),
    ],
)
def test_invalid_arguments_are_rejected(pipe, change, raised, words):
    with pytest.raises(raised, match=words):
        pipe(**(arguments("rgb_to_depth") | change))


def test_nan_names_the_step_and_the_precision(pipe):
    """As where FLUX overflows in float16: the map would be black."""
    damaged = torch.nn.Parameter(torch.full((64,), math.nan))
    with (
        mock.patch.object(pipe.transformer.proj_out, "bias", damaged),
        pytest.raises(NumericsError, match="after step 1 of 4, computed in float32"),
    ):
        pipe(**arguments("rgb_to_depth"))


def test_unknown_task_or_missing_adapter_is_rejected(new_pipe):
    with pytest.raises(SettingError, match="no task 'rgb_to_money'"):
        new_pipe.load_adapters(GOLDEN / "adapters", "rgb_to_money")
    with pytest.raises(AdapterError, match="rgb_to_normal"):
        new_pipe.load_adapters(GOLDEN / "adapters", "rgb_to_normal")
    assert not new_pipe.resident
