"""Layers that are rebuilt, measured and drawn side by side on several threads: as one by one."""

import json
import re

import pytest
import torch
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

import dsf
from dsf.inspection import ReconstructionError
from dsf.runtime.threads import limited_to
from dsf.systems.composite import SoftmaxRows

THREADS, LAYERS = 3, 4


def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def mamba():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=LAYERS, state_size=4)
    return MambaForCausalLM(config).eval()


MODELS = {"llama": llama, "mamba": mamba}


@pytest.fixture
def model():
    return llama()


@pytest.fixture
def ids():
    return torch.randint(0, 64, (2, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_the_same_shares_of_a_stack(name, ids):
    found = []
    for threads in (1, THREADS):
        with limited_to(threads):
            share = dsf.stack(MODELS[name](), input_ids=ids).attribute(3)
        found.append((share.tokens, *share.layers.values()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_layers_measures_and_page(name, ids, tmp_path):
    model, found = MODELS[name](), []
    for threads in (1, THREADS):
        with limited_to(threads):
            inspection = dsf.inspect(model, input_ids=ids)
            table = inspection.measure()
            page = dsf.show(inspection, tmp_path / f"{threads}.html")
        found.append((inspection, table, page))
    (one, by_one, first), (other, by_several, second) = found
    assert [layer.name for layer in one] == [layer.name for layer in other]
    assert len(one) == LAYERS
    assert all(layer.formula < 1e-12 for layer in other)
    assert all(layer.rounding < 1e-4 for layer in other)
    for layer, again in zip(one, other, strict=True):
        torch.testing.assert_close(layer.map(), again.map(), rtol=1e-12, atol=1e-14)
    assert one.checks.to_json() == other.checks.to_json()
    for record, again in zip(by_one.to_json(), by_several.to_json(), strict=True):
        value, also = record.pop("value"), again.pop("value")
        assert record == again
        assert value == pytest.approx(also, rel=1e-9, abs=1e-12, nan_ok=True)
    assert contents(first) == contents(second)


def contents(page):
    """The names and labels of everything on a page, in order."""
    text = page.read_text(encoding="utf-8")
    data = json.loads(re.search(r'type="application/json"[^>]*>(.*?)</script>', text, re.S)[1])
    return [(layer["name"], [map["label"] for map in layer["maps"]]) for layer in data["layers"]]


def test_nothing_is_left_behind(model, ids):
    before, names = torch.get_default_dtype(), {*AttentionInterface._global_mapping}
    with limited_to(THREADS):
        dsf.inspect(model, input_ids=ids)
        assert torch.get_num_threads() == THREADS
    assert torch.get_default_dtype() is before
    assert {*AttentionInterface._global_mapping} == names  # a smaller cache keeps one of its own
    assert model.config._attn_implementation in ("sdpa", "eager")
    assert not torch.nn.modules.module._global_forward_hooks


def test_a_model_in_double_precision_stays_in_it(ids):
    with limited_to(THREADS):
        inspection = dsf.inspect(llama().double(), input_ids=ids)
    assert all(layer.map().dtype is torch.float64 for layer in inspection)
    assert all(layer.formula < 1e-13 for layer in inspection)


def test_what_fails_is_listed_and_the_first_is_raised_if_asked(ids, monkeypatch):
    scores = SoftmaxRows.scores

    def spoiled(rows, start, stop, *, keys=None):
        return 1.01 * scores(rows, start, stop, keys=keys)

    monkeypatch.setattr(SoftmaxRows, "scores", spoiled)
    model = llama()
    with limited_to(THREADS):
        with pytest.raises(
            ReconstructionError, match=r"layers\.0\.self_attn.*layers\.3\.self_attn"
        ):
            dsf.inspect(model, input_ids=ids)
        with pytest.raises(ReconstructionError, match=r"layers\.0\.self_attn") as raised:
            dsf.inspect(model, input_ids=ids, strict=True)
    assert "layers.1.self_attn" not in str(raised.value)


def test_progress_counts_the_layers_in_order(model, ids):
    told = []
    with limited_to(THREADS):
        dsf.inspect(model, input_ids=ids, progress=lambda *what: told.append(what))
    assert [done for what, done, _ in told if what == "layer"] == list(range(LAYERS))


def test_who_stops_the_progress_stops_the_work(model, ids):
    def stop(what, done, _):
        if what == "layer" and done == 2:
            raise KeyboardInterrupt

    with limited_to(THREADS):
        with pytest.raises(KeyboardInterrupt):
            dsf.inspect(model, input_ids=ids, progress=stop)
        assert torch.get_num_threads() == THREADS
    assert torch.get_default_dtype() is torch.float32
    assert len(dsf.inspect(model, input_ids=ids)) == LAYERS


def test_no_more_side_by_side_than_there_is_room_for(ids):
    expected = dsf.inspection.memory_forecast(llama(), input_ids=ids, memory=1e12)
    one = max(expected.in_float64, expected.rebuilt)
    assert expected.at_a_time > 1
    room = float(expected.peak + 2 * one)
    assert dsf.inspection.memory_forecast(llama(), input_ids=ids, memory=room).at_a_time <= 3
    least = float(expected.peak_on_disk)
    assert dsf.inspection.memory_forecast(llama(), input_ids=ids, memory=least).at_a_time == 1
