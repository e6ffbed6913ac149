"""Of the layers that are not edited a clean run keeps the names, and nothing changes by that."""

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.families.registry import known_modules
from dsf.inspection.recorded_run import run
from dsf.interventions import live_model
from tests.attribution.test_planted_layers import planted, scores_off
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")

REORDERED = {"zamba2"}
"""Families whose layers run in another order than the modules are listed in."""


@pytest.fixture
def everything(monkeypatch):
    """Runs a function once more with all layers kept."""

    def again(function):
        with monkeypatch.context() as patch:
            patch.setattr(live_model, "likely_layers", lambda *_: None)
            return function()

    return again


@pytest.fixture
def wrongly(monkeypatch):
    """Runs a function once more with a layer guessed that is none of those that are edited."""

    def again(function, guess):
        with monkeypatch.context() as patch:
            patch.setattr(live_model, "likely_layers", lambda *_: set(guess))
            return function()

    return again


def same(ours, theirs):
    assert torch.equal(ours.output, theirs.output)
    assert torch.equal(ours.clean, theirs.clean)
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(one.map(), other.map())
        assert (one.formula, one.rounding) == (other.formula, other.rounding)


@pytest.mark.sampled(count=9)
@pytest.mark.usefixtures("our_own_errors")  # checks of shapes would take most of the time
@pytest.mark.parametrize("name", sorted(tiny_models.FAMILIES))
def test_every_family_keeps_the_layers_that_are_edited_and_runs_twice(name, everything):
    tiny_models.skip_a_known_defect(name)
    model, given = tiny_models.build(name), tiny_models.inputs(9, padding="left")
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))

    def edited():
        runs.clear()
        return dsf.intervene(model, edits=edits.Scale([1, -1], 0.5), **given)

    ours = edited()
    assert len(runs) == (3 if name in REORDERED else 2)
    same(ours, everything(edited))


@pytest.mark.parametrize("name", ["mamba2", "bamba", "qwen3_next", "rwkv", "zamba2"])
def test_calls_that_are_not_kept_have_the_names_and_places_of_the_others(name):
    model, given = tiny_models.build(name), tiny_models.inputs(9)
    watched = {path: model.get_submodule(path) for path in known_modules(model)}
    with torch.no_grad():
        every = run(model, watched, (), given)
        kept = every[-1].name
        some = run(model, watched, (), given, kept={kept})
    told, expected = (
        [(one.name, one.through, one.module) for one in sorted(calls, key=lambda one: one.time)]
        for calls in (some, every)
    )
    assert told == expected
    for one, whole in zip(some, every, strict=True):
        is_kept = one.output is not None
        assert is_kept == (one.name == kept)
        assert is_kept or not (one.arguments or one.invocation or one.surroundings)
        if is_kept:
            assert torch.equal(one.first_output, whole.first_output)
            assert set(one.arguments) == set(whole.arguments)
            assert (one.surroundings is None) == (whole.surroundings is None)


def llama(dtype=torch.float32):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
    )
    return transformers.LlamaForCausalLM(config).to(dtype)


IDS = torch.arange(24).reshape(2, 12)
NAMES = [f"model.layers.{k}.self_attn" for k in range(4)]


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_layers_are_chosen_in_every_way_and_several_times(dtype, implementation, everything):
    model = llama(dtype)
    model.set_attn_implementation(implementation)
    ways = [2, -1, "model.layers.1", "*.3.self_attn", [0, "*.2.*"], slice(1, 3), NAMES[0], None]
    twice = [
        edits.Cut(1, key=3, samples=[1]),
        edits.Ablate("*.1.*", heads=[0]),
        edits.Scale(2, 2.0),
    ]
    for case in (*(edits.Ablate(way, heads=[1]) for way in ways), twice):
        each = lambda case=case: dsf.intervene(model, edits=case, input_ids=IDS)  # noqa: E731
        same(each(), everything(each))


def test_a_wrong_guess_costs_a_run_and_changes_nothing(everything, wrongly):
    model, runs = llama(), []
    model.register_forward_pre_hook(lambda *_: runs.append(1))

    def edited():
        runs.clear()
        return dsf.intervene(model, edits=edits.Ablate([1, 3], heads=[0]), input_ids=IDS)

    expected = everything(edited)
    for guess in ((), NAMES[:1], NAMES[2:], NAMES[1:2]):
        same(wrongly(edited, guess), expected)
        assert len(runs) == 3
    same(wrongly(edited, NAMES), expected)
    assert len(runs) == 2


class Between(nn.Module):
    """Attention of torch between two cells that are called for every token."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.LSTMCell(8, 8), nn.GRUCell(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        state, rows = None, []
        for token in x.unbind(1):
            state = self.first(token, state)
            rows.append(state[0])
        x = torch.stack(rows, 1)
        x = x + self.attention(x, x, x)[0]
        query, key, value = x, x + 1, x - 1
        x = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        state, rows = None, []
        for token in x.unbind(1):
            state = self.last(token, state)
            rows.append(state)
        return torch.stack(rows, 1)


def test_calls_that_make_a_layer_together_are_kept(everything):
    torch.manual_seed(0)
    model, x = Between(), torch.randn(2, 6, 8)
    for layer in (0, "attention", "Between", -1):

        def edited(layer=layer):
            return dsf.intervene(model, x, edits=edits.Scale(layer, 0.5))

        if layer in (0, -1):  # a cell is called once for every token
            for each in (edited, lambda: everything(edited)):
                with pytest.raises(InspectionError, match="called once"):
                    each()
        else:
            same(edited(), everything(edited))


def test_a_mistake_in_an_edited_layer_is_refused(monkeypatch):
    model = llama(torch.float64)
    dsf.intervene(model, edits=edits.Ablate(1), input_ids=IDS)
    planted(monkeypatch, read=scores_off)
    for layer in (0, 1, -1, "*.1.*", slice(2, None)):
        with pytest.raises(ReconstructionError, match="differs"):
            dsf.intervene(model, edits=edits.Ablate(layer), input_ids=IDS)


def test_a_layer_that_there_is_not_is_told_with_all_names(everything):
    model = llama()
    for wanted in (4, "nothing", [0, 7]):
        each = lambda wanted=wanted: dsf.intervene(  # noqa: E731
            model, edits=edits.Ablate(wanted), input_ids=IDS
        )
        with pytest.raises(InspectionError, match=r"3 model\.layers\.3\.self_attn"):
            each()
        with pytest.raises(InspectionError, match=r"3 model\.layers\.3\.self_attn"):
            everything(each)
