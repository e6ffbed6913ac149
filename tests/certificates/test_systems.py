"""Two systems, one map; a small system, and how far it may be off."""

import pytest
import torch

import dsf
from dsf import certify
from dsf.certificates import Verdict


@pytest.fixture
def system():
    rng = torch.Generator().manual_seed(0)
    return dsf.systems.algebra.select(dsf.mixers.DeltaNet.draw(rng, steps=8).system(), 0)


def test_a_change_of_basis_is_the_same_map(system):
    rng = torch.Generator().manual_seed(1)
    turned = dsf.systems.algebra.change_of_basis(
        system, torch.randn(4, 4, generator=rng, dtype=torch.float64)
    )
    found = certify.equivalent(system, turned, tolerance=1e-10)
    assert found.verdict is Verdict.PROVED
    assert certify.equivalent(system, turned, tolerance=0.0).verdict is Verdict.REFUTED


def test_another_system_is_another_map(system):
    other = dsf.systems.algebra.reverse(system)
    found = certify.equivalent(system, other, tolerance=1e-3)
    assert found.verdict is Verdict.REFUTED
    assert found.observed > 1e-3


def test_a_realised_map_is_the_same_map(system):
    realised = dsf.evaluate.realise(dsf.attention_map(system))
    assert certify.equivalent(system, realised, tolerance=1e-12).verdict is Verdict.PROVED


@pytest.mark.parametrize("order", [1, 2, 3])
def test_reductions_keep_their_bound(system, order):
    found = certify.reduction_error(dsf.attention_map(system), order=order)
    assert found.verdict is Verdict.PROVED
    assert found.observed > 1e-3


def test_what_cannot_be_reduced_is_refused(system):
    with pytest.raises(ValueError, match="at least 1"):
        certify.reduction_error(dsf.attention_map(system), order=0)
