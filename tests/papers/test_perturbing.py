"""Query, key or decay: which part of a map a token's coefficients move."""

from dataclasses import replace

import pytest
import torch

from dsf import mixers
from dsf.layers import MetaLinearAttention
from papers.meta_linear.experiments.conditions.perturbing import (
    Changes,
    changes,
    classify,
    compared,
    drawn,
    follows_input,
    order_matters,
)

STEPS, AT = 24, 12
PARTS = ("query", "key", "decay", "elsewhere")


def instance(mixer):
    return drawn(mixer)(STEPS)


def parts(found):
    return {name for name in PARTS if getattr(found, name)}


def full_map():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, STEPS, 1, STEPS, 1, generator=generator, dtype=torch.float64).add(0.5)


@pytest.mark.parametrize(
    ("mixer", "field", "moved"),
    [
        (mixers.GatedLinearAttention, "query", {"query"}),
        (mixers.GatedLinearAttention, "key", {"key"}),
        (mixers.GatedLinearAttention, "log_decay", {"decay"}),
        (mixers.MetaLinearAttention, "decay", {"key", "decay"}),
        (mixers.RWKV6, "query", {"query"}),
        (mixers.RWKV6, "log_decay", {"decay"}),
        (mixers.SelectiveStateSpace, "step", {"key", "decay"}),
        (mixers.DeltaNet, "key", {"key", "decay"}),
        (mixers.RWKV4, "key", {"key"}),
        (mixers.LinearAttention, "key", {"key"}),
        (mixers.MLSTM, "forget_gate", {"decay"}),
        (mixers.QuasiLSTM, "output", set()),
        (mixers.GRU, "inputs", {"key", "decay"}),
        (mixers.InLineAttention, "key", {"query", "key", "elsewhere"}),
    ],
)
def test_what_a_field_acts_as(mixer, field, moved):
    assert parts(changes(instance(mixer), field, at=AT)) == moved


@pytest.mark.parametrize(
    ("row", "column", "part"),
    [
        (AT, 0, "query"),
        (AT, AT - 1, "query"),
        (AT + 1, AT, "key"),
        (STEPS - 1, AT, "key"),
        (AT + 1, AT - 1, "decay"),
        (STEPS - 1, 0, "decay"),
    ],
)
def test_one_entry_belongs_to_one_part(row, column, part):
    before = full_map()
    after = before.clone()
    after[0, row, 0, column, 0] += 0.3
    assert parts(compared(before, after, at=AT)) == {part}


def test_an_entry_between_later_tokens_belongs_to_none():
    before = full_map()
    after = before.clone()
    after[0, -1, 0, AT + 1, 0] += 0.3
    assert compared(before, after, at=AT).elsewhere


@pytest.mark.parametrize(("row", "column"), [(AT, AT), (AT - 1, AT - 1), (AT, AT + 1)])
def test_entries_that_a_token_may_change_anyway(row, column):
    before = full_map()
    after = before.clone()
    after[0, row, 0, column, 0] += 0.3
    assert parts(compared(before, after, at=AT)) == set()


def test_the_scale_of_a_row_says_nothing():
    before = full_map()
    scale = torch.linspace(0.2, 3, STEPS, dtype=torch.float64)[:, None, None, None]
    assert compared(before, scale * before, at=AT) == Changes(
        query=False, key=False, decay=False, elsewhere=False
    )


@pytest.mark.parametrize(
    ("mixer", "noticed"),
    [
        (mixers.NormalisedAttention, False),
        (mixers.LinearAttention, False),
        (mixers.Retention, True),
        (mixers.ForgettingAttention, True),
    ],
)
def test_order_matters_to_whoever_forgets(mixer, noticed):
    mixer = instance(mixer)
    names = [name for name in ("query", "key", "normaliser", "log_decay") if hasattr(mixer, name)]
    assert order_matters(mixer, names, at=AT) is noticed


def test_a_retention_that_forgets_nothing_does_not_notice_the_order():
    mixer = instance(mixers.Retention)
    still = replace(mixer, decay=torch.ones_like(mixer.decay))
    assert not order_matters(still, ("query", "key"), at=AT)
    assert classify(lambda _: still, ("query", "key")).letters == "ynyn"


def test_what_a_layer_computes_from_its_input():
    assert follows_input(MetaLinearAttention(8)) == ("query", "decay")
    assert follows_input(MetaLinearAttention(8, fixed_decay=True)) == ("query",)
