"""A mistake of one percent is refused in bfloat16 too: the comparison is made in float64."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.inspection import ReconstructionError

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
    (llama, "dsf.inspection.softmax.attention", "query"),
    (llama, "dsf.inspection.softmax.attention", "key"),
    (llama, "dsf.inspection.softmax.attention", "value"),
    (mamba2, "dsf.inspection.families.mamba2", "step"),
    (mamba2, "dsf.inspection.families.mamba2", "pole"),
    (mamba2, "dsf.inspection.families.mamba2", "read"),
    (mamba2, "dsf.inspection.families.mamba2", "write"),
    (mamba2, "dsf.inspection.families.mamba2", "value"),
]


@pytest.mark.parametrize(
    ("build", "module", "field"), CASES, ids=lambda case: getattr(case, "__name__", str(case))
)
def test_one_percent_in_one_coefficient_of_a_bfloat16_model_is_refused(
    build, module, field, monkeypatch
):
    import importlib

    family = importlib.import_module(module)
    model = build()
    sound = dsf.inspect(model, **IDS)
    assert max(layer.formula for layer in sound) <= 1e-12
    assert min(layer.rounding for layer in sound) > 1e-4

    def off(layer):
        mixer = family.read(layer)
        return replace(mixer, **{field: 1.01 * getattr(mixer, field)})

    adapter = replace(family.ADAPTER, read=off)
    if build is llama:
        from dsf.inspection import examine

        route = examine.Through.INTERFACE
        monkeypatch.setitem(examine.SOFTMAX, route, adapter)
        given = {}
    else:
        given = {"adapters": (adapter,)}
    with pytest.raises(ReconstructionError, match="1e-12") as caught:
        dsf.inspect(model, **IDS, **given)
    assert caught.value.formula > 1e-5
