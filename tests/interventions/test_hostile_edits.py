"""Edits and inputs that look harmless: each is right, or refused with the reason and the cure."""

import json
from dataclasses import replace
from inspect import signature

import pytest
import torch
from torch import nn

import dsf
from dsf import edits, mixers
from dsf.inspection.errors import InspectionError, UnreadableError
from tests.attribution.test_attribution import tiny
from tests.interventions.test_edited_mixing import assert_close, by_matrix, drawn, edited, run_of
from tests.mixers.mixer_fields import tensors

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("our_own_errors")

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 24, "pad_token_id": 0}  # fmt: skip
IDS = torch.tensor([[3, 7, 12, 5, 16, 9, 4, 11], [8, 2, 5, 13, 6, 17, 10, 1]])


@pytest.fixture(scope="module")
def llama():
    return tiny("LlamaForCausalLM", **SIZES)


def cache_of(model, ids):
    """A cache of these tokens, by the name of its argument, which changed between releases."""
    names = signature(model.forward).parameters
    given = {"cache" if "cache" in names else "past_key_values": transformers.DynamicCache()}
    with torch.no_grad():
        model(input_ids=ids, use_cache=True, **given)
    return given


def test_a_cache_that_is_given_is_what_every_run_starts_from(llama):
    """Oracle: the same tokens without a cache."""
    past, cut = cache_of(llama, IDS[:, :4]), edits.Cut(1, key=6)
    given = {"input_ids": IDS[:, 4:], **past}
    expected = dsf.intervene(llama, edits=cut, input_ids=IDS).effect(3)
    torch.testing.assert_close(dsf.intervene(llama, edits=cut, **given).effect(3), expected)
    cuts = [edits.Cut(1, key=5), cut]
    torch.testing.assert_close(dsf.sweep(llama, edits=cuts, target=3, **given)[1], expected)
    share = dsf.stack(llama, **given).attribute(3)
    torch.testing.assert_close(share.value, dsf.stack(llama, input_ids=IDS).attribute(3).value)
    assert [layer.system.steps for layer in dsf.inspect(llama, **given)] == [4, 4]
    assert [cache.get_seq_length() for cache in past.values()] == [4]


def test_an_input_that_cannot_be_copied_is_passed_on_or_refused(llama):
    class Locked:
        def __init__(self, **held):
            vars(self).update(held)

        def __deepcopy__(self, _):
            raise TypeError("it is locked")

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = llama

        def forward(self, input_ids, extra):
            assert isinstance(extra, Locked)
            return self.model(input_ids=input_ids).logits

    cut = edits.Cut(0, key=1)
    dsf.intervene(Wrapped(), edits=cut, input_ids=IDS, extra=Locked())
    with pytest.raises(InspectionError, match="Locked"):
        dsf.intervene(Wrapped(), edits=cut, input_ids=IDS, extra=Locked(state=torch.ones(2)))


def swin():
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2], num_heads=[2], window_size=4
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.SwinForImageClassification(config).double().eval()
        for part in model.parameters():
            nn.init.normal_(part, std=0.3)
        return model, torch.randn(2, 3, 16, 16, dtype=torch.float64)


def test_a_sample_is_no_window_of_an_image():
    model, images = swin()
    with pytest.raises(InspectionError, match="samples="):
        dsf.intervene(model, pixel_values=images, edits=edits.Ablate(0, samples=[1]))
    result = dsf.intervene(model, pixel_values=images, edits=edits.Ablate(0, heads=[1]))
    assert not torch.equal(result.output, result.clean)
    source = dsf.inspect(model, pixel_values=images)
    for edit in (edits.ValueFrom(0, source), edits.MapFrom(0, source)):
        with pytest.raises(InspectionError, match=r"\(2, 4, 2"):
            dsf.intervene(model, pixel_values=images, edits=edit)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x):
        return x + self.attention(x, x, x)[0]


def test_a_sample_behind_the_tokens_is_edited_alone():
    torch.manual_seed(0)
    result = dsf.intervene(TimeFirst(), torch.randn(5, 3, 8), edits=edits.Ablate(0, samples=[1]))
    moved = (result.output - result.clean).abs().amax(dim=(0, 2))
    assert moved[1] > 1e-3
    assert moved[[0, 2]].tolist() == [0, 0]


def test_runs_with_other_samples_heads_or_widths_are_refused():
    mixer = drawn(mixers.GatedDeltaNet)
    system, value = mixer.system(), mixer.value
    three = replace(
        mixer, **{name: torch.cat([part, part[:1]]) for name, part in tensors(mixer).items()}
    )
    narrow = replace(mixer, value=value[..., :-1])
    runs = {"three": run_of(three), "narrow": run_of(narrow)}
    assert system.batch[0] != three.system().batch[0]
    for edit, said in (
        (edits.MapFrom("it", "three"), "has one sample or as many"),
        (edits.ValueFrom("it", "three"), "one sample or as many, the same heads and width"),
        (edits.ValueFrom("it", "narrow"), "one sample or as many, the same heads and width"),
        (edits.StateFrom("it", 2, "narrow"), "in this run and"),
        (edits.Mean("it", over="narrow"), "must have the same heads and width"),
    ):
        with pytest.raises(InspectionError, match=said):
            edited(mixer, edit, sources=runs)
    mean = dsf.respond(three.system(), three.signal()).mean(dim=(0, -3), keepdim=True)
    assert_close(edited(mixer, edits.Mean("it", over="three"), sources=runs), mean.expand(
        *system.batch, system.steps, *mean.shape[-2:]))  # fmt: skip


