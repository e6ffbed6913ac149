"""Paths of an attribution: against every chain of a small network, multiplied out by hand."""

from itertools import product

import pytest
import torch
from torch import nn

import dsf
from dsf.models import folder, recall


class Block(nn.Module):
    """Attention and a feed-forward layer without norms and biases."""

    def __init__(self, size):
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 2, bias=False, batch_first=True)
        self.up, self.down = nn.Linear(size, 6, bias=False), nn.Linear(6, size, bias=False)

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.down(nn.functional.gelu(self.up(x)))


class Network(nn.Module):
    def __init__(self, size=4, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList([Block(size) for _ in range(depth)])
        self.head = nn.Linear(size, 3, bias=False)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def written_out(network, x):
    """For every block the matrices of its edges and of its tokens, from the weights alone."""
    found = []
    for block in network.blocks:
        size = x.shape[-1]
        query, key, value = block.attention.in_proj_weight.split(size)
        edges = torch.zeros(len(x), len(x), size, size, dtype=x.dtype)
        for head in range(2):
            mine = slice(head * size // 2, (head + 1) * size // 2)
            scores = (x @ query[mine].T) @ (x @ key[mine].T).T / (size // 2) ** 0.5
            weights = scores.softmax(dim=-1)
            through = block.attention.out_proj.weight[:, mine] @ value[mine]
            edges += weights[:, :, None, None] * through
        x = x + torch.einsum("ijab,jb->ia", edges, x)
        inner = x @ block.up.weight.T
        factor = nn.functional.gelu(inner) / inner
        stay = torch.eye(size, dtype=x.dtype) + torch.einsum(
            "ab,tb,bc->tac", block.down.weight, factor, block.up.weight
        )
        x = torch.einsum("tab,tb->ta", stay, x)
        found.append((edges, stay))
    return found


def every_path(network, x, target, position):
    """The share of every chain by its edges ``(block, written, read)`` and its first token."""
    blocks, steps = written_out(network, x), len(x)
    shares = {}
    for passed in product((False, True), repeat=len(blocks)):
        for tokens in product(range(steps), repeat=1 + sum(passed)):
            if tokens[-1] != position:
                continue
            vector, at, edges = x[tokens[0]], tokens[0], []
            following = iter(tokens[1:])
            for number, (moving, stay) in enumerate(blocks):
                if passed[number]:
                    written = next(following)
                    vector = moving[written, at] @ vector
                    edges.append((number, written, at))
                    at = written
                vector = stay[at] @ vector
            shares[tokens[0], tuple(edges)] = (network.head.weight[target] @ vector).item()
    return shares


@pytest.fixture(scope="module")
def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = Network().double(), torch.randn(2, 3, 4).double()
    share = dsf.stack(network, x).attribute(1, position=1)
    with torch.no_grad():
        return share, [every_path(network, sample, 1, 1) for sample in x]


def by_edges(paths):
    names = {"blocks.0.attention": 0, "blocks.1.attention": 1}
    return {
        (path.token, tuple((names[layer], *tokens) for layer, *tokens in path.edges)): path.share
        for path in paths
    }


@pytest.mark.parametrize("sample", [0, 1])
def test_every_path_is_the_product_of_its_matrices(small, sample):
    share, expected = small[0], small[1][sample]
    paths = share.paths(10**4, sample=sample, most=10**4)
    found = by_edges(paths)
    assert paths.is_settled
    assert len(found) == len(paths)
    assert found.keys() == {key for key, value in expected.items() if value}
    for key, value in found.items():
        assert value == pytest.approx(expected[key], rel=1e-9, abs=1e-14)
    assert paths.covered == pytest.approx(paths.total, rel=1e-12)
    assert paths.total == pytest.approx(share.tokens[sample].sum().item(), rel=1e-12)


def test_the_strongest_come_first_and_say_what_they_cover(small):
    share, expected = small[0], small[1][0]
    paths = share.paths(4, most=10**4)
    sizes = [abs(path.share) for path in paths]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(max(map(abs, expected.values())))
    assert paths.covered == pytest.approx(sum(path.share for path in paths))
    rest = sum(expected.values()) - sum(expected[key] for key in by_edges(paths))
    assert paths.total - paths.covered == pytest.approx(rest)


def test_a_search_that_stops_early_says_so(small):
    paths = small[0].paths(10**4, most=1)
    assert not paths.is_settled
    assert paths.continued == 1
    everything = by_edges(small[0].paths(10**4, most=10**4))
    for key, value in by_edges(paths).items():
        assert everything[key] == value


@pytest.mark.parametrize("name", ["mamba2", "qwen3_next"])
def test_paths_that_write_last_to_a_token_sum_to_the_edges_there(name):
    """By written tokens, since a short convolution moves tokens before a map reads its values."""
    tokens = recall.draw(torch.Generator().manual_seed(0), 1).tokens[:, :4]
    stack = dsf.stack(folder(name), input_ids=tokens)
    share, last = stack.attribute(7), stack.mixers[-1].name
    paths = share.paths(10**5, most=10**5)
    assert paths.is_settled
    assert paths.covered == pytest.approx(share.tokens.sum().item(), rel=1e-10)
    sums = torch.zeros(4, dtype=torch.float64)
    for path in paths:
        if path.edges and path.edges[-1].layer == last:
            sums[path.edges[-1].query] += path.share
    torch.testing.assert_close(sums, share.edge_sums(last)[0].sum(dim=-1))


def test_paths_have_a_form_for_files(small):
    paths = small[0].paths(2)
    record = paths.to_json()
    assert record["total"] == paths.total
    assert record["covered"] == paths.covered
    first = record["paths"][0]
    assert first["token"] == paths[0].token
    assert first["edges"] == [
        {"layer": edge.layer, "query": edge.query, "key": edge.key} for edge in paths[0].edges
    ]
    assert repr(paths).startswith("Paths(2 with ")


def test_wrong_counts_are_refused(small):
    with pytest.raises(ValueError, match="'count'"):
        small[0].paths(0)
    with pytest.raises(ValueError, match="'most'"):
        small[0].paths(most=0)
    with pytest.raises(IndexError, match="sample="):
        small[0].paths(sample=2)
