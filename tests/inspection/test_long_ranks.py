"""Ranks of long maps: left out where nobody asked for them, with a word, and measured by name."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import dsf
from dsf import measures
from dsf.inspection.results import measurements
from dsf.inspection.results.measurements import LONGEST_FOR_RANKS, RANK, measured

LONG = LONGEST_FOR_RANKS + 1


def attention(steps):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        module.in_proj_weight.mul_(3)
    return module, 3 * (torch.randn(1, steps, 8, dtype=torch.float64),)


def test_of_a_long_attention_they_are_left_out_with_the_reason_and_the_cure(monkeypatch):
    monkeypatch.setattr(measures, "hankel_ranks", lambda *_, **__: pytest.fail("takes too long"))
    module, inputs = attention(LONG)
    table = dsf.inspect(module, *inputs).measure()
    assert {row["quantity"] for row in table} == set(measurements.QUANTITIES)
    (rank,) = table.where(quantity=RANK)
    assert math.isnan(rank["value"])
    assert rank["note"].startswith("left out: of 1,025 tokens, more than 1,024, a block of 512 x ")
    assert "inspection.measure('middle_hankel_rank')" in rank["note"]
    assert all("note" not in row for row in table if row["quantity"] != RANK)


def test_by_name_they_are_those_of_a_decomposition():
    module, inputs = attention(LONG)
    table = dsf.inspect(module, *inputs).measure(RANK)
    _, maps = module(*inputs, average_attn_weights=False)
    middle = (LONG - 1) // 2
    blocks = maps[0, :, middle + 1 :, : middle + 1].detach().numpy()
    values = np.linalg.svd(blocks, compute_uv=False)
    expected = (values > 1e-10 * values[:, :1]).sum(axis=1)
    assert [row["value"] for row in table] == expected.tolist()
    assert 8 < expected.min() < 500  # neither nothing nor everything


def test_up_to_the_limit_nothing_is_left_out():
    module, inputs = attention(LONGEST_FOR_RANKS)
    inspection = dsf.inspect(module, *inputs)
    assert list(inspection.measure().where(quantity=RANK)) == list(inspection.measure(RANK))


class Recurrent:
    """A layer whose ranks follow from its states, one way or the other."""

    name, family, axes, padding = "recurrent", "none", ("head",), None

    def __init__(self, system):
        self.system = system

    def place(self, index):
        return index


def test_of_states_they_are_never_left_out():
    mixer = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=LONG)
    ranks = measured([Recurrent(mixer.system())]).where(quantity=RANK)
    assert all(row["value"] == mixer.system().state_size for row in ranks)


def test_of_states_that_run_backward_the_blocks_are_factorised_and_left_out():
    mixer = dsf.mixers.LinearAttention.draw(torch.Generator().manual_seed(0), steps=LONG)
    (rank,) = measured([Recurrent(dsf.systems.algebra.reverse(mixer.system()))]).where(
        quantity=RANK
    )
    assert "left out" in rank["note"]
