"""A claim says what it is about, and is never promoted."""

import pytest
import torch

from dsf import certify
from dsf.certificates import Level, Verdict


@pytest.fixture
def key():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def test_rounding_noise_is_not_sold_as_rank():
    rng = torch.Generator().manual_seed(0)
    thin = torch.randn(64, 5, generator=rng).double() @ torch.randn(5, 8, generator=rng).double()
    key = thin.float()
    rounding = float((key.double() - thin).norm())
    assert certify.injective(key, first_row=63).verdict is Verdict.PROVED
    despite = certify.injective(key, first_row=63, level=Level.REAL, uncertainty=2 * rounding)
    assert despite.verdict is Verdict.REFUTED  # keys as near as that have rank 5


def test_a_margin_above_the_rounding_proves(key):
    found = certify.injective(key, first_row=39, level=Level.REAL, uncertainty=1e-4)
    assert found.verdict is Verdict.PROVED
    assert found.level is Level.REAL
    assert found.bound > 1e-4
    assert "1e-4" in found.assumptions[0] or "0.0001" in found.assumptions[0]
    loose = certify.injective(key, first_row=39, level=Level.REAL, uncertainty=1e3)
    assert loose.verdict is Verdict.REFUTED
    direction = torch.tensor(loose.witness["null"][:-1]).double()
    moved = key.double() @ direction + loose.witness["null"][-1]
    assert moved.norm() <= 1e3 * direction.norm()


def test_programs_saturate(key):
    with pytest.raises(ValueError, match="saturates"):
        certify.injective(key, level=Level.FLOAT)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda k, _: certify.injective(k, first_row=40), "between 0 and 39"),
        (lambda k, _: certify.injective(k, first_row=-1, level=Level.REAL), "between 0 and 39"),
        (lambda k, _: certify.injective(k, first_row=40, level=Level.REAL), "between 0 and 39"),
        (lambda k, _: certify.margin(k, first_row=3), "between 6 and 39"),
        (lambda k, _: certify.linear_injective(k, feature_map="exp"), "collisions are known for"),
        (lambda k, b: certify.locality(k, b, window=(3, 3), share=0.1), "at least one of the 40"),
        (lambda k, b: certify.locality(k, b[::-1], window=(0, 3), share=0.1), "above its upper"),
        (lambda k, b: certify.locality(k, b, window=(0, 3), share=1.0), "between 0 and 1"),
        (lambda k, _: certify.row_sums(k, tolerance=-1.0), "at least 0"),
        (lambda k, _: certify.causal(k), "square"),
        (lambda k, _: certify.decay(k[:, 0], width=0, most=0.5), "between 1 and 40"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_bad_input_is_refused_in_words(key, call, words):
    box = (-torch.ones(6).double(), torch.ones(6).double())
    with pytest.raises(ValueError, match=words):
        call(key, box)


def test_unsettled_boxes_say_what_stopped_them(key):
    box = (-torch.ones(6).double(), torch.ones(6).double())
    least = certify.locality(key, box, window=(0, 20), share=0.001).observed
    found = certify.locality(key, box, window=(0, 20), share=0.99 * least, boxes=1)
    assert found.verdict is Verdict.UNKNOWN
    assert found.limits["boxes"] == 1
