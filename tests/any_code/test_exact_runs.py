"""The axes of the maps are the same where a model runs in float64 throughout."""

import pytest
import torch

import dsf
from dsf.models import folder, recall

pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["llama", "qwen3_next"])
@pytest.mark.parametrize("samples", [2, 3])
def test_positions_are_no_windows(name, samples):
    """Rotary positions are cast to float32 and back; their angles are made of no token."""
    tokens = recall.draw(torch.Generator().manual_seed(0), samples).tokens
    plain, exact = (
        dsf.inspect(folder(name), input_ids=tokens, exact=exact) for exact in (False, True)
    )
    assert [layer.axes for layer in exact] == [layer.axes for layer in plain]
    for one, other in zip(plain, exact, strict=True):
        assert one.axes == ("sample", "head")
        assert one.system.batch == other.system.batch
        assert one.system.batch[0] == samples
        assert other.share == pytest.approx(1)
    assert {row["answer"] for row in exact.checks} == {"all of it"}
