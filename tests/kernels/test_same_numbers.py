"""Compiled loops against the plain path: the same numbers for every mixer, length and hard decay."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.evaluate import final_state
from dsf.evaluate.compiled import compiled
from dsf.kernels import availability
from tests.drawn import Drawer
from tests.mixer_fields import draw, tensors

LENGTHS = (1, 2, 63, 64, 65, 257)
EXACT, SINGLE = 1e-12, 1e-6


@pytest.fixture(autouse=True)
def _all_work_is_worth_it(monkeypatch):
    monkeypatch.setattr(availability, "WORTH", 0)
    monkeypatch.setattr("dsf.evaluate.memories.FEW_COLUMNS", 1)
    monkeypatch.delenv("DSF_KERNELS", raising=False)


def error(ours, expected):
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    return float((ours - expected).norm() / expected.norm())


def single(mixer):
    return replace(
        mixer,
        **{
            name: part.to(torch.complex64 if part.is_complex() else torch.float32)
            for name, part in tensors(mixer).items()
            if part.is_floating_point() or part.is_complex()
        },
    )


@pytest.mark.parametrize("steps", LENGTHS)
def test_every_mixer(mixer_class, steps, monkeypatch):
    mixer = draw(mixer_class, steps)
    for each, limit in ((mixer, EXACT), (single(mixer), SINGLE)):
        with monkeypatch.context() as off:
            off.setenv("DSF_KERNELS", "0")
            plain = dsf.respond(each.system(), each.signal())
        assert error(dsf.respond(each.system(), each.signal()), plain) <= limit
