"""Layers and models of graphs: edges in lists, in dense tables, with types, and in records."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.any_code.models.entry import TOKENS, Model, built, get, given, numbers

G = "torch_geometric.nn"
THERE = torch.arange(TOKENS)
EDGES = torch.cat([torch.stack([THERE, (THERE + k) % TOKENS]) for k in (1, 2, 5)], dim=1)
KINDS = torch.arange(EDGES.shape[1]) % 3
TABLE = torch.zeros(TOKENS, TOKENS).index_put((EDGES[0], EDGES[1]), torch.ones(()))
NODES = numbers(TOKENS, 16)


class OfRecord(nn.Module):
    """A model called with a graph in one object, as loaders make them."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, data: Any) -> Any:
        return self.inner(data.x, data.edge_index)


class Tokenwise(nn.Module):
    """Features of nodes by a linear layer, whose output is where tokens are replaced."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.first, self.inner = nn.Linear(16, 16), OfRecord(inner)

    def forward(self, data: Any) -> Any:
        return self.inner(get("torch_geometric.data:Data")(x=self.first(data.x), edge_index=EDGES))


class Named(nn.Module):
    """A layer called with nodes first and fixed further arguments by their names."""

    def __init__(self, inner: nn.Module, **fixed: Tensor):
        super().__init__()
        self.inner, self.fixed = inner, fixed

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, **self.fixed)


def _record() -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (get("torch_geometric.data:Data")(x=NODES, edge_index=EDGES),), {}


def _nodes(what: str, build: Any, inputs: Any = None, **where: Any) -> Model:
    """A layer of nodes and edges; the nodes are tokens."""
    where = {"axes": (0,), "sample": None, **where}
    return Model("torch-geometric", what, build, inputs or given(NODES, EDGES), **where)


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))


DENSE = {"inputs": given(NODES[None], TABLE[None]), "axes": (1,), "sample": 0}

MODELS = (
    _nodes("GIN, two layers", built(f"{G}:GIN", 16, 16, num_layers=2)),
    _nodes(
        "GCN called with a record",
        lambda: Tokenwise(get(f"{G}:GCN")(16, 16, num_layers=2)),
        _record,
        source="first",
    ),
    _nodes("ChebConv", built(f"{G}:ChebConv", 16, 16, K=3)),
    _nodes("DenseGCNConv", built(f"{G}:DenseGCNConv", 16, 16), **DENSE),
    _nodes("DenseGATConv", built(f"{G}:DenseGATConv", 16, 4, heads=4), **DENSE),
    _nodes(
        "GPSConv, sums over edges and attention",
        lambda: get(f"{G}:GPSConv")(
            16, get(f"{G}:GINConv")(_perceptron()), heads=4, norm="layer_norm"
        ),
    ),
    _nodes("GatedGraphConv, a GRU of nodes", built(f"{G}:GatedGraphConv", 16, num_layers=2)),
    _nodes(
        "PNAConv, means and extremes",
        lambda: get(f"{G}:PNAConv")(
            16, 16, ["mean", "max", "std"], ["identity"], torch.tensor([0, 0, 0, TOKENS])
        ),
    ),
    _nodes(
        "RGCNConv, edges of three kinds",
        lambda: Named(get(f"{G}:RGCNConv")(16, 16, 3), edge_index=EDGES, edge_type=KINDS),
        given(NODES),
    ),
    _nodes("APPNP, walks that restart", built(f"{G}:APPNP", K=3, alpha=0.1)),
    _nodes(
        "PointTransformerConv",
        lambda: Named(
            get(f"{G}:PointTransformerConv")(16, 16), pos=numbers(TOKENS, 3), edge_index=EDGES
        ),
        given(NODES),
    ),
    _nodes(
        "SGFormer, linear attention and sums over edges",
        lambda: Named(
            get(f"{G}:SGFormer")(16, 16, 5, trans_num_heads=2, trans_dropout=0.0, gnn_dropout=0.0),
            edge_index=EDGES,
            batch=torch.zeros(TOKENS, dtype=torch.long),
        ),
        given(NODES),
    ),
)
