"""A library model after an inspection is the model from before it."""

from copy import deepcopy

import pytest
import torch

import dsf
from tests.inspection.families.tiny_models import build, inputs

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
# A softmax hybrid of every kind, and the two that write into themselves: rwkv rescales weights at
# its first evaluation, recurrent_gemma keeps its states.
FAMILIES = ["jamba", "bamba", "nemotron_h", "qwen3_next", "minimax", "rwkv", "recurrent_gemma"]


def everything(model):
    """Numbers, modes, attributes, hooks and settings of every module."""
    return {
        "weights": {name: part.clone() for name, part in model.state_dict(keep_vars=True).items()},
        "versions": {name: id(part) for name, part in model.named_parameters()},
        "modes": {name: part.training for name, part in model.named_modules()},
        "hooks": {
            name: [len(getattr(part, hooks)) for hooks in HOOKS]
            for name, part in model.named_modules()
        },
        "attributes": {name: sorted(vars(part)) for name, part in model.named_modules()},
        "configuration": deepcopy(model.config.to_dict()),
        "attention": model.config._attn_implementation,
        "gradients": {name: part.requires_grad for name, part in model.named_parameters()},
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_it_was_found(family, dtype):
    model = build(family).to(dtype).train()
    next(model.children()).eval()
    before, random = everything(model), torch.get_rng_state()
    dsf.inspect(model, **inputs(padding="left"))
    after = everything(model)
    numbers, numbers_after = before.pop("weights"), after.pop("weights")
    assert numbers.keys() == numbers_after.keys()
    assert all(torch.equal(numbers[name], numbers_after[name]) for name in numbers)
    assert after == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(part.grad is None for part in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_training_is_read_as_in_evaluation(family):
    model = build(family)
    evaluated = dsf.inspect(model.eval(), **inputs())
    trained = dsf.inspect(model.train(), **inputs())
    for one, other in zip(evaluated, trained, strict=True):
        assert torch.equal(one.signal, other.signal)
        assert one.error == other.error


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_puts_out_the_same_afterwards(family):
    model = build(family)
    with torch.no_grad():
        before = model(**inputs(), use_cache=False).logits
        dsf.inspect(model, **inputs())
        after = model(**inputs(), use_cache=False).logits
    assert torch.equal(before, after)


def test_a_rescaled_model_is_read_with_the_weights_of_the_run():
    """The third layer's output is halved in evaluation, and only there."""
    model = build("rwkv").double().train()
    weight = model.rwkv.blocks[2].attention.output.weight.clone()
    inspection = dsf.inspect(model, **inputs())
    assert max(layer.error for layer in inspection) < 1e-12
    assert torch.equal(model.rwkv.blocks[2].attention.output.weight, weight)
    model.eval()(**inputs(), use_cache=False)
    torch.testing.assert_close(model.rwkv.blocks[2].attention.output.weight, weight / 2)