def test_a_factor_has_all_digits_of_float64():
    mixer = drawn(mixers.SoftmaxAttention)
    for factor in (0.1, 1e300):
        response = edited(mixer, edits.Scale("it", factor, key=2))
        column = torch.ones(mixer.key.shape[-2], dtype=torch.float64)
        column[2] = factor
        expected = by_matrix(mixer, lambda blocks, by=column: blocks * by[None, None, :, None])
        torch.testing.assert_close(response, expected, rtol=1e-14, atol=1e-14)


def test_renormalised_weights_keep_their_digits_where_little_is_left():
    """The token that is cut has all of the weight but 1e-20."""
    mixer = drawn(mixers.SoftmaxAttention)
    bias = torch.zeros_like(mixer.bias)
    bias[..., 1] = 60.0
    mixer = replace(mixer, bias=bias, sink=None, softcap=None)
    hidden = bias.clone()
    hidden[..., 1] = -torch.inf
    masked = replace(mixer, bias=hidden)
    expected = dsf.respond(masked.system(), masked.signal())
    response = edited(mixer, edits.Cut("it", key=1, renormalise=True))
    torch.testing.assert_close(response, expected, rtol=1e-12, atol=1e-12)
    width = edits.Window("it", 10**30, renormalise=True)
    assert_close(edited(mixer, width), dsf.respond(mixer.system(), mixer.signal()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: edits.Scale(0, float("nan")), "Scale: 'factor' must be finite, but it is nan"),
        (lambda: edits.Scale(0, float("inf")), "must be finite"),
        (lambda: edits.Cut(0, key=slice(0, 4, 0)), "must have a step of at least 1"),
        (lambda: edits.Cut(0, heads=[slice(None, None, -1)]), "must have a step of at least 1"),
        (lambda: edits.from_json({"edit": "MapFrom", "layer": 0, "other": 3}), "the name of a run"),
        (lambda: edits.from_json({"edit": "Scale", "layer": 0, "factor": 1e999}), "be finite"),
        (lambda: edits.from_json({"edit": "Cut", "layer": 0, "key": {1: 2, "a": 3}}), "has 1"),
    ],
)
def test_values_that_no_edit_has_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


def test_an_edit_of_no_kind_is_refused(llama):
    with pytest.raises(TypeError, match="one is Edit"):
        dsf.intervene(llama, input_ids=IDS, edits=edits.Edit(0))


@pytest.mark.parametrize("name", edits.KINDS)
def test_every_edit_comes_back_from_its_file(name):
    needed = {"factor": -0.5, "width": 3, "token": -2, "order": 2, "bits": 4, "key": 1, "from_": 2}
    kind = edits.KINDS[name]
    own = {field: value for field, value in needed.items() if field in kind.__dataclass_fields__}
    edit = kind(["*.1.*", slice(0, 4, 2)], heads=[0, slice(1, 3)], samples=slice(None, 2), **own)
    again = edits.from_json(json.loads(json.dumps(edit.to_json(), allow_nan=False)))
    assert again == edit
    assert type(again) is kind


class Puts(nn.Module):
    """A model whose logits are put out in another form."""

    def __init__(self, model, form):
        super().__init__()
        self.model, self.form = model, form

    def forward(self, input_ids):
        return self.form(self.model(input_ids=input_ids).logits)


def test_outputs_that_are_no_logits(llama):
    with_loss = Puts(llama, lambda logits: (logits.sum(), logits))
    expected = dsf.intervene(llama, input_ids=IDS, edits=edits.Cut(0, key=1)).effect(3)
    result = dsf.intervene(with_loss, input_ids=IDS, edits=edits.Cut(0, key=1))
    torch.testing.assert_close(result.effect(3), expected)
    alone = Puts(llama, lambda logits: logits.sum())
    result = dsf.intervene(alone, input_ids=IDS, edits=edits.Cut(0, key=1))
    assert result.output.shape == ()
    rows = Puts(llama, lambda logits: logits[:, -1, 3])
    codes = Puts(llama, lambda logits: logits.unflatten(-1, (4, 5)))
    for model in (alone, rows, codes):
        stack = dsf.stack(model, input_ids=IDS)
        result = dsf.intervene(model, input_ids=IDS, edits=edits.Cut(0, key=1))
        for asked in (stack.attribute, result.effect):
            with pytest.raises(ValueError, match="logits"):
                asked(3)
    share = dsf.stack(codes, input_ids=IDS).attribute(lambda logits: logits[:, -1, 0, 3])
    torch.testing.assert_close(share.value, dsf.stack(llama, input_ids=IDS).attribute(3).value)
    flat = dsf.stack(Puts(llama, lambda logits: logits.flatten(0, 1)), input_ids=IDS)
    with pytest.raises(UnreadableError, match=r"\(16, 20\)"):
        flat.attribute(3)


def test_streams_vectors_and_samples_that_there_are_not(llama):
    stack = dsf.stack(llama, input_ids=IDS)
    vector = torch.ones(16, dtype=torch.float64)
    for stream in ("x", 1.0, True):
        with pytest.raises(TypeError, match="'stream' must be a whole number"):
            stack.attribute(vector, stream=stream)
    for wrong in (vector * torch.nan, vector * 1j):
        with pytest.raises(ValueError, match="finite"):
            stack.attribute(wrong, stream=-1)
    with pytest.raises(ValueError, match="not finite"):
        stack.attribute(lambda logits: logits[:, -1, 0] * torch.nan)
    share = stack.attribute(3)
    for sample in (1.0, True, None):
        for asked in (share.strongest_edges, share.paths):
            with pytest.raises(TypeError, match="'sample'"):
                asked(sample=sample)
    with pytest.raises(TypeError, match="'count'"):
        share.strongest_edges(True)
