"""Fewer states: predicted errors against the layer itself, weights that load, and refusals."""

import pytest
import torch
from torch import nn

from dsf.inspection.errors import InspectionError
from dsf.interventions.fewer_states import (
    StateProducts,
    best_states,
    kept_states,
    reduce_states,
    state_products,
    strongest_states,
)
from dsf.loading import load_model
from dsf.models import folder, recall
from tests.inspection.families import tiny_models
from tests.pretrained.tagger import ADAPTER, Tagger

pytest.importorskip("transformers")


def recalling():
    model = load_model(folder("mamba")).model.eval()
    return model, [recall.draw(torch.Generator().manual_seed(1), 4).tokens], ()


def drawn(shape, rng):
    return torch.randn(shape, generator=rng, dtype=torch.float64)


def tagging(states=6):
    """The tagger of bytes, which scans both ways, with weights at random."""
    model, rng = Tagger(states=states).double().eval(), torch.Generator().manual_seed(0)
    for part in model.parameters():
        part.data = drawn(part.shape, rng) / part.shape[-1] ** 0.5
    for mixer in model.mixers:
        mixer.A_log.data = drawn(mixer.A_log.shape, rng)
    return model, [torch.randint(0, 128, (2, 12), generator=rng)], (ADAPTER,)


def build_tagger(weights, states):
    made = Tagger(states=states).double().eval()
    made.load_state_dict(weights)
    return made


CASES = {
    "mamba": (recalling, None, "backbone.layers.0.mixer", "out_proj", 8),
    "both ways": (tagging, build_tagger, "mixers.0", "outer", 3),
}


def weighted_response(model, tokens, path, outer):
    """What a layer's output projection is given without the feedthrough, by the model's own code.

    Times the norms of the projection's columns.
    """
    layer, kept = model.get_submodule(path), []
    last = getattr(layer, outer)
    held = layer.D.data.clone()
    layer.D.data.zero_()
    handle = last.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        model(tokens)
    handle.remove()
    layer.D.data.copy_(held)
    return kept[0].double() * last.weight.double().norm(dim=0)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    make, build, *where, states = CASES[request.param]
    model, data, adapters = make()
    return model, data, build, where, states, state_products(model, data, adapters=adapters)


@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("choose", [best_states, strongest_states])
def test_the_predicted_error_is_that_of_the_working_layer(case, choose, projected):
    model, data, build, (path, outer), states, found = case
    made = reduce_states(
        model, (), states=states, build=build, choose=choose, projected=projected, products=found
    )
    whole, changed = (weighted_response(each, data[0], path, outer) for each in (model, made.model))
    expected = ((changed - whole).norm() / whole.norm()).item()
    assert made.layers[path].error == pytest.approx(expected, rel=1e-3)
    assert 1e-3 < expected < 1
    assert len(made.layers[path].kept) == states


