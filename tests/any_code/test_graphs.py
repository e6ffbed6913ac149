"""Sums over the edges of a graph: each layer after the first sums what one before it made."""

import pytest
import torch
from torch import nn

from tests.any_code.test_promise import drawn, inspected

NODES, WIDTH = 12, 8
X = drawn(NODES, WIDTH)
FROM = torch.arange(NODES).repeat_interleave(3)
TO = (FROM + torch.tensor([1, 4, 7]).repeat(NODES)) % NODES


class Sum(nn.Module):
    """The sum of all messages that reach a node."""

    def forward(self, messages, to):
        return messages.new_zeros(NODES, messages.shape[-1]).index_add(0, to, messages)


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.make, self.sum = nn.Linear(WIDTH, WIDTH), Sum()

    def forward(self, x):
        return self.sum(self.make(x)[FROM], TO)


class VectorAttention(nn.Module):
    """Weights for every channel, of differences at the two ends of an edge."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.sum = Sum()

    def forward(self, x):
        scores = (self.query(x)[TO] - self.key(x)[FROM]).exp()
        weights = scores / torch.zeros_like(x).index_add(0, TO, scores)[TO]
        return self.sum(weights * self.value(x)[FROM], TO)


INCIDENCE = torch.zeros(NODES, NODES).index_put((TO, FROM), torch.ones(()))


@pytest.mark.parametrize("several", [2, 3])
def test_each_sum_over_edges_is_read(several):
    model = nn.Sequential(*(Convolution() for _ in range(several)))
    inspection = inspected(model, X)
    assert [layer.name for layer in inspection] == [f"{k}.sum" for k in range(several)]
    assert not inspection.unsupported
    assert [layer.columns for layer in inspection] == ["token", *["slot"] * (several - 1)]
    for layer in inspection:
        weights = layer.map().sum(2)  # of the channels of all edges that leave a node
        per_edge = weights.amax(1)[0]
        torch.testing.assert_close(per_edge.float(), INCIDENCE)


def test_a_node_that_reaches_itself_keeps_its_sums_apart():
    both = nn.Sequential(Convolution(), nn.LayerNorm(WIDTH), Convolution(), nn.ReLU())
    assert {layer.name for layer in inspected(both, X)} == {"0.sum", "2.sum"}


def test_weights_between_ends_of_edges_are_in_the_map_of_their_module():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), VectorAttention())
    inspection = inspected(model, X)
    assert not inspection.unsupported
    layer, given = inspection["1"], model[0](X)
    assert layer.is_exact
    ends = model[1].query(given)[:, None] - model[1].key(given)[None]
    masked = ends.masked_fill(INCIDENCE[..., None] == 0, -torch.inf)
    expected = masked.softmax(1).permute(2, 0, 1)  # channel, to, from
    torch.testing.assert_close(layer.map()[0].float(), expected)
