"""FLUX + OmniX at full size on a GPU, with memory capped to play smaller cards. One run of less than three minutes.

    mkdir -p /tmp/packages && ln -sfn "$PWD" /tmp/packages/panoform        (in the repository)
    PYTHONPATH=/tmp/packages python3 bench/flux_gpu.py                     at most 170 s, all of the GPU's memory
    PYTHONPATH=/tmp/packages python3 bench/flux_gpu.py --tiny              tiny sizes on the CPU, within a minute

Weights are random and made on the GPU; nothing is downloaded, and nothing is written but torch's own compile cache.
It needs a GPU with 40 GiB and about 50 GiB of main memory. Every line is printed as soon as it is known, the most
important ones first; a stage that fails prints its traceback, and the next one goes on. A step is one of five tasks
(ten streams) at 512 × 1024, unless another is named. For a card of N GB, a reserved block leaves N GiB for this
process, the GPU's own context included, and the budget is chosen as for users: by what is free.

`--seconds N`: no stage begins that would probably end later than this after the start (default 165). `--stages a,b`:
run these only, after building.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from accelerate import cpu_offload, init_empty_weights
from accelerate.hooks import remove_hook_from_module
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor

from panoform.backend.models import quantised, residency
from panoform.backend.models.flux import memory, single_file, stream_adapters
from panoform.backend.models.links import CudaLink, Link, ThreadLink
from panoform.backend.pipelines.layers import circular_padding, shared_attention
from panoform.backend.pipelines.layers.latents import image_ids, pack, unpack
from panoform.backend.pipelines.omnix import TASKS, OmniXPipeline

GIB = 2**30
#: Of the process, before the imports.
STARTED = psutil.Process().create_time()
FIVE = ["rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr", "rgb_to_semantic"]
FLUX = {"guidance_embeds": True}  # the defaults of FluxTransformer2DModel are FLUX.1's
FLUX_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
TINY = {
    "num_layers": 5, "num_single_layers": 10, "attention_head_dim": 32, "num_attention_heads": 2,
    "axes_dims_rope": (4, 14, 14), "joint_attention_dim": 24, "pooled_projection_dim": 16, "guidance_embeds": True,
}  # fmt: skip
TINY_VAE = FLUX_VAE | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}


@dataclass
class Bench:
    """The model and the device that all stages share."""

    tiny: bool
    device: torch.device
    dtype: torch.dtype
    pipe: OmniXPipeline = field(init=False)
    link: Link = field(init=False)
    text: int = 512
    #: Results of the first stage, which the others are compared with.
    expected: Tensor | None = None
    step_s: float = float("nan")
    #: Bytes that are streamed in each step of the last call.
    streamed: int = 0

    def synchronize(self) -> None:
        if not self.tiny:
            torch.cuda.synchronize()

    def say(self, text: str) -> None:
        print(f"[{time.time() - STARTED:5.1f} s] {text}", flush=True)

    def inputs(self, height: int, width: int) -> dict[str, Any]:
        generator, config = torch.Generator().manual_seed(0), self.pipe.transformer.config
        condition, noise = torch.randn(2, 16, height // 8, width // 8, generator=generator).split(1)
        return {
            "condition_latents": {"rgb": condition},
            "prompt_embeds": torch.randn(1, self.text, config["joint_attention_dim"], generator=generator),
            "pooled_prompt_embeds": torch.randn(1, config["pooled_projection_dim"], generator=generator),
            "latents": noise,
            "output_type": "latent",
        }

    def sample(self, tasks: list[str], steps: int, height: int = 512) -> tuple[Tensor, list[float], float]:
        """Return the latents, the seconds of each step, and those before the first."""
        if self.tiny:
            height = 64
        times = [time.perf_counter()]

        def on_step_end(*_: Any) -> None:
            self.synchronize()
            times.append(time.perf_counter())
            self.streamed = getattr(self.pipe.residency, "streamed", 0)

        opened: list[float] = []
        values = self.inputs(height, 2 * height)

        def check() -> None:  # first called when all is prepared
            if not opened:
                self.synchronize()
                opened.append(time.perf_counter())

        self.synchronize()
        times[0] = time.perf_counter()
        result: Any = self.pipe(
            tasks, **values, num_inference_steps=steps, callback_on_step_end=on_step_end, check=check
        ).images
        seconds = [b - a for a, b in zip([opened[0], *times[1:]], times[1:], strict=False)]
        return result, seconds, opened[0] - times[0]

    def clean(self) -> None:
        gc.collect()
        if not self.tiny:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def fill(module: torch.nn.Module, device: torch.device) -> None:
    """Give a module without weights random ones on `device`, of a size that keeps activations finite."""
    module.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for name, x in module.named_parameters():
        if x.ndim > 1:
            x.data.normal_(std=min(0.02, x[0].numel() ** -0.5), generator=generator)
        else:
            x.data.fill_(float(name.endswith("weight")))


def build(bench: Bench) -> None:
    """Make the pipeline with all weights on the device, and ten adapters in main memory."""
    with init_empty_weights():
        transformer = FluxTransformer2DModel(**(TINY if bench.tiny else FLUX))
        vae = AutoencoderKL(**(TINY_VAE if bench.tiny else FLUX_VAE))
    for network in (transformer, vae):
        network.to(bench.dtype).eval().requires_grad_(False)
        fill(network, bench.device)
    none: Any = None
    bench.pipe = OmniXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**single_file.SCHEDULER), vae=vae, transformer=transformer,
        text_encoder=none, text_encoder_2=none, tokenizer=none, tokenizer_2=none,
    )  # fmt: skip
    bench.pipe.compute_dtype = bench.dtype
    bench.pipe.set_progress_bar_config(disable=True)
    rank, generator = 4 if bench.tiny else 64, torch.Generator(bench.device).manual_seed(1)
    for task in FIVE:
        layers = {}
        for name, (out, inner) in stream_adapters.targets(transformer.config).items():
            shapes = ((len(TASKS[task].streams), rank, inner), (len(TASKS[task].streams), out, rank))
            layers[name] = tuple(
                (torch.randn(s, generator=generator, device=bench.device, dtype=bench.dtype) * 0.02).cpu()
                for s in shapes
            )
        bench.pipe.resident[task] = layers
    bench.synchronize()
    count = sum(x.numel() for x in transformer.parameters())
    bench.say(f"{count / 1e9:.2f} G parameters and {len(FIVE)} tasks' adapters are made")


def resident(bench: Bench) -> None:
    """All weights on the device: the time that the others are compared with; and bit-equality of one pass."""
    bench.clean()
    result, seconds, prepared = bench.sample(FIVE, 3)
    bench.expected, bench.step_s = result, min(seconds[1:])
    used = "" if bench.tiny else f", peak {torch.cuda.max_memory_allocated() / GIB:.1f} GiB allocated"
    bench.say(f"RESIDENT: {bench.step_s:.3f} s a step of five tasks{used}")
    bench.say(f"  steps {_list(seconds)}, before them {prepared:.2f}")
    bench.say(f"  results are finite: {bool(result.isfinite().all())}")
    for i in range(2):
        alone, seconds, _ = bench.sample(FIVE[i : i + 1], 3)
        bench.say(
            f"  {FIVE[i]} alone: {min(seconds[1:]):.3f} s a step, "
            f"bit-equal to one pass: {torch.equal(alone, result[i : i + 1])}"
        )


def exact(bench: Bench) -> None:
    """The transformer's own forward, with its modulation, beside ours: a step of one task."""
    ours, _, _ = bench.sample(FIVE[:1], 1)
    difference = (ours - _forward_step(bench, FIVE[0])).abs().max().item()
    bench.say(f"  largest difference to the transformer's own forward, with its modulation: {difference:g}")


