"""What the run is followed through says where its numbers come from, or takes no proof from it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import dsf

WIDTH, TOKENS = 8, 6


class Fused(nn.Module):
    """An attention whose run can be followed from end to end."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        heads = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(*heads)
        return self.o(mixed.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, path):
        super().__init__()
        self.inp, self.attn, self.out = nn.Linear(WIDTH, WIDTH), Fused(), nn.Linear(WIDTH, WIDTH)
        self.norm, self.path = nn.BatchNorm1d(WIDTH), path

    def forward(self, x):
        x = self.inp(x)
        x = x + self.attn(x)
        return self.out(x + self.path(self, x))


def inspected(path, samples=2):
    torch.manual_seed(0)
    model = Model(path)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.4)
    x = torch.randn(samples, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))
    return dsf.inspect(model.eval(), x)


@torch.library.custom_op("dsf_tests::total", mutates_args=("into",))
def total(x: torch.Tensor, into: torch.Tensor) -> None:
    into.copy_(torch.tanh(x.cumsum(1)))


@torch.library.custom_op("dsf_tests::both", mutates_args=())
def both(one: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return one * 1.0, torch.tanh(other)


def written(_s, x):
    into = torch.zeros_like(x)
    total(x, into)
    return into


def assigned(s, x):
    s.norm.running_mean.copy_(x.mean((0, 1)))
    return s.norm(x.mT).mT


def scale(x):
    return x.mean((0, 1))


PATHS = {
    "filled": lambda _s, x: torch.empty_like(x).fill_(x.mean()),
    "filled in part": lambda _s, x: torch.zeros_like(x).index_fill(1, torch.tensor([0]), x.mean()),
    "drawn": lambda _s, x: torch.bernoulli(x.roll(1, 1).sigmoid()) * x,
    "drawn in place": lambda _s, x: torch.empty_like(x).bernoulli_(x.roll(1, 1).sigmoid()) * x,
    "normal": lambda _s, x: torch.normal(x.roll(1, 1), torch.ones_like(x)),
    "written by an operator": written,
    "lists": lambda _s, x: torch.stack(
        torch._foreach_add([*x.unbind(1)], [*x.flip(1).unbind(1)]), 1
    ),
    "selected": lambda _s, x: torch.select_scatter(x, x[:, 0].tanh(), 1, 3),
    "sliced": lambda _s, x: torch.slice_scatter(x, x[:, :2].tanh(), 1, 3, 5),
    "weight of a norm": lambda _s, x: functional.layer_norm(x, (WIDTH,), weight=scale(x)),
    "statistics": lambda _s, x: functional.batch_norm(x.mT, scale(x), x.var((0, 1))).mT,
    "statistics in a buffer": assigned,
    "gated by later tokens": lambda _s, x: functional.glu(
        torch.cat([x, x.roll(1, 1)], dim=1), dim=1
    ),
    "kernel": lambda _s, x: (
        functional.conv1d(x.mT, scale(x).expand(WIDTH, WIDTH)[..., None] * 1).mT
    ),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_past_an_attention_that_is_followed(path):
    assert {"Model", "norm"} & {one.name for one in inspected(PATHS[path]).unsupported}


@pytest.mark.parametrize("of_next", [True, False])
def test_a_second_output_of_an_unknown_operator(of_next):
    def path(_s, x):
        made = [both(x[:, t], x[:, (t + of_next) % TOKENS])[1] for t in range(TOKENS)]
        return torch.stack(made if of_next else [*made[1:], made[0]], dim=1)

    assert "Model" in {one.name for one in inspected(path, samples=1).unsupported}


def test_what_keeps_tokens_apart_is_not_listed():
    def path(s, x):
        drawn = functional.dropout(torch.ones_like(x), training=True)
        placed = torch.slice_scatter(x, x[:, 3:5].tanh(), 1, 3, 5)
        return drawn * placed + torch.empty_like(x).fill_(0.5) + s.norm(x.mT).mT

    inspection = inspected(path)
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported


APART = {
    "gated": lambda x: functional.glu(torch.cat([x, -x], dim=-1), dim=-1),
    "gated channels": lambda x: functional.glu(torch.cat([x, -x], dim=-1).mT, dim=1).mT,
    "diagonal": lambda x: torch.diag_embed(x).sum(-1),
    "repeated by a resize": lambda x: functional.interpolate(
        x.mT, scale_factor=2, mode="nearest-exact"
    ).mT[:, ::2],
}


class Before(nn.Module):
    """An attention over what an operation makes of features."""

    def __init__(self, path):
        super().__init__()
        self.inp, self.attn, self.path = nn.Linear(WIDTH, WIDTH), Fused(), path

    def forward(self, x):
        x = self.path(self.inp(x))
        return x + self.attn(x)


@pytest.mark.parametrize("name", APART)
def test_operations_on_single_tokens_before_an_attention(name):
    torch.manual_seed(0)
    inspection = dsf.inspect(Before(APART[name]).eval(), torch.randn(2, TOKENS, WIDTH))
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported


class GatedFilter(nn.Module):
    """A gated unit before a filter over time, as in the convolutions of a Conformer."""

    def __init__(self):
        super().__init__()
        self.widen, self.out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.filter = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

    def forward(self, x):
        return self.out(self.filter(functional.glu(self.widen(x), dim=-1).mT).mT)


def test_the_filter_behind_a_gated_unit_is_what_is_read():
    torch.manual_seed(0)
    inspection = dsf.inspect(GatedFilter().eval(), torch.randn(2, TOKENS, WIDTH))
    assert [(layer.name, layer.is_exact) for layer in inspection] == [("filter", True)]
    assert not inspection.unsupported
