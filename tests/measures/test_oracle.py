"""A share of the comparisons with the oracle; all of them: ``make soundness N=50``."""

import torch

import dsf
from dsf import measures
from tests.soundness import measures as against
from tests.soundness.rounding import enclosed, reduced


def test_every_measure_agrees_with_the_oracle():
    tally = against.tallied(400)
    assert tally.unexplained == []
    assert tally.agreed.total() > 0.9 * tally.comparisons


def test_wrong_measures_are_seen(monkeypatch):
    names = ("row_norms", "half_life", "negative_entries", "product_norms", "column_sums")
    for name in names:
        right, off = getattr(measures, name), int(name == "half_life")
        monkeypatch.setattr(
            measures, name, lambda source, right=right, off=off: right(source) * (1 + 1e-6) + off
        )
    found = against.tallied(300).unexplained
    assert {name for name in names if any(f": {name} " in line for line in found)} == set(names)


def test_bounds_of_reductions_hold():
    found = reduced(24)
    assert found.faults == []
    assert found.useless == []
    assert max(found.over) < 10
    assert len(found.kinds) >= 5


def test_a_bound_without_its_rounding_is_seen(monkeypatch):
    right = dsf.evaluate.reduce

    def without_rounding(system, **named):
        found = right(system, **named)
        object.__setattr__(found, "bound", found.dropped)
        return found

    monkeypatch.setattr(dsf.evaluate, "reduce", without_rounding)
    assert reduced(12).faults


def test_exact_maps_lie_inside():
    found = enclosed(15)
    assert found.faults == []
    assert found.widest < 1e-10


def test_a_radius_that_is_too_small_is_seen(monkeypatch):
    right = dsf.attention_map

    def narrow(system, **named):
        found = right(system, **named)
        object.__setattr__(found, "radius", torch.zeros_like(found.radius))
        return found

    monkeypatch.setattr(dsf, "attention_map", narrow)
    assert enclosed(4).faults
