"""A softmax layer is compared by rows of the map that is shown, not by a fused kernel alone.

Every mistake here is planted in the rows of the map only: the response by fused attention, which is
what the module itself calls, stays right.
"""

import functools
from dataclasses import replace

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import dsf
from dsf.inspection.rebuild import EVERY, sampled_rows
from dsf.inspection.softmax import follower
from dsf.systems.composite import SoftmaxRows
from tests.inspection.softmax_models import BUILT, VOCABULARY

LOGITS, REACH, SCORES = SoftmaxRows.logits, SoftmaxRows.reach, SoftmaxRows.scores


def a_key_too_many(rows, start, stop):
    logits = LOGITS(rows, start, stop)
    ahead = (rows.lags(start, stop)[:, : logits.shape[-1]] == -1).expand_as(logits)
    return logits.masked_fill(ahead, 0)


def a_key_too_few(rows, start, stop):
    logits = LOGITS(rows, start, stop)
    own = (rows.lags(start, stop) == 0)[:, : logits.shape[-1]]
    return logits.masked_fill(own & (torch.arange(start, stop) > 0)[:, None], -torch.inf)


def windowed(rows, start, stop):
    logits = LOGITS(rows, start, stop)
    return logits.masked_fill(rows.lags(start, stop)[:, : logits.shape[-1]] >= 9, -torch.inf)


def biased(rows, start, stop):
    logits = LOGITS(rows, start, stop)
    return logits - 0.01 * rows.lags(start, stop)[:, : logits.shape[-1]]


def capped(rows, start, stop):
    logits = LOGITS(rows, start, stop)
    return torch.where(logits > -torch.inf, 2 * torch.tanh(logits / 2), logits)


def scaled(rows, start, stop, *, keys=None):
    return 1.01 * SCORES(rows, start, stop, keys=keys)


def heads_interleaved(rows, start, stop, *, keys=None):
    key = rows.key.unflatten(-3, (2, -1)).transpose(-4, -3).flatten(-4, -3)
    return (rows.scale * rows.query[..., start:stop, :]) @ key[..., :keys, :].mT


def with_a_sink(rows, start, stop):
    return REACH(replace(rows, sink=rows.query.new_zeros(rows.query.shape[:-2])), start, stop)


MISTAKES = {
    "mask ahead by one": ("logits", a_key_too_many),
    "mask behind by one": ("logits", a_key_too_few),
    "window": ("logits", windowed),
    "bias": ("logits", biased),
    "soft cap": ("logits", capped),
    "scale": ("scores", scaled),
    "heads of other groups": ("scores", heads_interleaved),
    "sink": ("reach", with_a_sink),
}


def built(name="llama"):
    torch.manual_seed(0)
    kind, config, settings = BUILT[name]
    model = kind(config(**settings | {"max_position_embeddings": 4 * EVERY})).eval()
    for part in model.parameters():
        torch.nn.init.normal_(part, std=0.3)
    return model


@pytest.fixture(scope="module")
def model():
    return built()


def inputs(length):
    drawn = torch.Generator().manual_seed(0)
    return {"input_ids": torch.randint(1, VOCABULARY, (1, length), generator=drawn)}


LENGTHS = (24, EVERY + 70)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(("method", "mistake"), MISTAKES.values(), ids=MISTAKES)
def test_a_wrong_map_does_not_pass(model, length, method, mistake, monkeypatch):
    monkeypatch.setattr(SoftmaxRows, method, mistake)
    with pytest.raises(dsf.inspection.ReconstructionError, match="differs"):
        dsf.inspect(model, **inputs(length), checks="none")


@pytest.mark.parametrize("length", LENGTHS)
def test_the_right_map_passes(model, length):
    for layer in dsf.inspect(model, **inputs(length), checks="none"):
        assert 0 < layer.formula < 1e-13


@pytest.mark.parametrize("length", LENGTHS)
def test_a_mistake_in_one_head_does_not_pass(model, length, monkeypatch):
    def one_head(rows, start, stop):
        logits = LOGITS(rows, start, stop)
        logits[:, -1] *= 1.05
        return logits

    monkeypatch.setattr(SoftmaxRows, "logits", one_head)
    with pytest.raises(dsf.inspection.ReconstructionError):
        dsf.inspect(model, **inputs(length), checks="none")


def test_numbers_that_are_none_in_a_compared_row_do_not_pass(model, monkeypatch):
    def last_row(rows, start, stop):
        logits = LOGITS(rows, start, stop)
        return logits.masked_fill((torch.arange(start, stop) == EVERY + 69)[:, None], torch.nan)

    monkeypatch.setattr(SoftmaxRows, "logits", last_row)
    with pytest.raises(dsf.inspection.ReconstructionError):
        dsf.inspect(model, **inputs(EVERY + 70), checks="none")


def test_no_row_comes_from_the_kernel_that_the_module_itself_calls(model, monkeypatch):
    def unwanted(*_):
        raise AssertionError("the kernel was called")

    monkeypatch.setattr("dsf.inspection.rebuild.respond", unwanted)
    assert dsf.inspect(model, **inputs(EVERY + 70), checks="none")[0].formula < 1e-13


def test_where_outputs_are_not_of_single_tokens_all_rows_are_computed():
    def mixing(layer, mixed):
        found = follower.finish_torch(layer, mixed)
        return found + 0 * found.sum()

    module = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    tokens = torch.randn(1, EVERY + 44, 16, generator=torch.Generator().manual_seed(0))
    adapter = replace(follower.MULTIHEAD, finish=mixing)
    layer = dsf.inspect(module, tokens, tokens, tokens, adapters=(adapter,), checks="none")[0]
    assert 0 < layer.formula < 1e-13


def test_an_attention_that_is_held_is_not_computed(model, monkeypatch):
    computed, forward = [], ALL_ATTENTION_FUNCTIONS["sdpa"]

    def counted(*args, **options):
        computed.append(args[1].dtype)
        return forward(*args, **options)

    functions = ALL_ATTENTION_FUNCTIONS._global_mapping
    monkeypatch.setitem(functions, "sdpa", functools.wraps(forward)(counted))
    inspection = dsf.inspect(model, **inputs(24))
    assert computed.count(torch.float64) == len(inspection)
    assert computed.count(torch.float32) == len(inspection)
    assert all(record["answer"] == "all of it" for record in inspection.checks)


@pytest.mark.parametrize("length", [1, 7, EVERY, EVERY + 1, 3000])
def test_the_rows_lie_in_the_sequence_its_ends_among_them(length):
    rows = [token for start, stop in sampled_rows(length) for token in range(start, stop)]
    assert rows == sorted(set(rows))
    assert rows[0] == 0
    assert rows[-1] == length - 1
    assert (len(rows) == length) == (length <= EVERY)


def test_maps_that_look_both_ways_are_compared_by_rows_too(monkeypatch):
    model = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    tokens = torch.randn(1, 20, 16, generator=torch.Generator().manual_seed(0))
    assert dsf.inspect(model, tokens, tokens, tokens)[0].formula < 1e-13
    monkeypatch.setattr(SoftmaxRows, "scores", scaled)
    with pytest.raises(dsf.inspection.ReconstructionError):
        dsf.inspect(model, tokens, tokens, tokens)
