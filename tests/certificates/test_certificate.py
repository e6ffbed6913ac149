"""A certificate as a value."""

import pytest
import torch

from dsf import certify
from dsf.certificates import Verdict


def test_a_refutation_needs_a_witness():
    with pytest.raises(ValueError, match="needs a witness"):
        certify.Certificate(
            claim="x", verdict=Verdict.REFUTED, level=certify.Level.DATA, method="none"
        )


def test_a_certificate_is_no_boolean():
    found = certify.nonnegative(torch.eye(2))
    with pytest.raises(TypeError, match="verdict is"):
        bool(found)


def test_what_is_no_number_can_only_be_unknown():
    parts = {"claim": "x", "level": certify.Level.DATA, "method": "none", "bound": float("nan")}
    with pytest.raises(ValueError, match="must be UNKNOWN"):
        certify.Certificate(verdict=Verdict.HOLDS_NUMERICALLY, **parts)
    unknown = certify.Certificate(verdict=Verdict.UNKNOWN, limits={"boxes": 3}, **parts)
    assert "UNKNOWN (data): x" in str(unknown)
    assert "boxes: 3" in str(unknown)
