"""Models of proteins, genomes, molecules and other points in space."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.any_code.models.entry import TOKENS, Model, built, get, given, ids, numbers

WIDE, PLACES = numbers(2, TOKENS, 32), numbers(2, TOKENS, 3)
HEADS = {"heads": 4, "dim_head": 8}


class Placed(nn.Module):
    """A model of features and places, called with its features; places and the rest are fixed."""

    def __init__(self, inner: nn.Module, **fixed: Tensor):
        super().__init__()
        self.inner, self.fixed = inner, fixed

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, **self.fixed)


def _enformer() -> nn.Module:
    config = get("enformer_pytorch:EnformerConfig")(
        dim=48,
        depth=1,
        heads=4,
        output_heads={"human": 5},
        target_length=-1,
        attn_dim_key=8,
        num_downsamples=3,
        dim_divisible_by=4,
    )
    model: nn.Module = get("enformer_pytorch:Enformer")(config)
    return model


def _invariant_points() -> nn.Module:
    attention = get("invariant_point_attention:InvariantPointAttention")(
        dim=32, heads=4, scalar_key_dim=4, scalar_value_dim=4, require_pairwise_repr=False
    )
    turned = torch.linalg.qr(numbers(2, TOKENS, 3, 3)).Q
    return Placed(attention, rotations=turned, translations=PLACES)


MODELS = (
    Model(
        "egnn-pytorch",
        "EGNN",
        lambda: Placed(get("egnn_pytorch:EGNN")(dim=32), coors=PLACES),
        given(WIDE),
    ),
    Model(
        "egnn-pytorch",
        "EGNN_Network with linear attention to global tokens",
        lambda: Placed(
            get("egnn_pytorch:EGNN_Network")(
                depth=1,
                dim=32,
                global_linear_attn_every=1,
                global_linear_attn_heads=4,
                global_linear_attn_dim_head=8,
            ),
            coors=PLACES,
        ),
        given(WIDE),
    ),
    Model("invariant-point-attention", "InvariantPointAttention", _invariant_points, given(WIDE)),
    Model(
        "en-transformer",
        "EnTransformer",
        lambda: Placed(
            get("en_transformer:EnTransformer")(dim=32, depth=1, heads=2, dim_head=32),
            coors=PLACES,
        ),
        given(WIDE),
    ),
    Model(
        "vn-transformer",
        "VNTransformerEncoder, channels are vectors",
        built("VN_transformer:VNTransformerEncoder", dim=16, depth=1, dim_head=4, heads=4),
        given(numbers(2, TOKENS, 16, 3)),
    ),
    Model(
        "protein-bert-pytorch",
        "ProteinBERT, residues and annotations",
        built(
            "protein_bert_pytorch:ProteinBERT",
            num_tokens=21,
            num_annotation=10,
            dim=32,
            dim_global=16,
            depth=1,
            narrow_conv_kernel=3,
            wide_conv_kernel=3,
            wide_conv_dilation=2,
            attn_heads=4,
            attn_dim_head=8,
        ),
        given(ids(words=21), numbers(2, 10)),
    ),
    Model(
        "tranception-pytorch",
        "Tranception",
        built(
            "tranception_pytorch:Tranception",
            dim=32,
            depth=1,
            num_tokens=21,
            ds_conv_kernel_sizes=(0, 3, 5, 7),
            **HEADS,
        ),
        given(ids(words=21)),
    ),
    Model(
        "enformer-pytorch",
        "Enformer",
        _enformer,
        given(ids(96, words=6) - 1),
        source="conv_tower",
        axes=(2,),
    ),
)