@torch.no_grad()
def _forward_step(bench: Bench, task: str) -> Tensor:
    """One step of one task as before: `transformer(...)` within `together`; returns latents."""
    height = 64 if bench.tiny else 512
    pipe, values, device, dtype = bench.pipe, bench.inputs(height, 2 * height), bench.device, bench.dtype
    target, clean = (
        circular_padding.extend(x.to(device)) for x in (values["latents"], values["condition_latents"]["rgb"])
    )
    rows, columns = target.shape[-2] // 2, target.shape[-1] // 2
    t = torch.tensor(1000.0, device=device)
    with shared_attention.together(pipe.transformer, pipe.resident[task], device, dtype):
        velocity = pipe.transformer(
            hidden_states=torch.cat([pack(clean), pack(target)]).to(dtype),
            timestep=(t / 1000).expand(2),
            encoder_hidden_states=values["prompt_embeds"].to(device, dtype).expand(2, -1, -1),
            pooled_projections=values["pooled_prompt_embeds"].to(device, dtype).expand(2, -1),
            guidance=torch.full([2], 3.5, device=device),
            txt_ids=torch.zeros(bench.text, 3, device=device),
            img_ids=image_ids(rows, columns, device),
            return_dict=False,
        )[0][-1:]
    # One step from sigma 1 to 0
    return circular_padding.close(circular_padding.blend(target - unpack(velocity.float(), rows)))


