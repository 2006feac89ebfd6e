"""OmniX: several tasks in one call, and weights that are streamed to the device block by block."""

import pytest
import torch
from omnix_golden import GOLDEN, GOLDEN_TASKS, arguments, golden, write_adapters

from panoform.backend.models.links import ThreadLink
from panoform.backend.pipelines.omnix import OmniXPipeline
from panoform.shared.protocol.errors import SettingError


def several(names: list[str]) -> dict:
    """Return the arguments of several tasks in one call: conditions and noise of the first, shared by all."""
    values = arguments(names[0]) | {"task": names}
    values["latents"] = torch.cat([golden(names[0])["noise"].roll(i, -1) for i in range(len(names))])
    return values


def one_of(values: dict, index: int) -> dict:
    """Return the arguments of one of several tasks alone."""
    task = values["task"][index]
    return values | {"task": task, "latents": values["latents"][index : index + 1]}


PERCEPTION = ["rgb_to_depth", "rgb_camray_to_normal", "rgb_to_albedo"]


@pytest.fixture(scope="module")
def perceiving(tmp_path_factory) -> OmniXPipeline:
    """A pipeline with random adapters of three tasks, one of them of three streams."""
    pipe, folder = OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux"), tmp_path_factory.mktemp("adapters")
    for seed, task in enumerate(PERCEPTION):
        pipe.load_adapters(write_adapters(pipe, folder, task, seed), task)
    return pipe


def test_several_tasks_in_one_call_are_bit_equal_to_each_alone(perceiving):
    values, steps = several(PERCEPTION), []
    together = perceiving(**values, callback_on_step_end=lambda *args: steps.append(args[-1])).images
    assert together.shape == (3, 3, 64, 128)
    for i in range(3):
        alone_steps = []
        alone = perceiving(**one_of(values, i), callback_on_step_end=lambda *args: alone_steps.append(args[-1])).images  # noqa: B023
        assert torch.equal(together[i : i + 1], alone)
        for found, expected in zip(steps, alone_steps, strict=True):
            for name in ("latents", "denoised"):
                assert torch.equal(found[name][i : i + 1], expected[name])


@pytest.mark.slow
def test_noise_of_several_tasks_is_sampled_as_one_by_one(perceiving):
    values = several(PERCEPTION) | {"latents": None, "output_type": "latent"}
    together = perceiving(**values, generator=torch.Generator().manual_seed(3)).images
    generator = torch.Generator().manual_seed(3)
    for i, task in enumerate(PERCEPTION):
        assert torch.equal(together[i : i + 1], perceiving(**(values | {"task": task}), generator=generator).images)


@pytest.mark.parametrize("tasks", [[], ["rgb_to_depth", "rgb_to_depth"], ["rgb_to_depth", "rgb_to_money"]])
def test_no_repeated_or_unknown_task_is_rejected(perceiving, tasks):
    with pytest.raises(SettingError):
        perceiving(**(several(PERCEPTION) | {"task": tasks}))


def sizes(pipe: OmniXPipeline) -> list[int]:
    """Return the bytes of each block that are needed while denoising, without adapters."""
    blocks = [*pipe.transformer.transformer_blocks, *pipe.transformer.single_transformer_blocks]
    norms = ("norm1.linear.", "norm1_context.linear.", "norm.linear.")
    return [
        sum(x.numel() * x.element_size() for name, x in block.named_parameters() if not name.startswith(norms))
        for block in blocks
    ]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("task", GOLDEN_TASKS)
def test_streamed_weights_give_the_reference_trace(task, resident):
    pipe = OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux")
    pipe.load_adapters(GOLDEN / "adapters", task)
    largest = int(1.2 * max(sizes(pipe)))
    pipe.stream(ThreadLink(), limit=int(3.5 * largest), resident=resident)
    trace = []
    pipe(
        **arguments(task), circular_encode=False, output_type="latent",
        callback_on_step_end=lambda *args: trace.append(args[-1]["latents"]),
    )  # fmt: skip
    torch.testing.assert_close(torch.cat(trace), golden(task)["trace"], atol=1e-4, rtol=0)


@pytest.mark.slow
def test_one_pass_fetches_a_fifth_of_task_by_task(tmp_path):
    """Bytes per step, with the blocks' adapters, of five tasks; and the results are bit-equal to resident weights."""
    tasks = ["rgb_to_depth", "rgb_to_normal", "rgb_to_albedo", "rgb_to_pbr", "rgb_to_semantic"]
    pipes = [OmniXPipeline.from_pretrained(GOLDEN / "tiny-flux") for _ in range(2)]
    for seed, task in enumerate(tasks):
        write_adapters(pipes[0], tmp_path, task, seed)
        for pipe in pipes:
            pipe.load_adapters(tmp_path, task)
    resident, streamed = pipes
    values = several(tasks) | {"output_type": "latent"}
    link = ThreadLink()
    streamed.stream(link, resident=False)
    together, fetched = streamed(**values).images, link.copied
    assert torch.equal(together, resident(**values).images)

    link.copied = 0
    for i in range(5):
        assert torch.equal(streamed(**one_of(values, i)).images, together[i : i + 1])
    weights, steps = sum(sizes(streamed)), values["num_inference_steps"]
    factors = [x for task in tasks for pair in streamed.resident[task].values() for x in pair]
    adapters = sum(x.numel() * x.element_size() for x in factors)
    rounds = 1.2 * (steps + 2 / len(sizes(streamed)))  # two blocks are ahead; small tensors are padded
    assert steps * (weights + adapters) < fetched < rounds * (weights + adapters)
    assert steps * (5 * weights + adapters) < link.copied < rounds * (5 * weights + adapters)
