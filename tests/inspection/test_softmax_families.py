"""Softmax layers give the maps that the library itself computes, digit for digit."""

import copy
import itertools

import pytest
import torch

import dsf
from dsf.inspection.capture.precision import CastGuard
from dsf.inspection.softmax.attention import as_bias
from dsf.systems.composite import ExplicitMap
from tests.inspection.families.tiny_models import is_older_than
from tests.inspection.softmax_models import BUILT, PADDED, TOKENS, WINDOW, build, inputs

pytestmark = pytest.mark.matrix
EVERY = sorted(BUILT)
PADDABLE = [name for name in EVERY if name != "vit"]
# No entry of a map exceeds 1. Two layers of sharp maps, fused here and plain there, cost digits.
EXACT, SINGLE = 5e-14, 1e-6


def eager_maps(model, given):
    """The maps the library returns under its own eager attention, in the order of the calls."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(**given, output_attentions=True, use_cache=False)
    if "encoder_attentions" not in out:
        return list(out.attentions)
    alternating = zip(out.decoder_attentions, out.cross_attentions, strict=True)
    return [*out.encoder_attentions, *itertools.chain(*alternating)]


def in_float64(model, given):
    """A float64 copy and its inputs, and experts that know float64."""
    model = copy.deepcopy(model).double()
    model.set_experts_implementation("eager")
    return model, {
        name: part.double() if part.is_floating_point() else part for name, part in given.items()
    }


def off_diagonal(maps):
    rows, columns = maps.shape[-2:]
    ahead = torch.eye(rows, columns, dtype=torch.bool)
    return maps.masked_fill(ahead, 0).norm() / maps.norm()


@pytest.mark.parametrize("name", EVERY)
def test_maps_equal_the_eager_maps_of_the_library(name):
    model, given = build(name), inputs(name)
    inspection = dsf.inspect(model, exact=True, **given)
    with CastGuard():
        expected = eager_maps(*in_float64(model, given))
    assert len(inspection) == len(expected)
    for layer, maps in zip(inspection, expected, strict=True):
        assert layer.family == name
        assert layer.error <= EXACT
        assert off_diagonal(maps) > 0.3
        torch.testing.assert_close(layer.map(), maps, rtol=0, atol=EXACT)


@pytest.mark.parametrize("name", EVERY)
def test_maps_of_a_float32_model(name):
    model, given = build(name), inputs(name)
    inspection = dsf.inspect(model, **given)
    for layer, maps in zip(inspection, eager_maps(model, given), strict=True):
        assert layer.map().dtype == torch.float64
        assert layer.formula <= EXACT
        assert layer.rounding <= 2 * SINGLE
        # t5 does not scale its scores, so that they are large and cost the library digits; its
        # projections of queries and keys are rounded, ours are not.
        atol = 5e-5 if name == "t5" else 5e-6
        torch.testing.assert_close(layer.map().float(), maps, rtol=0, atol=atol)


@pytest.mark.parametrize("name", PADDABLE)
def test_left_padding(name):
    """The library gives a query that sees no key a uniform row, we an empty one."""
    model, given = build(name), inputs(name, padded=True)
    inspection = dsf.inspect(model, exact=True, **given)
    with CastGuard():
        expected = eager_maps(*in_float64(model, given))
    for layer, maps in zip(inspection, expected, strict=True):
        ours = layer.map()
        assert layer.error <= EXACT
        looks_back = name not in ("bert", "t5") or layer.name.endswith("0.SelfAttention")
        looks_back = looks_back and not layer.name.startswith("encoder")
        assert isinstance(layer.system, dsf.System if looks_back else ExplicitMap)
        if looks_back and name != "t5":
            assert (ours[-1, :, :PADDED] == 0).all()
            ours = torch.cat([maps[..., :PADDED, :], ours[..., PADDED:, :]], dim=-2)
        torch.testing.assert_close(ours, maps, rtol=0, atol=EXACT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_masks_of_every_number_type_hide_for_good(dtype):
    """The library adds the smallest number of the type, and t5 a position bias on top of it."""
    smallest = torch.finfo(dtype).min
    mask = torch.tensor([0.0, smallest, 5.0, -40.0], dtype=dtype)
    mask[1] += 60
    assert as_bias(mask).tolist() == [0, -torch.inf, 5, -40]
    assert as_bias(torch.tensor([True, False])).tolist() == [0, -torch.inf]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_captured_queries_and_keys_give_the_eager_maps(name):
    model, given = in_float64(build(name), inputs(name))
    model.set_attn_implementation("eager")
    smallest = torch.finfo(torch.float64).min
    ahead = torch.full((TOKENS, TOKENS), smallest, dtype=torch.float64).triu(1)
    inspection = dsf.inspect(model, **given)
    with CastGuard():
        expected = eager_maps(model, given)
    for layer, maps in zip(inspection, expected, strict=True):
        mixer = layer.mixer
        scores = torch.matmul(mixer.query, mixer.key.mT) * mixer.scale
        scores = scores if name == "bert" else scores + ahead
        torch.testing.assert_close(scores.softmax(dim=-1), maps, rtol=1e-12, atol=1e-14)


def test_a_window_hides_what_lies_behind_it():
    lag = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
    for layer in dsf.inspect(build("mistral"), **inputs("mistral")):
        maps = layer.map()
        assert (maps[..., (lag >= WINDOW) | (lag < 0)] == 0).all()
        assert (maps[..., (lag >= 0) & (lag < WINDOW)] > 0).all()


def test_gemma2_alternates_windows_and_caps_its_scores():
    first, second = dsf.inspect(build("gemma2"), **inputs("gemma2"))
    assert first.mixer.softcap == second.mixer.softcap == 3.0
    assert (first.map()[..., -1, 0] == 0).all()
    assert (second.map()[..., -1, 0] > 0).all()


def test_sinks_take_what_the_rows_lack():
    for layer in dsf.inspect(build("gpt_oss"), **inputs("gpt_oss")):
        sums = layer.map().sum(dim=-1)
        assert (sums < 1).all()
        assert sums.min() < 0.7
        without = (layer.mixer.query @ layer.mixer.key.mT * layer.mixer.scale)[..., 0, 0].exp()
        expected = without / (without + layer.mixer.sink.exp())
        torch.testing.assert_close(sums[..., 0], expected)


def test_heads_of_a_group_read_the_same_keys():
    for layer in dsf.inspect(build("llama"), **inputs("llama")):
        key, value = layer.mixer.key, layer.mixer.value
        for part in (key, value):
            assert torch.equal(part[:, 0], part[:, 1])
            assert torch.equal(part[:, 2], part[:, 3])
            assert not torch.equal(part[:, 1], part[:, 2])


def test_latent_attention_has_values_of_a_width_of_their_own():
    for layer in dsf.inspect(build("deepseek_v3"), **inputs("deepseek_v3")):
        assert layer.mixer.key.shape[-1] == 12
        assert layer.mixer.value.shape[-1] == 10
        assert layer.signal.shape == (2, 4, TOKENS, 1, 10)


def test_t5_has_six_layers_and_rectangular_cross_maps():
    inspection = dsf.inspect(build("t5"), **inputs("t5"))
    shapes = [tuple(layer.map().shape[-2:]) for layer in inspection]
    assert shapes == [(13, 13)] * 2 + [(7, 7), (7, 13)] * 2
    assert [layer.name.split(".")[0] for layer in inspection] == ["encoder"] * 2 + ["decoder"] * 4
    assert all("EncDecAttention" in inspection[k].name for k in (3, 5))


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_a_causal_layer_is_a_system_and_responds_like_one(name):
    for layer in dsf.inspect(build(name), exact=True, **inputs(name)):
        assert isinstance(layer.system, dsf.System)
        stepwise = dsf.respond(layer.system, layer.signal, method="recurrent")
        torch.testing.assert_close(stepwise, dsf.respond(layer.system, layer.signal))


@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.bfloat16, 5e-2), (torch.float16, 1e-2)], ids=str
)
def test_half_precision_models(dtype, limit):
    for name in ("llama", "bert", "qwen3"):
        for layer in dsf.inspect(build(name).to(dtype), strict=True, **inputs(name)):
            assert layer.formula <= layer.tolerance == 1e-12
            assert 1e-6 < layer.rounding == layer.error < limit


def test_a_soft_cap_that_fused_attention_leaves_out_is_not_read():
    """The map is of what ran. Newer releases refuse to run such a model fused."""
    model = build("gemma2")
    if not is_older_than("5.16"):
        with pytest.raises(ValueError, match="attention implementation"):
            model.set_attn_implementation("sdpa")
        return
    model.set_attn_implementation("sdpa")
    for layer in dsf.inspect(model, exact=True, **inputs("gemma2")):
        assert layer.mixer.softcap is None
        assert layer.error <= EXACT
