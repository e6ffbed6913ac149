"""A field of an edit holds what it may hold, as plain data, or the edit is refused at once."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.inspection.errors import InspectionError

pytestmark = pytest.mark.usefixtures("our_own_errors")


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (np.int64(3), 3),
        (torch.tensor(3), 3),
        (torch.tensor([1, 2]), [1, 2]),
        (np.array([1, -2]), [1, -2]),
        ({2}, [2]),
        ((1, 2), [1, 2]),
        (range(2), [0, 1]),
        (slice(np.int64(1), None), slice(1, None)),
    ],
    ids=repr,
)
def test_numbers_of_other_libraries_become_plain(given, plain):
    edit = edits.Cut(torch.tensor(0), heads=given, key=given)
    assert (edit.layer, edit.heads, edit.key) == (0, plain, plain)
    assert edits.from_json(json.loads(json.dumps(edit.to_json()))) == edit
    assert edits.Scale(0, torch.tensor(2.0)) == edits.Scale(0, 2)


WRONG = [
    (lambda: edits.Cut(0, key=1.5), r"Cut: 'key' must be whole numbers, .* it has 1\.5"),
    (lambda: edits.Cut(0, query=[1.5]), r"'query' must be whole numbers, .* it has 1\.5"),
    (lambda: edits.Cut(0, key="1"), "'key' must be whole numbers, .* it has '1'"),
    (lambda: edits.Cut(0, key=True), "'key' must be whole numbers, .* it has True"),
    (lambda: edits.Cut(0, key={"a": 3}), "'key' must be whole numbers"),
    (lambda: edits.Cut(0, key=slice(0.5, None)), "'key' must be a whole number"),
    (lambda: edits.Cut(0, samples=0.5), "'samples' must be whole numbers"),
    (lambda: edits.Cut(0, heads=0.5), "'heads' must be numbers, names or slices"),
    (lambda: edits.Cut(1.0), r"'layer' must be numbers, names or slices, but it has 1\.0"),
    (lambda: edits.Cut(0, renormalise="yes"), "'renormalise' must be True or False"),
    (lambda: edits.Window(0, 2.5), r"Window: 'width' must be a whole number, but it is 2\.5"),
    (lambda: edits.Window(0, True), "'width' must be a whole number, but it is True"),
    (lambda: edits.Scale(0, "2"), "Scale: 'factor' must be a real number, but it is '2'"),
    (lambda: edits.Scale(0, 1j), "'factor' must be a real number, but it is 1j"),
    (lambda: edits.Forget(0, None), "'token' must be a whole number, but it is None"),
    (lambda: edits.StateFrom(0, 1, "a", 0.5), "'other_token' must be a whole number"),
    (lambda: edits.Reduce(0, 1.5, 2), "'order' must be a whole number"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG)
def test_what_a_field_may_not_hold_is_refused(wrong, said):
    with pytest.raises(TypeError, match=said):
        wrong()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (3, "an edit is a dictionary such as .* but it is 3"),
        ({"edit": ["Cut"]}, r"\['Cut'\] is not an edit"),
        ({"edit": "Cut"}, "Cut is not complete: it needs 'layer'"),
        ({"edit": "Cut", "layer": 0, "key": {"a": 3}}, "a range is written as .* one has 'a'"),
        ({"edit": "Window", "layer": 0, "width": 2.5}, "'width' must be a whole number"),
    ],
    ids=repr,
)
def test_records_that_are_no_edits_are_refused(record, said):
    with pytest.raises(ValueError, match=said):
        edits.from_json(record)


@pytest.fixture
def attention():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
        model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).double()
        return model, torch.randn(2, 5, 8).double()


def test_other_runs_are_inspections(attention):
    model, x = attention
    with pytest.raises(InspectionError, match="MapFrom"):
        dsf.intervene(model, x, edits=[edits.MapFrom(0, 3)])
    for wrong in ([1], {"a": model}):
        with pytest.raises(TypeError, match="'sources'"):
            dsf.intervene(model, x, edits=[], sources=wrong)
        with pytest.raises(TypeError, match="'sources'"):
            dsf.sweep(model, x, edits=[], target=1, sources=wrong)
    with pytest.raises(TypeError, match="'edits'"):
        dsf.intervene(model, x, edits=3)


def test_a_choice_of_no_token_changes_nothing(attention):
    model, x = attention
    own = dsf.inspect(model, x)
    for nothing in (edits.Cut(0, key=[]), edits.ValueFrom(0, own, tokens=[])):
        result = dsf.intervene(model, x, edits=[nothing])
        assert torch.equal(result.output, result.clean)


def test_targets_and_positions_that_are_none(attention):
    model, x = attention
    result = dsf.intervene(model, x, edits=edits.Ablate(0))
    for target in (np.int64(3), torch.tensor(3), np.array([3, 3]), torch.tensor([[3], [3]])):
        assert torch.equal(result.effect(target), result.effect(3))
    assert torch.equal(dsf.sweep(model, x, edits=edits.Ablate(0), target=3)[0], result.effect(3))
    for wrong, said in (
        (None, "'target' is None, but something has to be attributed"),
        (1.5, "a target is a token's number or text, .* but it is float"),
        ([1.0, 2.0], "but it is float"),
    ):
        with pytest.raises(TypeError, match=said):
            result.effect(wrong)
    with pytest.raises(TypeError, match="position="):
        result.effect(1, position=1.5)
    for ignoring in (lambda _: torch.ones(2), lambda logits: torch.ones(len(logits))):
        with pytest.raises(ValueError, match="'target'"):
            result.effect(ignoring)
        with pytest.raises(ValueError, match="'target'"):
            dsf.sweep(model, x, edits=edits.Ablate(0), target=ignoring)
    clean, changed = (part.flatten(1).argmax(dim=-1) for part in (result.clean, result.output))
    assert result.effect(lambda logits: logits.flatten(1).argmax(-1)).equal(changed - clean)
