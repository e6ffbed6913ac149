"""Arguments of a kind that a function does not take: the error names the argument and the cure."""

import pytest
import torch

import dsf
from dsf.runtime.shapes import at_least

pytestmark = pytest.mark.usefixtures("our_own_errors")
MIXER = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=5)
MAP = torch.eye(3)


@pytest.mark.parametrize("value", ["a", 1.5, None, True, torch.tensor([1, 2])])
def test_what_is_no_count(value):
    with pytest.raises((TypeError, ValueError), match="'width' must be a whole number"):
        at_least(1, "it", "width", value)


def test_a_count_too_small():
    with pytest.raises(ValueError, match="it: 'width' must be at least 1 token, but it is 0"):
        at_least(1, "it", "width", 0, " token")
    assert at_least(1, "it", "width", torch.tensor(2)) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dsf.measures.window_mass(MAP, width=1.5), "window_mass: 'width' must be a whole"),
        (lambda: dsf.measures.window_mass(MAP, width="a"), "but it is 'a'"),
        (lambda: dsf.measures.energy_gain(MAP, steps=2.5), "'steps' must be a whole number"),
        (lambda: dsf.reduce(MIXER.system(), order="a"), "reduce: 'order' must be a whole number"),
        (
            lambda: dsf.respond(MIXER.system(), MIXER.signal(), method="scan"),
            "'method' must be a function such as dsf.recurrent, but it is 'scan'",
        ),
        (lambda: dsf.probe(3), "'module' must be a torch module, but it is int"),
        (lambda: dsf.plot.heat_map([[1.0]]), "a matrix of torch or NumPy, but it is list"),
        (lambda: dsf.certify.nonnegative(3), "'map' must be a torch tensor .* but it is int"),
        (lambda: dsf.certify.causal(None), "such as layer.map\\(\\), but it is NoneType"),
        (lambda: dsf.certify.same_map(MAP, [1], tolerance=0), "'second' must be a torch tensor"),
    ],
)
def test_another_kind(call, words):
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("map", [torch.tensor(3.0), torch.ones(2)])
@pytest.mark.parametrize("certify", [dsf.certify.nonnegative, dsf.certify.causal])
def test_a_map_has_two_axes(certify, map):
    with pytest.raises(ValueError, match=r"'map' must have the axes '\*batch rows columns'"):
        certify(map)
