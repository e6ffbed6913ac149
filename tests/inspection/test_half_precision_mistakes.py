"""A mistake of one percent is refused in bfloat16 too: the comparison is made in float64."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.inspection import ReconstructionError, examine
from dsf.inspection.families import selective_scans
from dsf.inspection.softmax import attention

transformers = pytest.importorskip("transformers")
IDS = {"input_ids": torch.arange(1, 41)[None] % 31}


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=31,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return transformers.LlamaModel(config).to(torch.bfloat16).eval()


def mamba2():
    torch.manual_seed(0)
    config = transformers.Mamba2Config(
        vocab_size=31,
        hidden_size=32,
        num_hidden_layers=2,
        num_heads=8,
        head_dim=8,
        state_size=16,
        n_groups=1,
        chunk_size=16,
    )
    return transformers.Mamba2Model(config).to(torch.bfloat16).eval()


# Every coefficient that a mixer of the family has, each off by one percent.
CASES = [
    *((llama, attention.ADAPTER, field) for field in ("query", "key", "value")),
    *(
        (mamba2, selective_scans.MAMBA2, field)
        for field in ("step", "pole", "read", "write", "value")
    ),
]


@pytest.mark.parametrize(
    ("build", "family", "field"),
    CASES,
    ids=[f"{build.__name__}-{field}" for build, _, field in CASES],
)
def test_one_percent_in_one_coefficient_of_a_bfloat16_model_is_refused(
    build, family, field, monkeypatch
):
    model = build()
    sound = dsf.inspect(model, **IDS)
    assert max(layer.formula for layer in sound) <= 1e-12
    assert min(layer.rounding for layer in sound) > 1e-4

    def off(layer):
        mixer = family.read(layer)
        return replace(mixer, **{field: 1.01 * getattr(mixer, field)})

    adapter = replace(family, read=off)
    if build is llama:
        route = examine.Through.INTERFACE
        monkeypatch.setitem(examine.SOFTMAX, route, adapter)
        given = {}
    else:
        given = {"adapters": (adapter,)}
    with pytest.raises(ReconstructionError, match="1e-12") as caught:
        dsf.inspect(model, **IDS, **given)
    assert caught.value.formula > 1e-5
