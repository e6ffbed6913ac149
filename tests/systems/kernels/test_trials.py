"""A kernel agrees with the plain path on the device at hand, or it is off and torch goes on."""

import warnings

import pytest
import torch

from dsf.evaluate import compiled
from dsf.evaluate.compiled import TOLERANCE, agrees

ONE = torch.ones(3)


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch):
    monkeypatch.setattr(compiled, "_agrees", {})


def never():
    raise AssertionError("it was tried again")


def test_one_that_agrees_is_tried_once_for_every_kind():
    assert agrees(("maps", 16), lambda: (ONE * (1 + TOLERANCE / 2), ONE))
    assert agrees(("maps", 16), never)
    with pytest.warns(RuntimeWarning, match="AssertionError: it was tried again"):
        assert not agrees(("maps", 32), never)


@pytest.mark.parametrize("wrong", [1 + 2 * TOLERANCE, torch.nan, torch.inf])
def test_one_that_disagrees_is_off_after_one_warning(wrong):
    with pytest.warns(RuntimeWarning, match="maps") as warned:
        assert not agrees(("maps", 16), lambda: (ONE * wrong, ONE))
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not agrees(("maps", 16), lambda: (ONE, ONE))


def test_numbers_that_are_none_are_no_fault():
    assert agrees(("maps", 16), lambda: (ONE * torch.nan, ONE * torch.nan))
    assert agrees(("maps", 8), lambda: (0 * ONE, 0 * ONE))
