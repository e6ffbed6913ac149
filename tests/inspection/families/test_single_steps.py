"""A single token that continues a cache, as in generation: layers compute it in another way."""

import pytest
import torch

import dsf
from tests.inspection.families.tiny_models import CONTINUES_CACHES, FAMILIES, build, inputs

transformers = pytest.importorskip("transformers")
pytestmark = CONTINUES_CACHES
OF_THEIR_OWN = ("recurrent_gemma", "rwkv")  # states kept in the module; samples mixed by a step
CACHES = ("past_key_values", "cache_params")
MAMBA2 = [name for name, family in FAMILIES.items() if family.mixer == "StateSpaceDuality"]


def continued(name, tokens, **changes):
    model = build(name, **changes)
    ids = inputs(12)["input_ids"]
    with torch.no_grad():
        out = model(input_ids=ids[:, :tokens], use_cache=True)
    cache = {key: out[key] for key in CACHES if out.get(key) is not None}
    return dsf.inspect(model, input_ids=ids[:, tokens:], **cache)


@pytest.mark.sampled(count=9)
@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in OF_THEIR_OWN])
def test_every_family_takes_a_single_step_from_its_cache(name):
    inspection = continued(name, 11)
    assert not inspection.unsupported
    assert len(inspection) == FAMILIES[name].recurrent + FAMILIES[name].softmax
    assert max(layer.formula for layer in inspection) < max(1e-12, FAMILIES[name].exact)


@pytest.mark.parametrize(("name", "tokens"), [*((name, 11) for name in MAMBA2), ("mamba2", 5)])
def test_the_library_limits_the_steps_of_several_tokens_and_not_that_of_a_single_one(name, tokens):
    is_minimum = name in ("nemotron_h", "zamba2")
    limits = {"time_step_min": 0.2} if is_minimum else {"time_step_limit": (0.2, 0.3)}
    inspection = continued(name, tokens, **limits)
    steps = [layer.mixer.step for layer in inspection if hasattr(layer.mixer, "step")]
    assert len(steps) == FAMILIES[name].recurrent
    assert not inspection.unsupported
    assert all((step < 0.2).any() for step in steps) == (tokens == 11)
