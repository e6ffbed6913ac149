"""Recurrent models, state-space models, and models of time series and of sound."""

from typing import Any

import torch
from torch import nn

from benchmarks.any_code.models.entry import (
    TOKENS,
    WORDS,
    Model,
    built,
    get,
    given,
    ids,
    numbers,
)

WIDE = given(numbers(2, TOKENS, 16))


def _mamba(**settings: Any) -> nn.Module:
    config = get("mambapy.mamba:MambaConfig")(d_model=16, n_layers=2, **settings)
    model: nn.Module = get("mambapy.mamba:Mamba")(config)
    return model


def _jamba() -> nn.Module:
    config = get("mambapy.jamba:JambaLMConfig")(
        d_model=16,
        n_layers=4,
        mlp_size=32,
        num_attention_heads=4,
        num_key_value_heads=2,
        d_state=4,
        attn_layer_offset=1,
        attn_layer_period=4,
        expert_layer_offset=1,
        expert_layer_period=2,
        num_experts=2,
        num_experts_per_tok=1,
    )
    model: nn.Module = get("mambapy.jamba:JambaLM")(config)
    return First(model)


class First(nn.Module):
    """A model of which the first output counts."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return self.inner(*args)[0]


def _xlstm(kind: str) -> nn.Module:
    get_ = lambda name: get(f"xlstm:{name}")  # noqa: E731
    mlstm = get_("mLSTMBlockConfig")(
        mlstm=get_("mLSTMLayerConfig")(conv1d_kernel_size=4, qkv_proj_blocksize=4, num_heads=4)
    )
    slstm = get_("sLSTMBlockConfig")(
        slstm=get_("sLSTMLayerConfig")(backend="vanilla", num_heads=4, conv1d_kernel_size=4),
        feedforward=get_("FeedForwardConfig")(proj_factor=1.3, act_fn="gelu"),
    )
    model: nn.Module = get_("xLSTMBlockStack")(
        get_("xLSTMBlockStackConfig")(
            mlstm_block=mlstm if kind == "m" else None,
            slstm_block=slstm if kind == "s" else None,
            context_length=TOKENS,
            num_blocks=1,
            embedding_dim=32,
            slstm_at=[0] if kind == "s" else [],
        )
    )
    return model


def _ncps(kind: str, **settings: Any) -> nn.Module:
    return First(get(f"ncps.torch:{kind}")(8, 12, **settings))


class Observed(nn.Module):
    """A forecaster called with a series that was observed everywhere."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, torch.ones_like(x))[0][0]


def _patches() -> nn.Module:
    return Observed(
        get("gluonts.torch.model.patch_tst.module:PatchTSTModel")(
            prediction_length=4,
            context_length=32,
            patch_len=4,
            stride=4,
            padding_patch="end",
            d_model=16,
            nhead=4,
            dim_feedforward=32,
            num_feat_dynamic_real=0,
            dropout=0.0,
            activation="relu",
            norm_first=True,
            num_encoder_layers=2,
            scaling=None,
        )
    )


