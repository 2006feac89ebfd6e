"""Blocks that stream over a simulated link: contents, budget, bytes and time."""

import time

import pytest
import torch

from panoform.backend.models.links import ThreadLink
from panoform.backend.models.residency import Streaming, choose
from panoform.shared.protocol.errors import DeviceMemoryError

KIB = 1024


def make_blocks(count: int, kib: int = 4) -> list[list[torch.Tensor]]:
    """Return blocks of tensors of several dtypes, of `kib` KiB in all, with different contents."""
    blocks = []
    for i in range(count):
        floats = torch.full([kib * KIB // 4 - 128], float(i))
        blocks.append([floats, torch.full([1, 128], i, dtype=torch.uint8), torch.full([100], i, dtype=torch.bfloat16)])
    return blocks


def contents(block: list[torch.Tensor]) -> list[float]:
    return [x.float().unique().tolist() for x in block]


@pytest.mark.parametrize("budget_kib", [9, 14, 23, 100])
def test_each_block_is_present_in_its_turn(budget_kib):
    """In three rounds, with none to all of six blocks resident; afterwards the tensors are where they were."""
    blocks = make_blocks(6)
    before = [[x.clone() for x in block] for block in blocks]
    residency = Streaming(ThreadLink(), budget_kib * KIB)
    for _ in range(2):
        with residency.opened(blocks):
            for _ in range(3):
                for i, block in enumerate(blocks):
                    with residency.present(i):
                        assert contents(block) == [[i]] * 3
    for block, expected in zip(blocks, before, strict=True):
        for x, y in zip(block, expected, strict=True):
            assert torch.equal(x, y)
            assert x.shape == y.shape


@pytest.mark.parametrize("main_memory_kib", [0, 4])
def test_blocks_stream_from_where_they_are_in_too_little_main_memory(main_memory_kib):
    blocks, link = make_blocks(4), ThreadLink()
    homes = [x.data_ptr() for block in blocks for x in block]
    link.main_memory = main_memory_kib * KIB - 1
    residency = Streaming(link, 8 * KIB)
    with residency.opened(blocks):
        for _ in range(2):
            for i, block in enumerate(blocks):
                with residency.present(i):
                    assert contents(block) == [[i]] * 3
    assert [x.data_ptr() for block in blocks for x in block] == homes


def test_blocks_are_right_after_a_step_was_left():
    tensors = make_blocks(5)
    residency = Streaming(ThreadLink(), 8 * KIB)
    with residency.opened(tensors):
        for last in (2, 0, 4):
            for i in range(last + 1):
                with residency.present(i):
                    assert contents(tensors[i]) == [[i]] * 3


def test_tensors_may_come_and_go_between_uses():
    """As LoRAs and adapters of other tasks do."""
    blocks, residency = make_blocks(3), Streaming(ThreadLink(), 10 * KIB)
    extra = [torch.full([64], 100.0 + i) for i in range(3)]
    for with_extra in (False, True, False, True):
        used = [[*block, x] if with_extra else block for block, x in zip(blocks, extra, strict=True)]
        with residency.opened(used):
            for i, block in enumerate(used):
                with residency.present(i):
                    assert contents(block) == [[i]] * 3 + [[100 + i]] * with_extra
    assert contents(extra) == [[100], [101], [102]]


def test_an_error_while_a_block_is_present_restores_all():
    blocks = make_blocks(4)
    homes = [x.data_ptr() for block in blocks for x in block]
    residency = Streaming(ThreadLink(), 13 * KIB)
    with pytest.raises(KeyError), residency.opened(blocks), residency.present(0), residency.present(1):
        raise KeyError
    assert [contents(block) for block in blocks] == [[[i]] * 3 for i in range(4)]
    packed = [x.data_ptr() for block in blocks for x in block]
    with pytest.raises(KeyError), residency.opened(blocks), residency.present(0):
        raise KeyError
    assert [x.data_ptr() for block in blocks for x in block] == packed, "packed once"
    assert homes != packed


def test_only_streamed_blocks_are_fetched():
    """13 of 20 blocks fit beside the two buffers: a round fetches 7."""
    blocks, link = make_blocks(20), ThreadLink()
    residency = Streaming(link, 15 * 4 * KIB)
    with residency.opened(blocks):
        assert residency.streamed == 7 * 4 * KIB
        for _ in range(3):
            for i in range(20):
                with residency.present(i):
                    pass
    assert link.copied == (3 * 7 + 2) * 4 * KIB, "two blocks are on their way when it ends"


def test_streamed_blocks_are_spread_evenly():
    sizes = [2] * 19 + [1] * 38
    staying = choose(sizes, 4 + 40)
    assert 38 <= sum(sizes[i] for i in staying) <= 40
    gaps = [b - a for a, b in zip(sorted(staying), sorted(staying)[1:], strict=False)]
    assert max(gaps) <= 2
    assert choose(sizes, sum(sizes)) == set(range(57))
    assert choose(sizes, 4) == set()


def test_computing_hides_the_link():
    """A link as slow as the computation: a round takes about as long as either, not as both."""
    blocks = make_blocks(12, kib=64)
    link = ThreadLink(bytes_per_s=64 * KIB / 0.02)
    residency = Streaming(link, 2 * 64 * KIB)
    with residency.opened(blocks):
        began = time.perf_counter()
        for _ in range(2):
            for i in range(12):
                with residency.present(i):
                    time.sleep(0.02)
        seconds = time.perf_counter() - began
    assert seconds < 1.4 * 2 * 12 * 0.02


def test_too_small_a_budget_is_refused_before_anything_is_copied():
    blocks, link = make_blocks(3), ThreadLink(memory=20 * KIB)
    with pytest.raises(DeviceMemoryError, match=r"two blocks of the model need"):
        Streaming(link, 7 * KIB).opened(blocks).__enter__()
    with pytest.raises(DeviceMemoryError), Streaming(link).opened(blocks, need=13 * KIB):
        pass
    assert link.copied == 0
    with Streaming(link).opened(blocks, need=12 * KIB):
        pass
