"""Which layers and heads are looked at, and that only these are rebuilt and kept."""

import numpy as np
import pytest
import torch

import dsf
from dsf.inspection import Inspection, InspectionError, support
from dsf.inspection.choice import chosen_heads, chosen_layers, parsed
from dsf.models import folder, recall

NAMES = ["model.layers.0.mixer", "model.layers.1.mixer", "model.layers.10.mixer"]


@pytest.fixture(scope="module")
def prompt():
    return recall.draw(torch.Generator().manual_seed(0), samples=2).tokens


@pytest.fixture(scope="module")
def model():
    pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    from dsf.loading import load_model

    return load_model(folder("qwen3_next")).model


@pytest.mark.parametrize(
    ("wanted", "places"),
    [
        (None, [0, 1, 2]),
        (0, [0]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ("model.layers.1", [1]),
        ("model.layers.10.mixer", [2]),
        ("*.1?.*", [2]),
        ([0, "*.10.*"], [0, 2]),
    ],
)
def test_layers_by_number_slice_name_and_pattern(wanted, places):
    assert chosen_layers(NAMES, wanted) == {NAMES[place] for place in places}


@pytest.mark.parametrize("wanted", [3, -4, "model.layers.2", "*.2.*", slice(5, 9)])
def test_a_layer_that_is_not_there_is_an_error_that_lists_them(wanted):
    with pytest.raises(InspectionError, match="layers"):
        chosen_layers(NAMES, wanted)


@pytest.mark.parametrize("wanted", [1.5, [], [None], True])
@pytest.mark.usefixtures("our_own_errors")
def test_what_is_no_choice_at_all_is_an_error(wanted):
    with pytest.raises(TypeError, match="layers"):
        chosen_layers(NAMES, wanted)


@pytest.mark.usefixtures("our_own_errors")
def test_numbers_of_other_libraries_in_a_list_are_numbers():
    assert chosen_layers(NAMES, [np.int64(1), torch.tensor(2)]) == set(NAMES[1:])
    assert chosen_heads("it", 4, [np.int64(1)]) == (1,)


def test_a_step_of_zero_is_an_error_that_names_the_argument():
    with pytest.raises(ValueError, match="layers"):
        chosen_layers(NAMES, slice(0, 2, 0))
    with pytest.raises(ValueError, match="heads"):
        chosen_heads("it", 4, slice(0, 2, 0))


def test_a_slice_that_chooses_nothing_is_shown_with_its_step():
    with pytest.raises(InspectionError, match="'0:2:-1'"):
        chosen_layers(NAMES, slice(0, 2, -1))


@pytest.mark.usefixtures("our_own_errors")
def test_heads_by_number_and_slice():
    assert chosen_heads("it", 4, None) is None
    assert chosen_heads("it", 4, [-1, slice(0, 2)]) == (0, 1, 3)
    with pytest.raises(InspectionError, match="heads"):
        chosen_heads("it", 4, 4)
    with pytest.raises(TypeError, match="heads"):
        chosen_heads("it", 4, "*")


def test_what_a_person_types():
    assert parsed("0:4") == [slice(0, 4)]
    assert parsed(" 2, -1 ,::2") == [2, -1, slice(None, None, 2)]
    assert parsed("model.layers.0,*.mixer") == ["model.layers.0", "*.mixer"]


def test_only_chosen_layers_are_rebuilt(model, prompt):
    everything = dsf.inspect(model, input_ids=prompt)
    chosen = dsf.inspect(model, input_ids=prompt, layers=[1, "*.2.*"])
    assert [layer.name for layer in chosen] == [layer.name for layer in everything[1:]]
    assert chosen.unsupported == ()
    for one, other in zip(chosen, everything[1:], strict=True):
        torch.testing.assert_close(one.map(), other.map(), rtol=0, atol=0)


def test_chosen_heads_are_those_of_the_whole_layer(model, prompt):
    everything = dsf.inspect(model, input_ids=prompt)
    chosen = dsf.inspect(model, input_ids=prompt, heads=[1])
    for one, other in zip(chosen, everything, strict=True):
        assert one.heads == (1,)
        torch.testing.assert_close(one.map(), other.map()[:, 1:2], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            dsf.respond(one.system, one.signal),
            dsf.respond(other.system, other.signal)[:, 1:2],
            rtol=1e-12,
            atol=1e-12,
        )
    assert {record["head"] for record in chosen.measure() if "head" in record} == {1}


def test_an_inspection_by_name_and_slice(model, prompt):
    found = dsf.inspect(model, input_ids=prompt)
    assert found["model.layers.1.linear_attn"] is found[1]
    part = found[0:2]
    assert isinstance(part, Inspection)
    assert (len(part), part.model, part.environment) == (2, found.model, found.environment)
    with pytest.raises(KeyError, match="'x'"):
        found["x"]


def test_support_counts_modules_as_they_are_defined_and_says_so():
    class Crossed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.later = torch.nn.GRU(4, 4, batch_first=True)
            self.sooner = torch.nn.LSTM(4, 4, batch_first=True)

        def forward(self, x):
            return self.later(self.sooner(x)[0])[0]

    model = Crossed()
    (found,) = support(model, layers=0)
    (layer,) = dsf.inspect(model, torch.randn(1, 5, 4), layers=0)
    assert (found.name, layer.name) == ("later", "sooner[layer 0]")
    with pytest.raises(InspectionError, match="order"):
        support(model, layers=2)
