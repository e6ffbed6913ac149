"""What releases before 5.16 get wrong: longer than a chunk, or a single sample with padding."""

import pytest

import dsf
from dsf.inspection import ReconstructionError
from tests.inspection.families.tiny_models import DEFECTIVE, build, inputs, is_older_than

pytestmark = pytest.mark.matrix

ADVICE = r"'{}'.*differs by .* relative from its module in float64.*Upgrade the library"


@pytest.mark.parametrize("family", DEFECTIVE)
def test_a_wrong_layer_is_refused_with_the_cure(family):
    if not is_older_than("5.16"):
        inspection = dsf.inspect(build(family).double(), **inputs())
        assert max(layer.error for layer in inspection) < 1e-12
        return
    with pytest.raises(ReconstructionError, match=ADVICE.format(family)):
        dsf.inspect(build(family), strict=True, **inputs())


@pytest.mark.parametrize("family", ["mamba2", "bamba", "qwen3_next", "olmo_hybrid", "lfm2"])
def test_padding_of_a_single_sample_counts_for_nothing_since_5_16(family):
    """Before, the model takes padding for tokens, which is not what its mask says."""
    lone = {name: part[:1] for name, part in inputs(padding="left").items()}
    if not is_older_than("5.16"):
        alone = dsf.inspect(build(family).double(), **lone)
        assert max(layer.error for layer in alone) < 1e-12
        return
    with pytest.raises(ReconstructionError, match="differs"):
        dsf.inspect(build(family), strict=True, **lone)


@pytest.mark.parametrize("family", DEFECTIVE)
def test_within_one_chunk_every_release_is_right(family):
    model = build(family, chunk_size=32).double()
    inspection = dsf.inspect(model, **inputs(padding="left"))
    assert max(layer.error for layer in inspection) < 1e-12


@pytest.mark.parametrize("family", DEFECTIVE)
def test_the_cure_comes_with_any_difference(family):
    model = build(family, chunk_size=32)
    for module in model.modules():
        if "MambaMixer" in type(module).__name__ or "Mamba2Mixer" in type(module).__name__:
            module.register_forward_hook(louder)
    with pytest.raises(ReconstructionError, match=ADVICE.format(family)):
        dsf.inspect(model, strict=True, **inputs())


def louder(_module, _inputs, output):
    return 1.01 * output
