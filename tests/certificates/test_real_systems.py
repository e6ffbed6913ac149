"""Claims about the map that stored coefficients define: exact, whatever float64 makes of it."""

from fractions import Fraction

import pytest
import torch

import dsf
from dsf import certify
from dsf.certificates import Level, Verdict
from dsf.systems.composite import RowSource
from dsf.systems.transition import Dense, Diagonal
from tests.soundness import second_checker

F64 = torch.float64


def first(system):
    for _ in system.batch:
        system = dsf.systems.algebra.select(system, 0)
    return system


def drawn(cls, steps=6):
    return first(cls.draw(torch.Generator().manual_seed(0), steps=steps).system())


def both(certificate, folder):
    (file,) = folder.glob("certificates/*.json")
    assert second_checker.verdict(file) == certificate.verdict.value
    assert certificate.level is Level.REAL
    return certificate.verdict


def hidden(sign):
    """A weight of ``sign`` 2^-1060, where float64 rounds the product of two decays to zero."""
    decay = torch.tensor([[1.0, 0.0], [2.0**-530, 1.0], [2.0**-530, 1.0]], dtype=F64)
    write = torch.zeros(3, 2, 1, dtype=F64)
    write[0, 0] = 2.0**-40
    read = torch.tensor([[1.0, 0.0]], dtype=F64).expand(3, 1, 2) * sign
    return dsf.System(Diagonal(decay), write, read)


def test_a_weight_that_float64_rounds_away_is_seen(tmp_path):
    assert (dsf.attention_map(hidden(-1.0))[-1] == 0).all()
    found = certify.nonnegative(hidden(-1.0), folder=tmp_path / "a")
    assert both(found, tmp_path / "a") is Verdict.REFUTED
    found = certify.nonnegative(hidden(1.0), folder=tmp_path / "b")
    assert both(found, tmp_path / "b") is Verdict.PROVED


def test_signs_and_sums_of_mixers(tmp_path):
    cases = {
        "LinearAttention": (Verdict.PROVED, Verdict.PROVED),
        "HGRN": (Verdict.PROVED, Verdict.REFUTED),
        "DeltaNet": (Verdict.REFUTED, Verdict.REFUTED),
        "LRU": (Verdict.REFUTED, Verdict.REFUTED),
    }
    for name, (signs, sums) in cases.items():
        system = drawn(getattr(dsf.mixers, name))
        found = certify.nonnegative(system, folder=tmp_path / name)
        assert both(found, tmp_path / name) is signs
        place = tmp_path / f"{name} sums"
        found = certify.row_sums(system, target=1.0, tolerance=1e-12, folder=place)
        assert both(found, place) is sums


def test_row_sums_are_exact_on_both_sides(tmp_path):
    third = dsf.System.from_write_and_read(
        Diagonal(torch.full((3, 1), 1 / 3, dtype=F64)), *torch.ones(2, 3, 1, dtype=F64)
    )
    part = Fraction(1 / 3)
    largest = 1 + part + part**2
    for k, (tolerance, verdict) in enumerate(
        ((largest - 1, Verdict.PROVED), (largest - 1 - Fraction(1, 2**200), Verdict.REFUTED))
    ):
        place = tmp_path / str(k)
        found = certify.row_sums(third, tolerance=tolerance, folder=place)
        assert both(found, place) is verdict


def test_systems_in_other_bases_are_compared_exactly(tmp_path):
    system = drawn(dsf.mixers.GatedDeltaNet)
    whole = dsf.System(
        Dense(system.A.dense()), torch.as_tensor(system.B), torch.as_tensor(system.C)
    )
    place = tmp_path / "near"
    found = certify.equivalent(system, whole, tolerance=1e-13, level=Level.REAL, folder=place)
    assert both(found, place) is Verdict.PROVED
    place = tmp_path / "equal"
    found = certify.equivalent(system, whole, tolerance=0.0, level=Level.REAL, folder=place)
    assert both(found, place) is Verdict.REFUTED  # A was rounded when it was written out
    reduced = dsf.evaluate.reduce(system, order=2)
    place = tmp_path / "reduced"
    bound = float(reduced.bound)
    found = certify.equivalent(
        system, reduced.system, tolerance=bound, level=Level.REAL, folder=place
    )
    assert both(found, place) is Verdict.PROVED


def test_what_cannot_be_stored_is_refused_or_left_open():
    retention = dsf.mixers.Retention.draw(torch.Generator().manual_seed(0), steps=4).system()
    with pytest.raises(ValueError, match="batch axes"):
        certify.nonnegative(retention)
    with pytest.raises(ValueError, match="Reverse it first"):
        certify.nonnegative(dsf.systems.algebra.reverse(first(retention)))
    with pytest.raises(ValueError, match="initial state"):
        certify.row_sums(drawn(dsf.mixers.LSTM))
    with pytest.raises(ValueError, match="attention cache"):
        certify.nonnegative(drawn(dsf.mixers.SoftmaxAttention))
    one = first(retention)
    with pytest.raises(ValueError, match="FLOAT"):
        certify.equivalent(one, one, tolerance=0.0, level=Level.FLOAT)
    long = drawn(dsf.mixers.Retention, steps=1600)
    found = certify.nonnegative(long)
    assert found.verdict is Verdict.UNKNOWN
    assert "more work than is allowed" in found.limits["checker"]


@pytest.mark.parametrize("model", ["mamba", "mamba2", "qwen3_next"])
def test_a_trained_layer_is_decided_on_its_coefficients(model, tmp_path):
    from dsf import models
    from dsf.models import recall

    tokens = recall.draw(torch.Generator().manual_seed(0), 1).tokens
    inspection = dsf.inspect(models.folder(model), input_ids=tokens[:, :12])
    systems = (each.system for each in inspection if isinstance(each.system, dsf.System))
    system = next(each for each in systems if not isinstance(each.C, RowSource))
    system = first(dsf.systems.algebra.converted(system, dtype=F64))
    found = certify.nonnegative(system, folder=tmp_path)
    assert both(found, tmp_path) in (Verdict.PROVED, Verdict.REFUTED)
