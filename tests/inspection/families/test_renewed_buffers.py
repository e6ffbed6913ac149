"""Buffers that a module computed in float32 are computed anew before it is compared."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.inspection.families import recurrences
from dsf.mixers import Retention
from tests.inspection.families import tiny_models


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("field", ["query", "key", "value", "decay"])
def test_one_percent_in_a_coefficient_of_minimax_is_refused(dtype, field):
    """Its norm hides the size of the response but for an epsilon, which 1e-12 still sees."""
    model, given = tiny_models.build("minimax").to(dtype), tiny_models.inputs(9)
    sound = [layer for layer in dsf.inspect(model, **given) if isinstance(layer.mixer, Retention)]
    assert len(sound) == 2
    assert max(layer.formula for layer in sound) <= max(layer.tolerance for layer in sound) == 1e-12

    def off(layer):
        mixer = recurrences.read_minimax(layer)
        return replace(mixer, **{field: 1.01 * getattr(mixer, field)})

    wrong = replace(recurrences.MINIMAX, read=off)
    spoiled = dsf.inspect(model, adapters=(wrong,), **given)
    assert {missed.name for missed in spoiled.unsupported} == {layer.name for layer in sound}


def test_shares_of_minimax_are_complete_to_rounding():
    share = dsf.stack(tiny_models.build("minimax"), **tiny_models.inputs(9)).attribute(5)
    assert share.error < 1e-13
