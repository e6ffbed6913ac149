"""Recurrent layers of torch as blocks themselves, also several on one another or side by side."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.errors import UnreadableError

VARIANTS = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "both directions": {"bidirectional": True},
    "both": {"num_layers": 2, "bidirectional": True},
    "no bias": {"num_layers": 2, "bias": False},
}


class Recurrent(nn.Module):
    """Two recurrent layers as blocks, with a residual connection around each or without."""

    def __init__(self, kind, *, residual, **options):
        super().__init__()
        self.residual, out = residual, 8 * (1 + options.get("bidirectional", False))
        options = {"batch_first": True} | options
        widths = (out, out) if residual else (8, out)
        self.blocks = nn.ModuleList(kind(width, 8, **options) for width in widths)
        self.head = nn.Linear(out, 3)

    def forward(self, x):
        for block in self.blocks:
            mixed = block(x)[0]
            x = x + mixed if self.residual else mixed
        return self.head(x)


def drawn(kind, *, residual=False, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Recurrent(kind, residual=residual, **options).double()
        return model, torch.randn(2, 6, model.blocks[0].input_size, dtype=torch.float64)


@pytest.mark.sampled(count=8)
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "plain"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN], ids=lambda kind: kind.__name__)
def test_every_layer_and_direction_is_a_mixer_and_shares_sum_to_the_logit(kind, variant, residual):
    model, x = drawn(kind, residual=residual, **VARIANTS[variant])
    stack = dsf.stack(model, x)
    names = [layer.name for layer in stack.inspection]
    assert [mixer.name for mixer in stack.mixers] == names
    first = model.blocks[0]
    assert len(names) == 2 * first.num_layers * (1 + first.bidirectional)
    stack.check()
    share = stack.attribute(2, position=3)
    torch.testing.assert_close(share.value, model(x)[:, 3, 2].detach())
    torch.testing.assert_close(share.tokens.sum(dim=-1) + share.remainder, share.value)
    direct = share.embedding + sum(share.layers.values()) + share.remainder
    torch.testing.assert_close(direct, share.value)
    assert set(share.total) == set(names)
    assert not stack.closed
    ahead = share.tokens[:, 4:].abs().max() > 0
    assert bool(ahead) == first.bidirectional


def slopes_held(model, x):
    """What each token adds to the outputs, with every ``tanh(p)`` held as its slope times p.

    Written as loops over tokens; the biases and first states are left out.
    """
    parts = torch.zeros(x.shape[1], *x.shape, dtype=x.dtype)
    for token in range(x.shape[1]):
        parts[token, :, token] = x[:, token]
    for block in model.blocks:
        for layer in range(block.num_layers):
            ahead, back = (one_way(block, layer, end, x, parts) for end in ("", "_reverse"))
            x = torch.cat([ahead[0], back[0]], dim=-1)
            parts = torch.cat([ahead[1], back[1]], dim=-1)
    return parts @ model.head.weight.T


def one_way(block, layer, end, x, parts):
    weight, again, bias, more = (
        getattr(block, f"{name}_l{layer}{end}")
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    order = range(x.shape[1])
    state, share = torch.zeros(len(x), 8).double(), torch.zeros(len(parts), len(x), 8).double()
    outputs, shares = [None] * len(order), [None] * len(order)
    for t in reversed(order) if end else order:
        before = x[:, t] @ weight.T + state @ again.T + bias + more
        state = before.tanh()
        share = (parts[:, :, t] @ weight.T + share @ again.T) * (state / before)
        outputs[t], shares[t] = state, share
    return torch.stack(outputs, dim=1), torch.stack(shares, dim=2)


def test_tokens_of_two_layers_both_ways_have_the_shares_of_a_loop():
    model, x = drawn(nn.RNN, num_layers=2, bidirectional=True)
    share = dsf.stack(model, x).attribute(2, against=0, position=1)
    with torch.no_grad():
        expected = slopes_held(model, x)[:, :, 1]
    torch.testing.assert_close(share.tokens, (expected[..., 2] - expected[..., 0]).T)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN], ids=lambda kind: kind.__name__)
def test_tokens_on_the_first_axis_are_refused_with_what_to_do(kind):
    model, x = drawn(kind, batch_first=False)
    with pytest.raises(UnreadableError, match="batch_first="):
        dsf.stack(model, x)
