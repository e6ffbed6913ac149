"""Edited runs of models are what the library itself puts out where it can do the same."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.inspection.errors import InspectionError
from dsf.inspection.families.registry import known_modules
from dsf.inspection.model_input import run
from dsf.models import NAMES, folder, recall
from tests.inspection.families import tiny_models
from tests.interventions.recurrent_classifier import VECTORS, RecurrentClassifier

transformers = pytest.importorskip("transformers")


def prompt(samples=2, length=16):
    rng = torch.Generator().manual_seed(0)
    return recall.draw(rng, samples, pairs=length // 4, length=length).tokens


def model_of(name, dtype=torch.float64):
    return transformers.AutoModelForCausalLM.from_pretrained(folder(name)).to(dtype)


def close(ours, theirs, *, within=1e-10):
    return (ours - theirs).abs().max() <= within * theirs.abs().max()


def with_hook(module, hook, model, **inputs):
    handle = module.register_forward_hook(hook)
    try:
        with torch.no_grad():
            return model(**inputs).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_edits_that_change_nothing_leave_every_bit(name, dtype):
    model = model_of(name, dtype)
    with torch.no_grad():
        own = model(input_ids=prompt()).logits
    for nothing in ([], [edits.Scale("*", 1.0)]):
        result = dsf.intervene(model, edits=nothing, input_ids=prompt())
        assert torch.equal(result.clean, own)
        assert torch.equal(result.output, own)
        assert not result.effect(7).any()
    runs = {"own": dsf.inspect(model, input_ids=prompt())}
    values = edits.ValueFrom("*", "own", tokens=[3])
    result = dsf.intervene(model, edits=[values], sources=runs, input_ids=prompt())
    # An inspection has the values in float64, a run those of its number type.
    assert close(result.output, own, within=1e-4 if dtype == torch.float32 else 5e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_is_changed_records_the_edited_layers_alone(name):
    model = model_of(name, torch.float32).eval()
    watched = {path: model.get_submodule(path) for path in known_modules(model)}
    with torch.no_grad():
        every = run(model, watched, (), {"input_ids": prompt()})
        chosen = every[-1].name
        (alone,) = run(model, watched, (), {"input_ids": prompt()}, only={chosen})
    (same,) = (call for call in every if call.name == chosen)
    assert len(every) > 1
    assert (alone.name, alone.through) == (chosen, same.through)
    assert torch.equal(alone.first_output, same.first_output)
    assert set(alone.arguments) == set(same.arguments)


def test_a_value_cut_in_a_llama_is_the_library_without_it():
    model = model_of("llama")
    attention = model.model.layers[0].self_attn

    def without(_, __, output):
        output = output.clone()
        output[:, 4] = 0
        return output

    expected = with_hook(attention.v_proj, without, model, input_ids=prompt())
    cut = edits.Cut("model.layers.0.self_attn", key=4)
    result = dsf.intervene(model, edits=[cut], input_ids=prompt())
    assert close(result.output, expected, within=1e-6)  # its norms and softmax compute in float32
    assert not close(result.output, result.clean, within=1e-2)


def test_renormalised_cuts_are_the_librarys_mask():
    model = model_of("llama")
    steps = prompt().shape[1]
    mask = torch.zeros(2, 1, steps, steps, dtype=torch.float64)
    mask = mask.masked_fill(torch.ones(steps, steps, dtype=torch.bool).triu(1), -torch.inf)
    mask[:, :, 9:, [2, 5]] = -torch.inf
    with torch.no_grad():
        expected = model(input_ids=prompt(), attention_mask=mask).logits
    cut = edits.Cut("*", query=slice(9, None), key=[2, 5], renormalise=True)
    result = dsf.intervene(model, edits=[cut], input_ids=prompt())
    assert close(result.output, expected, within=1e-6)


@pytest.mark.parametrize("name", ["mamba", "mamba2", "qwen3_next"])
def test_a_state_patched_with_its_own_changes_nothing_and_with_anothers_all_that_follows(name):
    model, tokens = model_of(name), prompt()
    other = tokens.clone()
    other[:, :6] = tokens.flip(0)[:, :6]
    runs = {
        "own": dsf.inspect(model, input_ids=tokens),
        "other": dsf.inspect(model, input_ids=other),
    }
    last = [layer.name for layer in runs["own"]][-1]
    own = edits.StateFrom(last, 7, "own")
    result = dsf.intervene(model, edits=[own], sources=runs, input_ids=tokens)
    assert close(result.output, result.clean, within=1e-9)
    result = dsf.intervene(
        model, edits=[replace(own, other="other")], sources=runs, input_ids=tokens
    )
    moved = (result.output - result.clean).abs().amax(dim=-1)
    assert moved[:, :8].max() < 1e-9
    assert moved[:, 8:].max() > 1e-3


def test_one_sample_is_edited_and_the_other_keeps_every_bit():
    for name in NAMES:
        cut = edits.Cut("*", key=2, samples=[1])
        result = dsf.intervene(folder(name), edits=[cut], input_ids=prompt())
        assert torch.equal(result.output[0], result.clean[0])
        both = [replace(cut, samples=None)]
        alone = dsf.intervene(folder(name), edits=both, input_ids=prompt()[1:])
        assert close(result.output[1], alone.output[0], within=1e-4)
        assert not close(result.output[1], result.clean[1], within=1e-2)


@pytest.mark.sampled(count=9)
@pytest.mark.parametrize("name", sorted(tiny_models.FAMILIES))
@pytest.mark.usefixtures("one_thread")
def test_every_recurrent_family_can_be_edited(name):
    tiny_models.skip_a_known_defect(name)
    model, given = tiny_models.build(name), tiny_models.inputs(9)
    inspection = dsf.inspect(model, strict=True, **given)
    first = inspection[0].name
    nothing = dsf.intervene(model, edits=[edits.Scale(first, 1.0)], **given)
    assert torch.equal(nothing.output, nothing.clean)
    cut = dsf.intervene(model, edits=[edits.Cut(first, key=3, samples=[1])], **given)
    moved = (cut.output - cut.clean).abs().amax(dim=-1)
    assert not moved[0].any()
    assert not moved[1, :3].any()
    assert moved[1, 3:].max() > 1e-6


class Linear(nn.Module):
    """One attention without norms: what is cut is lost, and nothing else moves."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x, x, x)[0]
        return self.head(x)


