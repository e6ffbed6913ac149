"""Maps and blocks of rows: which rows, of what, and how much memory."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import MapTooLarge, Rows, row_blocks
from dsf.evaluate.memory_plan import check_room, free_memory
from dsf.systems.composite import ExplicitMap, StoredRows, SystemSum
from tests.drawn import Drawer, attention, both_ways, literal_map, sampled

ours = pytest.mark.usefixtures("our_own_errors")
STEPS = 10


def operators():
    """Everything that has a map, with two outputs and three inputs where it can."""
    drawer = Drawer(1)
    plain = drawer.system("low_rank", steps=STEPS, ports=(3, 2))
    return {
        "system": plain,
        "backward": dsf.systems.algebra.reverse(plain),
        "sum": both_ways(drawer, plain),
        "attention": attention(steps=STEPS),
        "backward attention": dsf.systems.algebra.reverse(attention(steps=STEPS)),
        "rectangular": ExplicitMap(StoredRows(drawer.tensor(STEPS, 4))),
        "sampled": sampled(steps=STEPS),
    }


every_operator = pytest.mark.parametrize("operator", operators().values(), ids=operators())
SELECTIONS = [
    slice(3, 7),
    slice(0, 1),
    slice(None, None, 3),
    slice(-3, None),
    slice(2, 99, 2),
    0,
    -1,
    9,
]


@every_operator
@pytest.mark.parametrize("rows", SELECTIONS, ids=str)
def test_some_rows_are_those_of_the_whole_map(operator, rows):
    outputs = operator.output_size
    whole = dsf.attention_map(operator).unflatten(-2, (-1, outputs))
    picked = slice(rows, rows + 1 or None) if isinstance(rows, int) else rows
    wanted = whole[..., picked, :, :].flatten(-3, -2)
    assert_close(dsf.attention_map(operator, rows=rows), wanted)


@ours
@every_operator
def test_rows_outside_the_sequence(operator):
    for token in (10, -11):
        with pytest.raises(IndexError, match=f"row {token}"):
            dsf.attention_map(operator, rows=token)
    for empty in (slice(4, 4), slice(7, 3), slice(20, 30), slice(5, 2, -1)):
        with pytest.raises(IndexError, match="no token"):
            dsf.attention_map(operator, rows=empty)
    for odd in ([3], 2.0, "3"):
        with pytest.raises(TypeError, match="'rows'"):
            dsf.attention_map(operator, rows=odd)


@every_operator
@pytest.mark.parametrize("size", [1, 4, 64])
def test_blocks_are_the_map_in_order(operator, size):
    blocks = list(row_blocks(operator, size=size))
    assert_close(
        torch.cat([block.weights for block in blocks], dim=-2), dsf.attention_map(operator)
    )
    written = torch.cat([block.written for block in blocks])
    assert written.tolist() == [t for t in range(STEPS) for _ in range(operator.output_size)]
    reads = blocks[0].weights.shape[-1]
    assert blocks[0].read.tolist() == [k // operator.input_size for k in range(reads)]


def test_blocks_of_a_matrix_and_of_blocks():
    map = Drawer(2).tensor(2, 5, 5)
    blocks = list(row_blocks(map, size=2))
    assert [block.written.tolist() for block in blocks] == [[0, 1], [2, 3], [4]]
    assert_close(torch.cat([block.weights for block in blocks], dim=-2), map)
    assert [again is block for again, block in zip(row_blocks(iter(blocks)), blocks, strict=True)]
    assert blocks[1].lag.tolist() == [[2, 1, 0, -1, -2], [3, 2, 1, 0, -1]]
    assert isinstance(blocks[0], Rows)


@ours
def test_blocks_of_what_has_none():
    for shape in ((3, 4), (3,)):
        with pytest.raises(ValueError, match="square"):
            row_blocks(torch.ones(shape))
    with pytest.raises(ValueError, match="'size'"):
        row_blocks(attention(), size=0)
    with pytest.raises(TypeError, match="'map_or_system'"):
        row_blocks(3)


def test_the_real_part_is_taken_in_maps_as_in_responses():
    drawer = Drawer(3, complex=True)
    system = drawer.system("diagonal", steps=STEPS, takes_real_part=True)
    rows = StoredRows(drawer.tensor(6, 6))
    cache = replace(attention(), C=rows, takes_real_part=True)
    signal = Drawer(4).tensor(STEPS, 1, 2)
    for operator in (
        system,
        dsf.systems.algebra.reverse(system),
        cache,
        dsf.systems.algebra.reverse(cache),
    ):
        map = dsf.attention_map(operator)
        assert map.dtype == torch.float64
        values = signal[: operator.steps]
        response = dsf.respond(operator, values)
        assert response.dtype == torch.float64
        assert_close((map @ values.squeeze(-2)).unsqueeze(-2), response)


def test_a_map_too_large_is_refused_before_it_is_made(monkeypatch):
    """Said in GB, with the way around; some of its rows are still to be had."""
    monkeypatch.setattr("dsf.evaluate.memory_plan.free_memory", lambda _: 16_000)
    one = torch.ones(100, 1)
    system = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(one), one, one)
    with pytest.raises(MapTooLarge, match=r"\(100, 100\).*rows=slice\(0, 64\)"):
        dsf.attention_map(system)
    assert dsf.attention_map(system, rows=slice(0, 20)).shape == (20, 100)
    with pytest.raises(MapTooLarge):
        dsf.attention_map(system, rows=slice(0, 21))


def test_a_map_of_a_million_tokens_is_refused():
    one = torch.ones(()).expand(2**21, 1)
    system = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(one), one, one)
    with pytest.raises(MapTooLarge, match=r"17592\.2 GB"):
        dsf.attention_map(system)


def test_memory_that_nobody_knows_is_not_refused(monkeypatch):
    monkeypatch.setattr("dsf.evaluate.memory_plan.free_memory", lambda _: None)
    check_room("test", (2**40,), torch.float64, torch.device("cpu"))


def test_free_memory_is_told_in_bytes():
    assert free_memory(torch.device("cpu")) > 2**20


def test_rows_far_back_cost_no_rows_in_front_of_them():
    """The last rows of a long cache: one panel is computed, not all of them."""
    seen = []

    class Counted(StoredRows):
        def window(self, start, stop):
            seen.append((start, stop))
            return super().window(start, stop)

    rows = Counted(torch.ones(1000, 1000).tril())
    cache = replace(attention(steps=1000), C=rows)
    dsf.attention_map(cache, rows=slice(990, 1000))
    dsf.attention_map(ExplicitMap(rows), rows=slice(0, 3))
    assert seen == [(990, 1000), (0, 3)]


def test_a_sum_of_different_number_types():
    drawer = Drawer(5)
    system = drawer.system("diagonal", steps=STEPS)
    single = dsf.systems.algebra.converted(system, dtype=torch.float32)
    both = SystemSum((single, dsf.systems.algebra.reverse(system)))
    wanted = literal_map(system) + literal_map(system).flip(0, 1)
    assert_close(dsf.attention_map(both), wanted, rtol=1e-5, atol=1e-6)
    signal = drawer.tensor(STEPS, 1, 2)
    assert_close(
        dsf.respond(both, signal).squeeze(1), wanted @ signal.squeeze(1), rtol=1e-5, atol=1e-6
    )
