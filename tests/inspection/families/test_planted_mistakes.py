"""Adapters with a mistake planted in them: the comparison with the layer's output finds each."""

import re
from unittest.mock import patch

import pytest

import dsf
from dsf.inspection import ReconstructionError
from tests.inspection.families.planted_mistakes import MISTAKES
from tests.inspection.families.tiny_models import build, inputs

SMALLEST = 1e-2
BELOW_SINGLE = 1e-7


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: f"{one.family}: {one.what}")
@pytest.mark.usefixtures("our_own_errors")
def test_a_planted_mistake_is_found(mistake):
    """Far above the tolerance: nothing an adapter gets wrong is a small error in float64."""
    model = build(mistake.family)
    words = rf"'{mistake.family}'.*differs by (\d\.\de[+-]\d+) relative"
    with (
        patch.object(mistake.module, mistake.name, mistake.instead),
        pytest.raises(ReconstructionError, match=words) as caught,
    ):
        dsf.inspect(model, exact=mistake.double, strict=True, **mistake.inputs)
    error = float(re.search(words, str(caught.value))[1])
    assert error > (BELOW_SINGLE if mistake.double else SMALLEST)


def test_an_altered_module_is_found():
    """A subclass goes by its parent's name and computes something else."""
    model = build("mamba2")
    mixer = model.backbone.layers[1].mixer

    class Louder(type(mixer)):
        def forward(self, hidden_states, **options):
            return 1.001 * super().forward(hidden_states, **options)

    mixer.__class__ = Louder
    with pytest.raises(ReconstructionError, match=r"layers\.1\.mixer"):
        dsf.inspect(model, strict=True, **inputs())