def to_main_memory(bench: Bench) -> None:
    """Move the blocks to main memory, as after loading; measure the link."""
    transformer = bench.pipe.transformer
    began = time.perf_counter()
    for block in [*transformer.transformer_blocks, *transformer.single_transformer_blocks, transformer.norm_out]:
        block.to("cpu")
    bench.clean()
    seconds = time.perf_counter() - began
    bench.link = ThreadLink() if bench.tiny else CudaLink(bench.device)
    bench.pipe.stream(bench.link)
    if bench.tiny:
        return
    bench.say(f"  the blocks are in main memory ({seconds:.1f} s)")
    count = 2**29
    began = time.perf_counter()
    source, target = bench.link.host_buffer(count).fill_(1), torch.empty(count, dtype=torch.uint8, device=bench.device)
    locked = time.perf_counter() - began
    rates = []
    for _ in range(3):
        bench.synchronize()
        began = time.perf_counter()
        bench.link.wait(bench.link.fetch([(source, target)], None))
        bench.synchronize()
        rates.append(count / (time.perf_counter() - began) / 1e9)
    pageable = torch.ones(count, dtype=torch.uint8)
    began = time.perf_counter()
    target.copy_(pageable)
    bench.synchronize()
    slow = count / (time.perf_counter() - began) / 1e9
    bench.say(
        f"  the link: {max(rates):.1f} GB/s page-locked ({source.is_pinned()}, {locked:.2f} s to lock 0.5 GiB), "
        f"{slow:.1f} GB/s pageable"
    )
    bench.link.free(source)


