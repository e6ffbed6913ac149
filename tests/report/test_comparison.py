"""Two inspections side by side: equal, with heads exchanged, of other architectures and prompts."""

import copy

import pytest
import torch

import dsf
from dsf.inspection import Inspection
from dsf.inspection.errors import InspectionError
from dsf.models import folder, recall

transformers = pytest.importorskip("transformers")


def prompt(length=16):
    rng = torch.Generator().manual_seed(0)
    return recall.draw(rng, 2, pairs=length // 4, length=length).tokens


@pytest.fixture(scope="module")
def llama():
    return transformers.AutoModelForCausalLM.from_pretrained(folder("llama")).double().eval()


@pytest.fixture(scope="module")
def inspected(llama):
    return dsf.inspect(llama, input_ids=prompt())


def exchanged(model):
    """The same model with the two heads of its first layer in the other order."""
    other = copy.deepcopy(model)
    attention = other.model.layers[0].self_attn
    width = attention.head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(attention, name).weight.data
        weight.copy_(weight.unflatten(0, (2, width)).flip(0).flatten(0, 1))
    out = attention.o_proj.weight.data
    out.copy_(out.unflatten(1, (2, width)).flip(1).flatten(1, 2))
    return other


def test_a_run_compared_with_itself(inspected):
    table = dsf.compare(inspected, inspected)
    distances = table.where(quantity="map_distance")
    assert len(distances) == 2 * 2 * 2  # layers, samples, heads
    assert {record["first"] for record in distances} == {0.0}
    numbers = [record for record in table if "difference" in record]
    assert {record["difference"] for record in numbers if record["first"] == record["first"]} == {0}
    assert len(table.flips()) == 0
    assert len(table.where(flipped=False)) > 0
    assert not table.difference_map("model.layers.0.self_attn").any()


def test_exchanged_heads_are_found(llama, inspected):
    other = dsf.inspect(exchanged(llama), input_ids=prompt())
    apart = dsf.compare(inspected, other, verdicts=False)
    assert len(apart.flips()) == 0
    assert (
        min(r["first"] for r in apart.where(quantity="map_distance", layer=first(inspected))) > 0.1
    )
    table = dsf.compare(inspected, other, align=True)
    assert table.partners == ((1, 0), (0, 1))
    assert max(r["first"] for r in table.where(quantity="map_distance")) < 1e-6
    entropies = table.where(quantity="mean_effective_tokens", layer=first(inspected), head=0)
    assert {record["other_head"] for record in entropies} == {1}
    assert max(abs(record["difference"]) for record in entropies) < 1e-6
    assert len(table.flips()) == 0
    assert table.difference_map(first(inspected)).abs().max() < 1e-6


def first(inspection):
    return inspection[0].name


def test_numbers_are_those_of_each_alone(inspected):
    other = dsf.inspect(folder("llama"), input_ids=prompt().flip(0), exact=True)
    table = dsf.compare(inspected, other, verdicts=False)
    for record in table.where(quantity="sink_mass"):
        place = {name: record[name] for name in ("layer", "sample", "head")}
        (ours,) = inspected.measure().where(quantity="sink_mass", **place)
        (theirs,) = other.measure().where(quantity="sink_mass", **place)
        assert (record["first"], record["second"]) == (ours["value"], theirs["value"])
        assert record["difference"] == theirs["value"] - ours["value"]
    maps = inspected[0].map(), other[0].map()
    expected = (maps[0] - maps[1]).norm(dim=(-2, -1)) / maps[0].norm(dim=(-2, -1))
    found = table.where(quantity="map_distance", layer=first(inspected))
    assert [r["first"] for r in found] == pytest.approx(expected.flatten().tolist())


def test_architectures_are_paired_by_depth(inspected):
    other = dsf.inspect(folder("text_mamba2"), input_ids=prompt())
    table = dsf.compare(inspected, other, align=True)
    assert [(a.name, b.name) for a, b in table.pairs] == [
        ("model.layers.0.self_attn", "backbone.layers.0.mixer"),
        ("model.layers.1.self_attn", "backbone.layers.4.mixer"),
    ]
    assert table.partners == (None, None)
    (means,) = table.where(quantity="mean_row_sum", layer=first(inspected))
    assert means["first"] == pytest.approx(1)
    assert {r["note"] for r in table.where(quantity="map_distance")} == {
        "the maps have different sizes"
    }
    with pytest.raises(ValueError, match="one length"):
        table.difference_map(first(inspected))


def test_what_cannot_be_compared_is_refused(inspected):
    with pytest.raises(InspectionError, match="'second'"):
        dsf.compare(inspected, Inspection(layers=()))
    with pytest.raises(KeyError, match="'nowhere'"):
        dsf.compare(inspected, inspected, verdicts=False).difference_map("nowhere")


def test_models_are_inspected_on_one_input():
    first, second = folder("text_llama"), folder("text_mamba")
    text = "And all our yesterdays"
    expected = dsf.compare(dsf.inspect(first, text), dsf.inspect(second, text), verdicts=False)
    for found in (
        dsf.compare(first, second, text, verdicts=False),
        dsf.compare(dsf.inspect(first, text), second, text=text, verdicts=False),
    ):
        assert list(found) == list(expected)
    with pytest.raises(TypeError, match="input"):
        dsf.compare(dsf.inspect(first, text), dsf.inspect(second, text), text)


@pytest.mark.usefixtures("our_own_errors")
def test_only_inspections_are_compared():
    with pytest.raises(TypeError, match="'second'"):
        dsf.compare(dsf.inspect(torch.nn.GRU(3, 4), torch.randn(5, 1, 3)), 3)
