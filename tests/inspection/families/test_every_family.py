"""Every family of the library: read, rebuilt, compared, at every number type and padding."""

from collections import Counter

import pytest
import torch

import dsf
from dsf.inspection import memory_forecast
from tests.inspection.families.tiny_models import (
    FAMILIES,
    build,
    inputs,
    off_diagonal_share,
    skip_a_known_defect,
)

pytestmark = pytest.mark.matrix

# A float32 model against a float64 rebuild: its own rounding, a few layers deep.
SINGLE = 2e-6


@pytest.fixture(params=FAMILIES)
def family(request):
    skip_a_known_defect(request.param)
    return request.param


def test_a_float32_model_is_rebuilt_and_its_layers_mix(family):
    expected = FAMILIES[family]
    inspection = dsf.inspect(build(family), **inputs())
    kinds = Counter(type(layer.mixer).__name__ for layer in inspection)
    assert kinds[expected.mixer] == expected.recurrent
    assert kinds["SoftmaxAttention"] == expected.softmax
    assert len(inspection) == expected.recurrent + expected.softmax
    # RWKV-4 also mixes tokens in its feed-forward part, by a look at the token before.
    unread = {missed.name.rpartition(".")[2] for missed in inspection.unsupported}
    assert unread == ({"feed_forward"} if family == "rwkv" else set())
    recurrent = [layer for layer in inspection if type(layer.mixer).__name__ == expected.mixer]
    assert {layer.family for layer in inspection} == {family}
    assert max(layer.error for layer in inspection) < SINGLE
    assert min(off_diagonal_share(layer) for layer in recurrent) > 0.1


@pytest.mark.sampled("family")
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_a_float64_model_is_rebuilt_to_rounding(family, padding):
    inspection = dsf.inspect(build(family).double(), strict=True, **inputs(padding=padding))
    limit = FAMILIES[family].exact
    assert max(layer.error for layer in inspection) < limit
    assert max(layer.tolerance for layer in inspection) <= limit


@pytest.mark.sampled(count=9)
def test_axes_name_the_batch_of_the_system_and_their_number_is_foretold(family):
    model = build(family)
    expected = memory_forecast(model, **inputs(5))
    found = dsf.inspect(model, **inputs(5))
    count = [layer.system.batch.numel() for layer in found]
    assert expected.samples == 2
    assert (expected.largest_maps, expected.all_maps) == (200 * max(count), 200 * sum(count))
    for layer in found:
        batch = layer.map().shape[:-2]
        assert len(layer.axes) == len(batch)
        assert layer.axes[0] == "sample"
        assert batch[0] == 2


@pytest.mark.sampled(count=9)
def test_the_exact_switch_needs_no_float64_model(family):
    model = build(family)
    inspection = dsf.inspect(model, exact=True, **inputs())
    assert max(layer.error for layer in inspection) < FAMILIES[family].exact
    assert next(model.parameters()).dtype is torch.float32


@pytest.mark.parametrize("name", ["jamba", "minimax", "lfm2_moe", "qwen3_5_moe"])
@pytest.mark.parametrize("exact", [True, False])
def test_experts_are_asked_in_float64_too(name, exact):
    """Their grouped kernels have no float64: asked with these, nobody knew what they mix."""
    model = build(name) if exact else build(name).double()
    assert dsf.inspect(model, exact=exact, **inputs(9)).unsupported == ()