@pytest.fixture
def linear():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Linear().double(), torch.randn(2, 6, 8, dtype=torch.float64)


def test_the_share_of_an_edge_is_what_is_lost_without_it(linear):
    model, x = linear
    for part in model.blocks[0].parameters():
        nn.init.normal_(part, std=0.4)
    model.blocks[0].in_proj_bias.data[16:] = 0  # a bias of the values is no part of an edge
    share = dsf.stack(model, x).attribute(2, against=0, position=4)
    edge = share.edges("blocks.0")[:, 1, 4, 3]
    cut = edits.Cut("blocks.0", heads=[1], query=[4], key=[3])
    effect = dsf.intervene(model, x, edits=[cut]).effect(2, against=0, position=4)
    torch.testing.assert_close(effect, -edge)
    assert edge.abs().min() > 1e-4


def test_a_sweep_is_its_runs_one_by_one(linear):
    model, x = linear
    cuts = [edits.Cut(0, key=read) for read in range(3)] + [[edits.Ablate(0), edits.Cut(0)], []]
    done = []
    effects = dsf.sweep(model, x, edits=cuts, target=1, progress=lambda k, of: done.append((k, of)))
    for effect, each in zip(effects, cuts, strict=True):
        torch.testing.assert_close(effect, dsf.intervene(model, x, edits=each).effect(1))
    assert done == [(k, 5) for k in range(1, 6)]


def test_modules_that_attend_by_their_own_products_are_edited(linear):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            parts = self.qkv(x).chunk(3, -1)
            q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
            weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
            return self.out((weights @ v).transpose(1, 2).flatten(2))

    _, x = linear
    model = Own().double()
    cut = edits.Cut(0, heads=[1], key=[2])
    result = dsf.intervene(model, x, edits=[cut])

    def without(_, __, output):
        output = output.clone()
        output[:, 2, 20:] = 0
        return output

    handle = model.qkv.register_forward_hook(without)
    expected = model(x)
    handle.remove()
    torch.testing.assert_close(result.output, expected)
    assert not torch.equal(result.output, result.clean)


@pytest.mark.usefixtures("our_own_errors")
def test_edits_that_cannot_be_applied_are_refused(linear):
    model, x = linear
    with pytest.raises(TypeError, match="edits"):
        dsf.intervene(model, x, edits=["blocks.0"])
    with pytest.raises(InspectionError, match="'nowhere'"):
        dsf.intervene(model, x, edits=[edits.Ablate("nowhere")])
    with pytest.raises(InspectionError, match=r"blocks\.0"):
        dsf.intervene(model, x, edits=[edits.Ablate(0, heads=[2])])
    with pytest.raises(InspectionError, match="could not be run"):
        dsf.intervene(model, x[..., :3], edits=[edits.Ablate(0)])
    lstm = nn.LSTM(8, 8, num_layers=2, batch_first=True).double()
    with pytest.raises(InspectionError, match="called once"):
        dsf.intervene(lstm, x, edits=[edits.Ablate("*")])


def test_an_effect_on_a_number_that_is_not_linear_is_that_of_the_function(linear):
    """A log-probability and a distance from the clean output; no share has to sum to them."""
    model, x = linear
    edit = edits.Ablate(0, heads=[0])
    result = dsf.intervene(model, x, [edit])  # edits may come last among the inputs
    assert torch.equal(result.output, dsf.intervene(model, x, edits=edit).output)
    clean = result.clean.double()

    def log_probability(output):
        return output[:, -1].log_softmax(dim=-1)[:, 2]

    def divergence(output):
        ours, theirs = (each[:, -1].log_softmax(dim=-1) for each in (output, clean))
        return (theirs.exp() * (theirs - ours)).sum(dim=-1)

    for number in (log_probability, divergence):
        expected = number(result.output.double()) - number(clean)
        torch.testing.assert_close(result.effect(number), expected)
        (effect,) = dsf.sweep(model, x, edits=[edit], target=number)
        torch.testing.assert_close(effect, expected)
    assert result.effect(divergence).abs().min() > 0
    with pytest.raises(ValueError, match="one number for each"):
        result.effect(lambda output: output[0])


def test_an_edit_names_a_layer_as_the_inspection_does():
    """An LSTM is one module, whose layers have names of their own."""
    model = RecurrentClassifier().double()
    vectors = VECTORS.double()
    first, second = dsf.inspect(model, vectors), dsf.inspect(model, vectors.flip(0))
    name = first[1].name
    by_name, by_path, by_number = (
        dsf.intervene(model, vectors, edits=edits.Ablate(layer, heads=[2])).output
        for layer in (name, "layers.1", 1)
    )
    assert by_name.equal(by_path)
    assert by_name.equal(by_number)
    put = dsf.intervene(model, vectors, edits=edits.ValueFrom(name, other=second))
    assert not put.output.equal(put.clean)
    same = dsf.intervene(model, vectors, edits=edits.ValueFrom(name, other=first))
    close(same.output, same.clean)