def card(bench: Bench, gib: int, height: int = 512, steps: int = 3, weights: str = "") -> None:
    """Five tasks on a card of `gib` GiB, with the budget chosen by what is free.

    `weights`: what they are, if they aren't those of the first stage.
    """
    pipe = bench.pipe
    bench.clean()
    block, context = None, 0
    if isinstance(bench.link, ThreadLink):  # the part of the weights that a card of FLUX's would hold
        width, tokens = pipe.transformer.inner_dim, bench.text + 4 * 11
        need = memory.activations([2] * 5, tokens, width, bench.dtype)
        need += memory.decoded_weights(True, width, bench.dtype) if weights else 0
        bench.link.memory = need + int(_block_bytes(pipe) * gib / 20)
    else:
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        room = gib * GIB - context - torch.cuda.memory_reserved()
        block = torch.empty(free - room, dtype=torch.uint8, device=bench.device)
        torch.cuda.reset_peak_memory_stats()
    try:
        result, seconds, prepared = bench.sample(FIVE, steps, height)
        best = min(seconds[1:])
        text = f"{best:.3f} s a step of five tasks at {height} × {2 * height}"
        if height == 512:
            text += f", {best / bench.step_s:.2f} × resident"
        if height == 512 and not weights:
            text += f", bit-equal to it: {bench.expected is not None and torch.equal(result, bench.expected)}"
        bench.say(f"{gib} GB CARD{weights and ', '}{weights}: {text}")
        moved = f"{bench.streamed / 1e9:.2f} of {_block_bytes(pipe) / 1e9:.2f} GB streamed a step"
        bench.say(f"  steps {_list(seconds)}, before them {prepared:.1f} s; {moved}")
        if block is not None:
            allocated, reserved = (
                (peak - block.numel()) / GIB
                for peak in (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
            )
            bench.say(
                f"  PEAK {allocated:.2f} GiB allocated, {reserved:.2f} reserved, "
                f"{reserved + context / GIB:.2f} with the context of {context / GIB:.2f}"
            )
    finally:
        del block
        bench.clean()


def _block_bytes(pipe: OmniXPipeline) -> int:
    """Return the bytes of the blocks without modulation, with all adapters."""
    blocks = [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]
    weights = [x for block in blocks for name, x in block.named_parameters() if ".linear." not in f".{name}"]
    factors = [x for layers in pipe.resident.values() for pair in layers.values() for x in pair]
    return sum(x.numel() * x.element_size() for x in [*weights, *factors])


def sequential(bench: Bench) -> None:
    """accelerate's sequential offload, as before: every layer moved for every task, from pageable memory."""
    pipe = bench.pipe
    residency.detach(pipe.transformer)
    bench.clean()
    pipe.transformer.to("cpu")
    cpu_offload(pipe.transformer, bench.device)
    began = time.perf_counter()
    _forward_step(bench, FIVE[0])
    bench.synchronize()
    seconds = time.perf_counter() - began
    peak = "" if bench.tiny else f", peak {torch.cuda.max_memory_allocated() / GIB:.2f} GiB allocated"
    bench.say(
        f"SEQUENTIAL OFFLOAD of accelerate, as before: {seconds:.2f} s a step of one task, "
        f"so {5 * seconds:.1f} s of five, {5 * seconds / bench.step_s:.1f} × resident{peak}"
    )
    remove_hook_from_module(pipe.transformer, recurse=True)


def decode(bench: Bench) -> None:
    """The VAE's decoder, and its encoder."""
    for height in (64,) if bench.tiny else (512, 1024, 2048):
        for name, run, channels, scale in (("decodes", bench.pipe.decode, 16, 8), ("encodes", bench.pipe.encode, 3, 1)):
            x = torch.randn(1, channels, height // scale, 2 * height // scale, device=bench.device)
            run(x)
            bench.clean()
            before = 0 if bench.tiny else torch.cuda.memory_allocated()
            began = time.perf_counter()
            run(x)
            bench.synchronize()
            seconds = time.perf_counter() - began
            peak = "" if bench.tiny else f", peak {(torch.cuda.max_memory_allocated() - before) / GIB:.2f} GiB"
            bench.say(f"VAE {name} {height} × {2 * height}: {seconds:.2f} s{peak}")


def eight_bit(bench: Bench) -> None:
    """The blocks' weights in 8-bit floats without scales, as in flux1-dev-fp8.safetensors; cards of 12 and 8 GiB."""
    pipe = bench.pipe
    residency.detach(pipe.transformer)
    for blocks in (pipe.transformer.transformer_blocks, pipe.transformer.single_transformer_blocks):
        for name, linear in list(blocks.named_modules()):
            if type(linear) is torch.nn.Linear:
                stored = linear.weight.to(bench.device).to(torch.float8_e4m3fn).view(torch.uint8).cpu()
                new = quantised.stored(linear, "F8_E4M3", stored)
                blocks.set_submodule(name, new)
    if not bench.tiny:
        torch.cuda.empty_cache()
    pipe.stream(bench.link)
    for gib in (12, 8):
        card(bench, gib, weights="8-bit floats")


def compiled(bench: Bench) -> None:
    """Regional compilation of the blocks, all of them resident."""
    pipe = bench.pipe
    residency.detach(pipe.transformer)
    pipe.transformer.to(bench.device)
    bench.clean()
    pipe.transformer.compile_repeated_blocks(fullgraph=True)
    began = time.perf_counter()
    result, seconds, _ = bench.sample(FIVE, 3)
    first = time.perf_counter() - began
    again, more, _ = bench.sample(FIVE, 3)
    difference = float("nan") if bench.expected is None else (result - bench.expected).abs().max().item()
    bench.say(
        f"COMPILED: {min(more[1:]):.3f} s a step of five tasks, {bench.step_s / min(more[1:]):.2f} × faster; "
        f"first call {first:.0f} s (steps {_list(seconds)}), second {_list(more)}; differs by at most {difference:.3g}"
    )
    bench.say(f"  two calls are bit-equal: {torch.equal(result, again)}")


def _list(seconds: list[float]) -> str:
    return " ".join(f"{x:.2f}" for x in seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument("--seconds", type=float, default=165, help="limit for the whole run (default: 165)")
    parser.add_argument("--stages", default="", help="run these only, after building")
    options = parser.parse_args()
    faulthandler.dump_traceback_later(options.seconds + 4 - (time.time() - STARTED), exit=True)

    if options.tiny:
        bench = Bench(True, torch.device("cpu"), torch.float32, text=5)
    else:
        bench = Bench(False, torch.device("cuda", 0), torch.bfloat16)
        torch.backends.cudnn.deterministic = True  # as for jobs
        torch.cuda.init()
        free, total = torch.cuda.mem_get_info()
        bench.say(
            f"{torch.cuda.get_device_name()}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, torch {torch.__version__}"
        )
    # Name, probable seconds, function
    stages: list[tuple[str, float, Callable[[], None]]] = [
        ("build", 20, lambda: build(bench)),
        ("resident", 12, lambda: resident(bench)),
        ("exact", 5, lambda: exact(bench)),
        ("main memory", 20, lambda: to_main_memory(bench)),
        ("card 12", 20, lambda: card(bench, 12)),
        ("card 8", 12, lambda: card(bench, 8)),
        ("card 24", 12, lambda: card(bench, 24)),
        ("card 16", 12, lambda: card(bench, 16)),
        ("large", 20, lambda: card(bench, 12, 1024, 2)),
        ("sequential", 25, lambda: sequential(bench)),
        ("decode", 8, lambda: decode(bench)),
        ("compiled", 50, lambda: compiled(bench)),
        ("8 bit", 30, lambda: eight_bit(bench)),
    ]
    failed = []
    for name, probable, run in stages:
        if options.stages and name not in ("build", "main memory", *options.stages.split(",")):
            continue
        if time.time() - STARTED + probable > options.seconds:
            bench.say(f"{name}: left out, it would end after {options.seconds:.0f} s")
            continue
        try:
            run()
        except Exception:
            traceback.print_exc(file=sys.stdout)
            bench.say(f"{name}: FAILED, see above")
            failed.append(name)
            traceback.clear_frames(sys.exc_info()[2])
    bench.say(f"done; failed: {', '.join(failed) or 'none'}")
    faulthandler.cancel_dump_traceback_later()
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
