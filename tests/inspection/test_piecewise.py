"""Block by block: the same layers as with all weights in memory, and only one block's weights."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import dsf
from dsf.inspection import (
    InspectionError,
    InspectionMemoryError,
    ReconstructionError,
    inspect_piecewise,
)
from dsf.inspection.results.memory import Forecast
from dsf.loading import LoadError, open_piecewise
from dsf.models import NAMES, folder

IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 5, 3, 1, 2, 2]])


def layers_of(piecewise, **named):
    found = []
    inspect_piecewise(piecewise, lambda layers, missed: found.extend([*layers, *missed]), **named)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_layers_are_those_of_the_whole_model(name):
    expected = dsf.inspect(folder(name), input_ids=IDS)
    found = layers_of(open_piecewise(folder(name)), input_ids=IDS)
    assert [layer.name for layer in found] == [layer.name for layer in expected]
    for layer, other in zip(found, expected, strict=True):
        assert type(layer.mixer) is type(other.mixer)
        # Not bit by bit: where in memory weights lie decides how a product is summed.
        torch.testing.assert_close(layer.map(), other.map(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_block_is_asked_is_answered_as_in_the_whole_model(name):
    expected = dsf.inspect(folder(name), input_ids=IDS)
    layers, checks = [], None

    def keep(found, missed):
        layers.extend(found)
        assert not missed

    checks = inspect_piecewise(open_piecewise(folder(name)), keep, input_ids=IDS)
    assert bool(len(expected.checks)) == (name in ("llama", "qwen3_next"))
    assert facts(checks) == facts(expected.checks)
    for layer, other in zip(layers, expected, strict=True):
        assert (layer.share, layer.columns) == (other.share, other.columns)
        assert layer.row_input == layer.column_input
        assert bool(layer.row_input) == bool(other.row_input)
        assert facts(layer.checks) == facts(other.checks)
        for mine, its in (
            (layer.row_tokens, other.row_tokens),
            (layer.column_tokens, other.column_tokens),
        ):
            assert (mine is None) == (its is None)
            assert mine is None or torch.equal(mine, its)
    silent = inspect_piecewise(
        open_piecewise(folder(name)), lambda *_: None, input_ids=IDS, checks="none"
    )
    assert not len(silent)


def facts(table):
    names = ("module", "question", "answer")
    return [tuple(record[name] for name in names) for record in table]


def test_a_second_path_in_a_block_is_told(monkeypatch):
    """A block that also adds the mean of all tokens, which no adapter reads."""
    piecewise = open_piecewise(folder("llama"))
    attention = type(piecewise.model.model.layers[0].self_attn)
    forward = attention.forward

    def leaky(self, hidden_states, **named):
        found, *rest = forward(self, hidden_states=hidden_states, **named)
        return found + hidden_states.mean(dim=1, keepdim=True), *rest

    monkeypatch.setattr(attention, "forward", leaky)
    layers = layers_of(piecewise, input_ids=IDS)
    read = [layer for layer in layers if hasattr(layer, "share")]
    assert not any(layer.share > 0.999 for layer in read)
    assert any("a part" in layer.reason for layer in layers if not hasattr(layer, "share"))


def test_one_block_is_open_at_a_time_and_none_at_the_end():
    piecewise = open_piecewise(folder("qwen3_next"))
    model, open_blocks = piecewise.model, []

    def look(*_):
        held = [name for name, part in model.named_parameters() if not part.is_meta]
        open_blocks.append(
            {path for path in piecewise.blocks for name in held if name.startswith(f"{path}.")}
        )

    inspect_piecewise(piecewise, look, input_ids=IDS)
    assert open_blocks == [{path} for path in piecewise.blocks]
    assert all(part.is_meta for part in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_padding_is_passed_on():
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    whole = dsf.inspect(folder("llama"), input_ids=IDS, attention_mask=mask)
    found = layers_of(open_piecewise(folder("llama")), input_ids=IDS, attention_mask=mask)
    torch.testing.assert_close(found[0].map(), whole[0].map(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("wanted", [1, slice(1, None), "*.1.*", ["model.layers.1", 0]])
def test_chosen_layers_alone_are_rebuilt(wanted):
    whole = dsf.inspect(folder("qwen3_next"), input_ids=IDS, layers=wanted)
    found = layers_of(open_piecewise(folder("qwen3_next")), input_ids=IDS, layers=wanted)
    assert [layer.name for layer in found] == [layer.name for layer in whole]


@pytest.mark.parametrize(("wanted", "words"), [(99, "99 is none of"), (-1, "-1 counts from")])
def test_a_layer_that_there_is_not_is_an_error(wanted, words):
    with pytest.raises(InspectionError, match=words):
        layers_of(open_piecewise(folder("llama")), input_ids=IDS, layers=wanted)


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_where_no_layer_is_reproduced_the_error_is_that_of_the_whole_model(name):
    with pytest.raises(ReconstructionError, match="1e-30"):
        dsf.inspect(folder(name), input_ids=IDS, tolerance=1e-30)
    with pytest.raises(ReconstructionError, match="1e-30"):
        layers_of(open_piecewise(folder(name)), input_ids=IDS, tolerance=1e-30)


def test_what_does_not_fit_is_refused_before_a_block_is_read(monkeypatch):
    piecewise = open_piecewise(folder("llama"))
    monkeypatch.setattr(piecewise, "opened", lambda _: pytest.fail("a block was read"))
    with pytest.raises(InspectionMemoryError, match="12 tokens"):
        layers_of(piecewise, input_ids=IDS, memory=1e6)


def test_layers_that_are_kept_have_to_fit_together(monkeypatch):
    sizes = {"tokens": 12, "layers": 1000, "run": 0, "recorded": 0, "in_float64": 0, "rebuilt": 0}
    large = Forecast(**sizes, kept=10**9, available=None)
    monkeypatch.setattr("dsf.inspection.entry.forecast", lambda *_, **__: large)
    piecewise = open_piecewise(folder("llama"))
    assert layers_of(piecewise, input_ids=IDS, memory=9e8)
    assert layers_of(piecewise, input_ids=IDS, memory=9e8, keeps=True, layers=0)
    with pytest.raises(InspectionMemoryError, match=r"1\.0 GB"):
        layers_of(piecewise, input_ids=IDS, memory=9e8, keeps=True)


@pytest.fixture
def copy(tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder("mamba"), place)
    return place


def changed(place, name, tensor):
    path = place / "model.safetensors"
    weights = load_file(path)
    weights.pop(name)
    save_file(weights | ({} if tensor is None else {name: tensor}), path, {"format": "pt"})
    return open_piecewise(place)


def test_what_is_missing_or_of_another_shape_is_said(copy):
    name = "backbone.layers.1.mixer.A_log"
    piecewise = changed(copy, name, torch.zeros(3, 2))
    with pytest.raises(LoadError, match=rf"{name} is stored as .* of shape \(3, 2\)"):
        layers_of(piecewise, input_ids=IDS)
    assert all(part.is_meta for part in piecewise.model.parameters())
    with pytest.raises(LoadError, match=f"{name}.*not in the weight files under this name"):
        layers_of(changed(copy, name, None), input_ids=IDS)


@pytest.mark.parametrize("name", ["backbone.layers.1.mixer.D", "backbone.embeddings.weight"])
def test_weights_that_are_no_numbers_are_refused(copy, name):
    there = load_file(copy / "model.safetensors")[name]
    piecewise = changed(copy, name, torch.full_like(there, torch.nan))
    with pytest.raises(dsf.inspection.NonFiniteWeightsError, match=name):
        layers_of(piecewise, input_ids=IDS)


def test_a_job_by_blocks_says_the_same(tmp_path):
    prompts, quantities = [[1, 2, 3, 4], [4, 3, 2, 1]], ["mean_row_sum", "negative_share"]
    tables = [
        dsf.jobs.measure_prompts(
            folder("qwen3_next"), prompts, tmp_path / str(by_blocks), quantities=quantities,
            batch=2, layerwise=by_blocks,
        )
        for by_blocks in (False, True)
    ]  # fmt: skip
    for one, other in zip(*tables, strict=True):
        assert (one["layer"], one["quantity"]) == (other["layer"], other["quantity"])
        assert one["mean"] == pytest.approx(other["mean"], rel=1e-4, abs=1e-5)
