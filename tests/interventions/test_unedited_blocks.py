"""Blocks before the first edit are not run again, and nothing changes by that."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.interventions.live_model import CleanBlocks
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


class Block(nn.Module):
    """Attention that also reads what an earlier block was given, and counts its runs."""

    ran = 0

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, early):
        Block.ran += 1
        return x + self.attention(x, x, x)[0] + 2 * early


class Ladder(nn.Module):
    """Every block but the first also reads what leaves the first."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(4)])

    def forward(self, x):
        early = x
        for number, block in enumerate(self.blocks):
            x = block(x, early)
            early = x if number == 0 else early
        return x


class Cached(Ladder):
    """What leaves the first block goes to the others by an attribute that a run begins anew."""

    def forward(self, x):
        self.kept = []
        handle = self.blocks[0].attention.register_forward_hook(
            lambda _, __, output: self.kept.append(output[0])
        )
        x = self.blocks[0](x, x)
        handle.remove()
        for block in self.blocks[1:]:
            x = block(x, self.kept[0])
        return x


@pytest.mark.parametrize(("kind", "saved"), [(Ladder, 2), (Cached, 1)])
def test_blocks_are_left_out_however_they_are_wired(kind, saved, whole):
    torch.manual_seed(0)
    model, x = kind().double(), torch.randn(1, 6, 8, dtype=torch.float64)
    cut = edits.Cut("blocks.2.attention", key=[1])

    def edited():
        before, Block.ran = Block.ran, 0
        try:
            return dsf.intervene(model, x, edits=cut), Block.ran
        finally:
            Block.ran = before

    (ours, ran), (theirs, all_run) = edited(), whole(edited)
    assert torch.equal(ours.output, theirs.output)
    assert not torch.equal(ours.output, ours.clean)
    assert all_run - ran == saved
    assert all("forward" not in vars(block) for block in model.blocks)


class Leaves(Block):
    """Leaves the mean of what it puts out to those after it, past its output."""

    def __init__(self, way, places):
        super().__init__()
        self.way, self.places = way, places

    def forward(self, x, early):
        output = super().forward(x, early)
        mean, model = output.mean(dim=(0, 1)), self.places[0]
        if self.way == "a list":
            model.means.append(mean)
        elif self.way == "a buffer":
            model.total += mean
        else:
            model.latest = model.latest + mean
        return output


class Noting(Ladder):
    def __init__(self, way):
        super().__init__()
        self.means = []
        self.register_buffer("total", torch.zeros(8, dtype=torch.float64))
        self.blocks = nn.ModuleList([Leaves(way, (self,)) for _ in range(4)])

    def forward(self, x):
        self.means, self.latest = [], torch.zeros(8, dtype=x.dtype)
        self.total.zero_()
        x = super().forward(x)
        return x + self.latest + self.total + sum(self.means, torch.zeros(8, dtype=x.dtype))


@pytest.mark.parametrize("way", ["a list", "a buffer", "an attribute"])
def test_what_a_block_leaves_elsewhere_is_there(way, whole):
    torch.manual_seed(0)
    model, x = Noting(way).double(), torch.randn(1, 6, 8, dtype=torch.float64)
    cut = edits.Cut("blocks.3.attention", key=[1])
    ours = dsf.intervene(model, x, edits=cut)
    theirs = whole(lambda: dsf.intervene(model, x, edits=cut))
    torch.testing.assert_close(ours.output, theirs.output)
    assert not torch.equal(ours.output, ours.clean)


def test_hooks_of_others_change_what_a_block_puts_out_once(whole):
    torch.manual_seed(0)
    model, x = Ladder().double(), torch.randn(1, 6, 8, dtype=torch.float64)
    cut = edits.Cut("blocks.3.attention", key=[1])
    model.blocks[0].register_forward_hook(lambda _, __, output: output.add_(1))
    model.blocks[1].register_forward_hook(lambda _, __, output: 2 * output)

    def edited():
        return dsf.intervene(model, x, edits=cut)

    ours, theirs = edited(), whole(edited)
    assert torch.equal(ours.output, theirs.output)
    assert torch.equal(ours.clean, model(x))
    is_block = lambda part: isinstance(part, Block)  # noqa: E731
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: output + 1 if is_block(module) else None
    )
    try:
        ours, theirs = edited(), whole(edited)
    finally:
        handle.remove()
    assert torch.equal(ours.output, theirs.output)


def test_every_run_of_a_sweep_leaves_out_what_is_before_its_own_edit():
    torch.manual_seed(0)
    model, x = Ladder().double(), torch.randn(1, 6, 8, dtype=torch.float64)
    cuts = [edits.Cut(f"blocks.{k}.attention", key=[1]) for k in range(4)]
    Block.ran = 0
    effects = dsf.sweep(model, x, edits=cuts, target=lambda out: out.sum((1, 2)), together=1)
    assert Block.ran == 4 + 4 + 3 + 2 + 1
    Block.ran = 0
    for cut, effect in zip(cuts, effects, strict=True):
        alone = dsf.intervene(model, x, edits=cut)
        torch.testing.assert_close((alone.output - alone.clean).sum((1, 2)), effect)
    assert Block.ran == 4 * 4 + 4 + 3 + 2 + 1


class Workspace(nn.Module):
    """Puts its output into a tensor that it keeps."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)])
        self.kept = torch.zeros(1, 6, 8)

    def forward(self, x):
        self.kept.copy_(x + self.blocks[0](x, x, x)[0])
        return self.kept


ELSEWHERE = torch.zeros(1, 6, 8)


class Elsewhere(Workspace):
    """The same, where nobody can see that the model has a hold of the tensor."""

    def forward(self, x):
        return ELSEWHERE.copy_(super().forward(x))


def test_an_output_that_the_next_run_writes_into_is_copied_or_refused():
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    model = Workspace()
    result = dsf.intervene(model, x, edits=edits.Cut(0, key=[1]))
    torch.testing.assert_close(result.clean, model(x).detach())
    assert not torch.equal(result.output, result.clean)
    with pytest.raises(dsf.inspection.InspectionError, match="run before"):
        dsf.intervene(Elsewhere(), x, edits=edits.Cut(0, key=[1]))
