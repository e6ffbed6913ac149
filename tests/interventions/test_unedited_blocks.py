"""Blocks before the first edit are not run again, and nothing changes by that."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.interventions.live_model import CleanBlocks
from dsf.loading import load_model
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")


@pytest.fixture
def whole(monkeypatch):
    """Runs a function once more with no block left out."""

    def again(function):
        with monkeypatch.context() as patch:
            patch.setattr(CleanBlocks, "left_out_before", lambda *_: nullcontext())
            return function()

    return again


@pytest.mark.parametrize("name", ["mamba2", "bamba", "zamba", "rwkv", "recurrent_gemma"])
def test_an_edit_of_the_last_layer_does_what_it_does_in_a_whole_run(name, whole):
    model, given = tiny_models.build(name), tiny_models.inputs(9, padding="left")
    last = dsf.inspect(model, checks="none", **given)[-1].name

    def edited():
        return dsf.intervene(model, edits=edits.Ablate(last), **given)

    ours, theirs = edited(), whole(edited)
    assert torch.equal(ours.output, theirs.output)
    assert torch.equal(ours.clean, theirs.clean)
    assert not torch.equal(ours.output, ours.clean)


def llama():
    model = load_model(dsf.models.folder("llama")).model.double()
    return model, {"input_ids": torch.arange(1, 10)[None]}


def test_every_run_of_a_sweep_leaves_out_what_is_before_its_own_edit():
    (model, given), ran = llama(), []
    blocks = model.model.layers
    for number, block in enumerate(blocks):
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    cuts = [edits.Cut(number, key=[1]) for number in range(len(blocks))]
    effects = dsf.sweep(model, edits=cuts, target=lambda out: out.sum((1, 2)), together=1, **given)
    runs = [list(range(first, len(blocks))) for first in (0, *range(len(blocks)))]
    assert ran == [number for run in runs for number in run]
    for cut, effect in zip(cuts, effects, strict=True):
        alone = dsf.intervene(model, edits=cut, **given)
        torch.testing.assert_close((alone.output - alone.clean).sum((1, 2)), effect)


def test_hooks_of_others_change_what_a_block_puts_out_once(whole):
    model, given = llama()
    model.model.layers[0].register_forward_hook(lambda _, __, output: 2 * output)

    def edited():
        return dsf.intervene(model, edits=edits.Cut(-1, key=[1]), **given)

    ours, theirs = edited(), whole(edited)
    assert torch.equal(ours.output, theirs.output)
    is_block = lambda part: part in list(model.model.layers)  # noqa: E731
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: output + 1 if is_block(module) else None
    )
    try:
        ours, theirs = edited(), whole(edited)
    finally:
        handle.remove()
    assert torch.equal(ours.output, theirs.output)


class Workspace(nn.Module):
    """Puts its output into a tensor that it keeps."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)])
        self.kept = torch.zeros(1, 6, 8)

    def forward(self, x):
        self.kept.copy_(x + self.blocks[0](x, x, x)[0])
        return self.kept


def test_an_output_that_the_next_run_writes_into_is_copied():
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    model = Workspace()
    result = dsf.intervene(model, x, edits=edits.Cut(0, key=[1]))
    torch.testing.assert_close(result.clean, model(x).detach())
    assert not torch.equal(result.output, result.clean)