def test_all_states_are_the_model_itself(case):
    model, data, build, _, _, found = case
    every = next(iter(found.values())).states
    same = reduce_states(model, (), states=every, build=build, projected=False, products=found)
    assert same.error < 1e-9
    before = model.state_dict()
    assert list(same.state_dict) == list(before)
    assert all(torch.equal(same.state_dict[name], part) for name, part in before.items())
    again = reduce_states(model, (), states=every, build=build, products=found)
    with torch.no_grad():
        ours, theirs = (each(data[0]) for each in (again.model, model))
    ours, theirs = (
        each if isinstance(each, torch.Tensor) else each.logits for each in (ours, theirs)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_the_model_is_left_as_it_is_and_data_add_up(case):
    model, data, _, _, _, found = case
    before = {name: part.clone() for name, part in model.state_dict().items()}
    adapters = (ADAPTER,) if isinstance(model, Tagger) else ()
    whole = state_products(model, [data[0][:1], (data[0][1:],)], adapters=adapters)
    for path, products in found.items():
        assert (whole[path].gram - products.gram).norm() <= 1e-5 * products.gram.norm()
    assert all(torch.equal(before[name], part) for name, part in model.state_dict().items())


def test_a_projection_is_no_worse_than_the_same_states_alone(case):
    *_, states, found = case
    for products in found.values():
        kept = strongest_states(products, states)
        projected = kept_states(products, kept)
        assert projected.error <= kept_states(products, kept, projected=False).error + 1e-9
        assert kept_states(products, best_states(products, states)).error <= projected.error


def test_the_reads_of_the_others_are_a_least_squares_fit():
    """By torch's own solver on terms that are written out, of one channel and 40 tokens."""
    rng = torch.Generator().manual_seed(0)
    read, held = drawn((40, 4), rng), drawn((40, 4), rng)
    terms = (read[:, :, None] * held[:, None, :]).flatten(1)
    products = StateProducts("", "", "", 4, terms.mT @ terms)
    kept = kept_states(products, (1, 3))
    columns = terms.unflatten(1, (4, 4))[:, :, [1, 3]].flatten(1)
    response = (read * held).sum(dim=1, keepdim=True)
    expected = torch.linalg.lstsq(columns, response).solution
    torch.testing.assert_close(kept.takes, expected.reshape(4, 2), rtol=1e-6, atol=1e-6)
    error = (columns @ expected - response).norm() / response.norm()
    assert kept.error == pytest.approx(error.item(), rel=1e-6)


@pytest.mark.parametrize("count", [8, 13])
def test_states_that_others_replace_exactly_are_left_out(count):
    """Two states are multiples of others: without them nothing is lost, so no choice is better."""
    rng = torch.Generator().manual_seed(0)
    read, held = drawn((300, count), rng), drawn((300, count), rng)
    held[:, 1], held[:, 5] = -2 * held[:, 0], 0.5 * held[:, 4]
    held[:, :2] *= 10  # so that each of the first pair is missed most where nothing replaces it
    terms = (read[:, :, None] * held[:, None, :]).flatten(1)
    products = StateProducts("", "", "", count, terms.mT @ terms)
    for states in (count - 1, count - 2):
        chosen = best_states(products, states)
        assert len(chosen) == states
        assert kept_states(products, chosen).error < 1e-3


def test_of_very_many_choices_the_least_missed_states_are_left_out():
    energy = torch.arange(1, 33, dtype=torch.float64)[torch.randperm(32)]
    gram = torch.zeros(32 * 32, 32 * 32, dtype=torch.float64)
    own = torch.arange(32) * 33
    gram[own, own] = energy
    products = StateProducts("", "", "", 32, gram)
    expected = sorted((energy > 16).nonzero().flatten().tolist())
    assert list(best_states(products, 16)) == expected
    assert list(strongest_states(products, 16)) == expected


def test_a_smaller_model_loads_into_its_class_and_still_answers(tmp_path):
    model, data, _ = recalling()
    judged = recall.draw(torch.Generator().manual_seed(2), 40)
    asked = judged.targets != recall.SILENT

    def wrong(of):
        return (of(judged.tokens).logits.argmax(-1) != judged.targets)[asked].double().mean().item()

    smaller = reduce_states(model, data, states=8, loss=wrong)
    smaller.model.save_pretrained(tmp_path)
    again = load_model(tmp_path).model.eval()
    assert again.config.state_size == 8
    assert again.backbone.layers[0].mixer.A_log.shape == (192, 8)
    assert smaller.loss == (wrong(model), wrong(again))
    assert max(smaller.loss) < 0.05
    assert [row["layer"] for row in smaller.table()] == list(smaller.layers)
    assert "16 -> 8 states in 2 layers" in repr(smaller)
    assert "loss" in repr(smaller)


NO_LAYER = "has no layer with a state for each channel"
REFUSED = {
    "falcon_mamba": "are not the last outputs of one linear map in it",
    "jamba": "are not the last outputs of one linear map in it",
    "zamba": "are not the last outputs of one linear map in it",
    "rwkv": NO_LAYER,
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_layers_are_refused_with_the_reason(name):
    model, given = tiny_models.build(name), tiny_models.inputs(9)
    with pytest.raises(InspectionError, match=REFUSED[name]):
        reduce_states(model, [given], states=2)


@pytest.mark.usefixtures("our_own_errors")
def test_what_cannot_be_done_is_told():
    model, data, _ = recalling()
    found = state_products(model, data)
    for states in (0, 17):
        with pytest.raises(
            ValueError, match=f"states={states}, but backbone.layers.0.mixer has 16"
        ):
            reduce_states(model, (), states=states, products=found)
    with pytest.raises(ValueError, match="'batches' is empty"):
        reduce_states(model, [], states=4)
    for kept in ((), (1, 1), (16,)):
        with pytest.raises(ValueError, match="different states"):
            reduce_states(model, (), states=2, products=found, choose=lambda *_, kept=kept: kept)
    with pytest.raises(ValueError, match="2 states"):
        reduce_states(model, (), states=2, products=found, choose=lambda *_: (3,))
    for states in (2.5, True):
        with pytest.raises(TypeError, match=f"'states' must be a whole number, but it is {states}"):
            reduce_states(model, data, states=states)
    for batches in (data[0], {"input_ids": data[0]}, None):
        with pytest.raises(TypeError, match=r"\[batch\]"):
            reduce_states(model, batches, states=2)
    with pytest.raises(TypeError, match="'model'"):
        reduce_states("mamba", data, states=2)
    tagger, texts, adapters = tagging()
    with pytest.raises(ValueError, match="state_size"):
        reduce_states(tagger, texts, states=2, adapters=adapters, loss=lambda _: 0.0)
    assert reduce_states(tagger, texts, states=2, adapters=adapters).model is None


def test_the_pole_is_told_by_its_numbers_and_two_of_them_are_refused():
    model, texts, adapters = tagging()
    for mixer in model.mixers:
        mixer.another = nn.Parameter(mixer.A_log.detach() + 1e-6)
    found = state_products(model, texts, adapters=adapters)
    assert {products.pole for products in found.values()} == {"A_log"}
    for mixer in model.mixers:
        mixer.twice = nn.Parameter(mixer.A_log.detach().clone())
    with pytest.raises(InspectionError, match="exponential"):
        reduce_states(model, texts, states=2, adapters=adapters)
