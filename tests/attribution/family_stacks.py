"""Stacks of the tiny models of every recurrent family."""

import pytest

import dsf
from dsf.inspection import InspectionError
from tests.inspection.families import tiny_models


def stack_of_family(name):
    """The run of two samples of nine tokens, padded on the left; skips what stack does not read."""
    tiny_models.skip_a_known_defect(name)
    model, given = tiny_models.build(name), tiny_models.inputs(9, padding="left")
    try:
        return dsf.stack(model, **given)
    except InspectionError as error:
        pytest.skip(f"stack does not read it: {error}")
