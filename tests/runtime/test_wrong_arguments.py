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
    with pytest.raises((TypeError, ValueError), match="'width'"):
        at_least(1, "it", "width", value)


def test_a_count_too_small():
    with pytest.raises(ValueError, match="'width'"):
        at_least(1, "it", "width", 0, " token")
    assert at_least(1, "it", "width", torch.tensor(2)) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dsf.measures.window_mass(MAP, width=1.5), "'width'"),
        (lambda: dsf.measures.window_mass(MAP, width="a"), "'width'"),
        (lambda: dsf.measures.energy_gain(MAP, steps=2.5), "'steps'"),
        (lambda: dsf.evaluate.reduce(MIXER.system(), order="a"), "'order'"),
        (
            lambda: dsf.respond(MIXER.system(), MIXER.signal(), method=3),
            "'method'",
        ),
        (lambda: dsf.probe(3), "'module'"),
        (lambda: dsf.report.plot.heat_map([[1.0]]), "list"),
        (lambda: dsf.certify.nonnegative(3), "'map'"),
        (lambda: dsf.certify.causal(None), "NoneType"),
        (lambda: dsf.certify.same_map(MAP, [1], tolerance=0), "'second'"),
    ],
)
def test_another_kind(call, words):
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize("map", [torch.tensor(3.0), torch.ones(2)])
@pytest.mark.parametrize("certify", [dsf.certify.nonnegative, dsf.certify.causal])
def test_a_map_has_two_axes(certify, map):
    with pytest.raises(ValueError, match="'map'"):
        certify(map)
