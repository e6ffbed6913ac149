"""A cache of TransformerLens, made by hand as that library names and lays out its parts."""

import pytest
import torch

import dsf
from dsf.inspection import NothingCapturedError, ReconstructionError
from dsf.report.exchange import from_transformer_lens


class Cache:
    """No mapping: names, and tensors by name."""

    def __init__(self, parts):
        self._parts = parts

    def keys(self):
        return self._parts.keys()

    def __getitem__(self, name):
        return self._parts[name]


def made(*, added=None, softcap=None, groups=1, padding=0, rotary=False, scale=0.5, batch=True):
    """One attention: batch 2, 6 positions, 4 heads of width 4, with all that its layer hooks."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, 6, heads, 4, generator=rng) for heads in (4, 4 // groups, 4 // groups)
    )
    wide = [part.repeat_interleave(groups, dim=2) for part in (k, v)]
    scores = scale * torch.einsum("bqhd,bkhd->bhqk", q, wide[0])
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores if added is None else scores + added
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    hidden = hidden | (torch.arange(6) < padding)
    scores = scores.masked_fill(hidden, -torch.inf)
    pattern = scores.softmax(dim=-1).nan_to_num()
    z = torch.einsum("bhqk,bkhd->bqhd", pattern, wide[1])
    parts = {"q": q, "k": k, "v": v, "attn_scores": scores, "pattern": pattern, "z": z}
    if rotary:
        parts |= {"rot_q": q, "rot_k": k, "q": q.flip(0), "k": k.flip(0)}
    return {
        f"blocks.3.attn.hook_{name}": part if batch else part[0] for name, part in parts.items()
    }


ALIBI = -torch.rand(4, 1, 1, generator=torch.Generator().manual_seed(1)) * torch.arange(6.0).flip(0)
CASES = {
    "plain": {},
    "grouped heads": {"groups": 2},
    "rotary": {"rotary": True},
    "padded left": {"padding": 2},
    "added to the scores": {"added": ALIBI},
    "no batch axis": {"batch": False},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_pattern_is_rebuilt_from_its_queries_and_keys(case):
    parts = made(**case)
    (layer,) = from_transformer_lens(Cache(parts))
    assert (layer.name, layer.axes) == ("blocks.3.attn", ("sample", "head"))
    assert layer.error < 1e-6
    pattern = parts["blocks.3.attn.hook_pattern"].double()
    pattern = pattern if pattern.ndim == 4 else pattern.unsqueeze(0)
    torch.testing.assert_close(layer.map(), pattern, rtol=1e-5, atol=1e-6)
    assert layer.mixer.causal
    assert (layer.mixer.bias is None) == (not case.get("padding") and "added" not in case)
    assert dsf.measures.row_sums(layer.system).shape == (*layer.system.batch, 6)


def test_scale_and_soft_cap_are_the_models():
    parts = made(softcap=1.5, scale=0.9)
    without = {name: part for name, part in parts.items() if "scores" not in name}
    (layer,) = from_transformer_lens(without, scale=0.9, softcap=1.5)
    assert layer.mixer.softcap == 1.5
    assert layer.mixer.bias is None
    with pytest.raises(ReconstructionError, match="hook_pattern"):
        from_transformer_lens(without)
    # With the scores in the cache whatever was done to them is a bias.
    assert from_transformer_lens(parts)[0].mixer.bias is not None


def test_values_that_are_not_the_ones_are_found():
    parts = made()
    parts["blocks.3.attn.hook_v"] = parts["blocks.3.attn.hook_v"] * 1.01
    with pytest.raises(ReconstructionError, match="hook_z"):
        from_transformer_lens(parts)


def test_a_cache_with_something_missing_says_what():
    with pytest.raises(NothingCapturedError, match="hook_pattern"):
        from_transformer_lens({"blocks.0.hook_resid_pre": torch.ones(1, 2, 3)})
    parts = made()
    del parts["blocks.3.attn.hook_k"]
    with pytest.raises(NothingCapturedError, match="hook_q"):
        from_transformer_lens(parts)