class Threefold(nn.Module):
    """An attention called with queries, keys and values of one input."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, x, x)[0]


MODELS = (
    Model(
        "mambapy",
        "MambaBlock",
        lambda: get("mambapy.mamba:MambaBlock")(
            get("mambapy.mamba:MambaConfig")(d_model=16, n_layers=1)
        ),
        WIDE,
    ),
    Model("mambapy", "Mamba, two layers, by a loop", lambda: _mamba(pscan=False), WIDE),
    Model("mambapy", "Jamba", _jamba, given(ids())),
    Model("minGRU-pytorch", "minGRU", lambda: get("minGRU_pytorch:minGRU")(16), WIDE),
    Model(
        "mega-pytorch",
        "Mega",
        built(
            "mega_pytorch:Mega",
            num_tokens=WORDS,
            dim=32,
            depth=1,
            ema_heads=4,
            attn_dim_qk=8,
            attn_dim_value=16,
            laplacian_attn_fn=False,
        ),
        given(ids()),
    ),
    Model(
        "mega-pytorch",
        "Mega, Laplacian attention",
        built(
            "mega_pytorch:Mega",
            num_tokens=WORDS,
            dim=32,
            depth=1,
            ema_heads=4,
            attn_dim_qk=8,
            attn_dim_value=16,
            laplacian_attn_fn=True,
        ),
        given(ids()),
    ),
    Model(
        "gated-state-spaces-pytorch",
        "GatedStateSpacesLM",
        built(
            "gated_state_spaces_pytorch:GatedStateSpacesLM",
            num_tokens=WORDS,
            dim=16,
            depth=1,
            dss_kernel_N=8,
            dss_kernel_H=8,
        ),
        given(ids()),
    ),
    Model(
        "gateloop-transformer",
        "Transformer",
        built(
            "gateloop_transformer:Transformer", 16, num_tokens=WORDS, depth=1, dim_head=4, heads=4
        ),
        given(ids()),
    ),
    Model(
        "gateloop-transformer",
        "SimpleGateLoopLayer",
        built("gateloop_transformer:SimpleGateLoopLayer", 16),
        WIDE,
    ),
    Model("xlstm", "mLSTM", lambda: _xlstm("m"), given(numbers(2, TOKENS, 32))),
    Model("xlstm", "sLSTM", lambda: _xlstm("s"), given(numbers(2, TOKENS, 32))),
    Model("ncps", "CfC", lambda: _ncps("CfC"), given(numbers(2, 8, 8))),
    Model(
        "ncps",
        "CfC with a memory",
        lambda: _ncps("CfC", mixed_memory=True),
        given(numbers(2, 8, 8)),
    ),
    Model("ncps", "LTC", lambda: _ncps("LTC"), given(numbers(2, 8, 8))),
    Model(
        "yet-another-retnet",
        "RetNet layers",
        lambda: get("yet_another_retnet.retnet:RetNetDecoder")(
            get("yet_another_retnet.retnet:RetNetDecoderLayer")(
                32, 4, dropout=0.0, dim_feedforward=64
            ),
            num_layers=2,
        ),
        given(numbers(2, TOKENS, 32)),
    ),
    Model(
        "sru",
        "SRU",
        lambda: First(get("sru:SRU")(16, 16, num_layers=2)),
        given(numbers(TOKENS, 2, 16)),
        axes=(0,),
        sample=1,
    ),
    Model(
        "pytorch-tcn",
        "TCN",
        built("pytorch_tcn:TCN", 8, [8, 8], kernel_size=3, dropout=0.0),
        given(numbers(2, 8, TOKENS)),
        axes=(2,),
    ),
    Model(
        "etsformer-pytorch",
        "MHESA, smoothing along time",
        built("etsformer_pytorch:MHESA", dim=32, heads=4),
        given(numbers(2, TOKENS, 32)),
    ),
    Model(
        "itransformer",
        "iTransformer, tokens are variates",
        built(
            "iTransformer:iTransformer",
            num_variates=7,
            lookback_len=16,
            depth=1,
            dim=32,
            pred_length=4,
            dim_head=8,
            heads=4,
            num_residual_streams=1,
        ),
        given(numbers(2, 16, 7)),
        axes=(2,),
    ),
    Model(
        "gluonts",
        "PatchTST",
        _patches,
        given(numbers(2, 32)),
        source="inner.patch_proj",
        ends=("inner.flatten",),
    ),
    Model(
        "pytorch-forecasting",
        "InterpretableMultiHeadAttention",
        lambda: Threefold(
            get(
                "pytorch_forecasting.models.temporal_fusion_transformer.sub_modules"
                ":InterpretableMultiHeadAttention"
            )(4, 32)
        ),
        given(numbers(2, TOKENS, 32)),
    ),
    Model(
        "titans-pytorch",
        "NeuralMemory",
        lambda: First(get("titans_pytorch:NeuralMemory")(dim=16, chunk_size=4)),
        WIDE,
        ends=("inner.reduce_to_chunk_rep",),
    ),
    Model(
        "labml-nn",
        "LSTM of its own",
        lambda: First(get("labml_nn.lstm:LSTM")(16, 16, 1)),
        given(numbers(TOKENS, 2, 16)),
        axes=(0,),
        sample=1,
    ),
    Model(
        "timm",
        "LSTM of two directions over an image",
        built("timm.models.sequencer:LSTM2d", 16, 8, num_layers=1),
        given(numbers(2, 5, 6, 16)),
        axes=(1, 2),
    ),
)
