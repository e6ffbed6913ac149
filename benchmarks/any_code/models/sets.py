"""Models of sets, graphs, tables and proteins."""

from typing import Any

import torch
from torch import nn

from benchmarks.any_code.models.entry import TOKENS, Model, built, get, given, numbers

WIDE = given(numbers(2, TOKENS, 32))


class Graph(nn.Module):
    """A layer of graphs on a fixed ring of nodes with chords."""

    def __init__(self, inner: nn.Module, nodes: int):
        super().__init__()
        self.inner = inner
        there = torch.arange(nodes)
        ends = [torch.stack([there, (there + step) % nodes]) for step in (0, 1, 2, 5)]
        self.register_buffer("edges", torch.cat(ends, dim=1))

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, self.edges)


def _graph(name: str, *args: Any, **settings: Any) -> nn.Module:
    return Graph(get(f"torch_geometric.nn:{name}")(*args, **settings), TOKENS)


class Positions(nn.Module):
    """A layer of points whose positions are fixed."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.register_buffer("places", numbers(2, TOKENS, 3))

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, self.places)


class Table(nn.Module):
    """A model of tables called with numbers in every column and no categories."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, None)


def _of_graph(name: str, *args: Any, **settings: Any) -> Model:
    return Model(
        "torch-geometric",
        name,
        lambda: _graph(name, *args, **settings),
        given(numbers(TOKENS, 16)),
        axes=(0,),
        sample=None,
    )


MODELS = (
    Model("isab-pytorch", "ISAB", built("isab_pytorch:ISAB", dim=32, heads=4, num_latents=6), WIDE),
    Model(
        "slot-attention",
        "SlotAttention",
        built("slot_attention:SlotAttention", num_slots=5, dim=32, hidden_dim=32),
        WIDE,
    ),
    Model(
        "perceiver-pytorch",
        "PerceiverIO",
        built(
            "perceiver_pytorch:PerceiverIO",
            depth=1,
            dim=32,
            queries_dim=32,
            num_latents=6,
            latent_dim=32,
            cross_dim_head=8,
            latent_heads=4,
            latent_dim_head=8,
        ),
        WIDE,
    ),
    Model(
        "perceiver-pytorch",
        "Perceiver on an image",
        built(
            "perceiver_pytorch:Perceiver",
            num_freq_bands=2,
            depth=1,
            max_freq=4.0,
            num_latents=6,
            latent_dim=32,
            latent_heads=4,
            cross_dim_head=8,
            latent_dim_head=8,
            num_classes=5,
        ),
        given(numbers(2, 6, 6, 3)),
        axes=(1, 2),
        ends=("to_logits*",),
    ),
    Model(
        "point-transformer-pytorch",
        "PointTransformerLayer",
        lambda: Positions(
            get("point_transformer_pytorch:PointTransformerLayer")(
                dim=32, pos_mlp_hidden_dim=16, attn_mlp_hidden_mult=2
            )
        ),
        WIDE,
    ),
    Model(
        "triangle-multiplicative-module",
        "TriangleMultiplicativeModule",
        built(
            "triangle_multiplicative_module:TriangleMultiplicativeModule",
            dim=16,
            hidden_dim=16,
            mix="ingoing",
        ),
        given(numbers(2, 6, 6, 16)),
        axes=(1, 2),
    ),
    Model(
        "rtdl-revisiting-models",
        "FTTransformer",
        lambda: Table(
            get("rtdl_revisiting_models:FTTransformer")(
                n_cont_features=9,
                cat_cardinalities=[],
                d_out=2,
                n_blocks=2,
                d_block=32,
                attention_n_heads=4,
                attention_dropout=0.0,
                ffn_d_hidden_multiplier=2.0,
                ffn_dropout=0.0,
                residual_dropout=0.0,
            )
        ),
        given(numbers(2, 9)),
        ends=("*output*",),
    ),
    Model(
        "tab-transformer-pytorch",
        "FTTransformer",
        built(
            "tab_transformer_pytorch:FTTransformer",
            categories=(5, 5, 5, 5),
            num_continuous=6,
            dim=32,
            depth=1,
            heads=4,
            dim_head=8,
            num_residual_streams=1,
        ),
        given(torch.tensor([[0, 1, 2, 3], [3, 2, 1, 0]]), numbers(2, 6)),
        argument=1,
        ends=("to_logits*",),
    ),
    _of_graph("TransformerConv", 16, 4, heads=4),
    _of_graph("GATConv", 16, 4, heads=4),
    _of_graph("GCNConv", 16, 16),
    _of_graph("SAGEConv", 16, 16),
    Model(
        "kornia",
        "linear attention of LoFTR, its own and the other image",
        lambda: Pair(
            get("kornia.feature.loftr.loftr_module.transformer:LocalFeatureTransformer")(
                {
                    "d_model": 32,
                    "nhead": 4,
                    "layer_names": ["self", "cross"],
                    "attention": "linear",
                }
            )
        ),
        WIDE,
    ),
)


class Pair(nn.Module):
    """A model of two images called with one of them; the other is fixed."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.register_buffer("other", numbers(2, 10, 32))

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, self.other)[0]
