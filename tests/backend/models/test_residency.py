"""Blocks that stream over a simulated link: contents, budget, bytes and order."""

import pytest
import torch
from torch import nn

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


def test_weights_are_packed_once_whatever_adapters_come():
    """Five tasks one after the other, each with factors of its own beside the weights: as a user asks for maps."""
    weights = [[nn.Parameter(torch.full([KIB], float(i)), requires_grad=False)] for i in range(6)]
    residency, addresses, factors = Streaming(ThreadLink(), 14 * KIB), [], []
    for task in range(5):
        factors.append([torch.full([64], 10.0 * task + i) for i in range(6)])
        with residency.opened([[*block, x] for block, x in zip(weights, factors[task], strict=True)]):
            for i in range(6):
                with residency.present(i):
                    assert contents([*weights[i], factors[task][i]]) == [[i], [10 * task + i]]
        addresses.append([block[0].data_ptr() for block in weights])
    assert all(found == addresses[0] for found in addresses)
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for f in factors for x in f}
    assert sum(storages.values()) <= 5 * 6 * 256, "no factor keeps a copy of weights alive"


class Crowded(ThreadLink):
    """A device whose memory another program takes as soon as it is free, `times` times."""

    times = 1

    def fetch(self, pairs, after):
        if self.times and self.shrinking:
            self.times -= 1
            raise torch.OutOfMemoryError
        return super().fetch(pairs, after)

    shrinking = False


def test_shrinking_goes_on_where_the_memory_is_taken_at_once():
    blocks, link = make_blocks(9), Crowded()
    residency = Streaming(link)
    with residency.opened(blocks):
        assert residency.streamed == 0
        link.shrinking = True
        assert residency.shrink()
        assert residency.streamed == 7 * 4 * KIB, "of nine five left, then two of four"
        for i, block in enumerate(blocks):
            with residency.present(i):
                assert contents(block) == [[i]] * 3


def test_what_leaves_the_device_stays_mapped_where_main_memory_is_too_small():
    blocks, link = make_blocks(4), ThreadLink()
    homes = [x.data_ptr() for block in blocks for x in block]
    link.main_memory = 4 * KIB - 1
    residency = Streaming(link)
    with residency.opened(blocks):
        assert residency.shrink()
        for i, block in enumerate(blocks):
            with residency.present(i):
                assert contents(block) == [[i]] * 3
    assert [x.data_ptr() for block in blocks for x in block] == homes


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


class Recording(ThreadLink):
    """Records when blocks of 4 KiB begin to come."""

    def __init__(self, events: list) -> None:
        super().__init__()
        self.events = events

    def fetch(self, pairs, after):
        self.events.append(int(pairs[0][0][:4].view(torch.float32)))
        return super().fetch(pairs, after)


def test_two_blocks_are_on_their_way_while_one_computes():
    events = []
    blocks = make_blocks(6)
    residency = Streaming(Recording(events), 2 * 4 * KIB)
    with residency.opened(blocks):
        for i in range(6):
            with residency.present(i):
                events.append(f"compute {i}")
    computed = {i: events.index(f"compute {i}") for i in range(6)}
    for i in range(1, 6):
        assert events.index(i) < computed[i - 1], "it began to come before the block before was computed"
    assert events[-1] == 1, "the next round's"


def test_too_small_a_budget_is_refused_before_anything_is_copied():
    blocks, link = make_blocks(3), ThreadLink(memory=20 * KIB)
    with pytest.raises(DeviceMemoryError, match=r"two blocks of the model need"):
        Streaming(link, 7 * KIB).opened(blocks).__enter__()
    with pytest.raises(DeviceMemoryError), Streaming(link).opened(blocks, need=13 * KIB):
        pass
    assert link.copied == 0
    with Streaming(link).opened(blocks, need=12 * KIB):
        pass
