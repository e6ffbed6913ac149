"""Models of sequences with memories, hierarchies, adapters, or recurrences of their own; series."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.any_code.models.entry import TOKENS, WORDS, Model, built, get, given, ids, numbers
from benchmarks.any_code.models.library import BERT, made

IDS, WIDE, THIN = given(ids()), given(numbers(2, TOKENS, 32)), given(numbers(2, TOKENS, 16))
HEADS = {"heads": 4, "dim_head": 8}


class First(nn.Module):
    """A model of which the first output counts."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any) -> Any:
        return self.inner(*args)[0]


class Both(nn.Module):
    """A model of two sequences, called with one of them as both."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, x.flip(1))


def _adapted() -> nn.Module:
    config = get("peft:LoraConfig")(r=4, target_modules=["query", "value"], init_lora_weights=False)
    model: nn.Module = get("peft:get_peft_model")(made("Bert", **BERT), config)
    return model


def _bolt() -> nn.Module:
    config = get("transformers:T5Config")(
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_decoder_layers=1,
        num_heads=4,
        vocab_size=2,
        pad_token_id=0,
        decoder_start_token_id=0,
        is_gated_act=True,
        dense_act_fn="relu",
    )
    config.chronos_config = {
        "context_length": 64,
        "prediction_length": 8,
        "input_patch_size": 8,
        "input_patch_stride": 8,
        "quantiles": [0.1, 0.5, 0.9],
        "use_reg_token": True,
    }
    model: nn.Module = get("chronos.chronos_bolt:ChronosBoltModelForForecasting")(config)
    return model


MODELS = (
    Model("peft", "BERT with low ranks", _adapted, given(input_ids=ids()), ends=("*pooler",)),
    Model(
        "megabyte-pytorch",
        "MEGABYTE",
        built(
            "MEGABYTE_pytorch:MEGABYTE",
            num_tokens=WORDS,
            dim=(32, 32),
            depth=(1, 1),
            max_seq_len=(6, 4),
            **HEADS,
        ),
        IDS,
    ),
    Model(
        "perceiver-ar-pytorch",
        "PerceiverAR",
        built(
            "perceiver_ar_pytorch:PerceiverAR",
            num_tokens=WORDS,
            dim=32,
            depth=1,
            max_seq_len=TOKENS,
            cross_attn_seq_len=12,
            heads=2,
            dim_head=32,
        ),
        IDS,
    ),
    Model(
        "compressive-transformer-pytorch",
        "CompressiveTransformer",
        built(
            "compressive_transformer_pytorch:CompressiveTransformer",
            num_tokens=WORDS,
            dim=32,
            seq_len=TOKENS,
            depth=2,
            mem_len=TOKENS,
            cmem_len=6,
            heads=4,
        ),
        IDS,
    ),
    Model(
        "recurrent-memory-transformer-pytorch",
        "RecurrentMemoryTransformer",
        lambda: First(
            get("recurrent_memory_transformer_pytorch:RecurrentMemoryTransformer")(
                32, num_tokens=WORDS, depth=1, num_memory_tokens=4, seq_len=TOKENS, **HEADS
            )
        ),
        IDS,
    ),
    Model(
        "flash-pytorch",
        "FLASHTransformer, quadratic and linear",
        built(
            "flash_pytorch:FLASHTransformer",
            dim=32,
            num_tokens=WORDS,
            depth=1,
            group_size=8,
            query_key_dim=16,
            causal=True,
            shift_tokens=False,
        ),
        IDS,
    ),
    Model(
        "rela-transformer",
        "ReLATransformer",
        built(
            "rela_transformer:ReLATransformer",
            num_tokens=WORDS,
            dim=32,
            depth=1,
            max_seq_len=TOKENS,
            **HEADS,
        ),
        IDS,
    ),
    Model(
        "charformer-pytorch",
        "GBST, blocks of characters",
        lambda: First(
            get("charformer_pytorch:GBST")(
                num_tokens=WORDS, dim=16, max_block_size=4, downsample_factor=1
            )
        ),
        IDS,
    ),
    Model(
        "native-sparse-attention-pytorch",
        "SparseAttention",
        built(
            "native_sparse_attention_pytorch:SparseAttention",
            32,
            8,
            4,
            sliding_window_size=4,
            compress_block_size=4,
            compress_block_sliding_stride=2,
            selection_block_size=4,
            num_selected_blocks=2,
            causal=True,
        ),
        WIDE,
    ),
    Model(
        "bidirectional-cross-attention",
        "BidirectionalCrossAttention",
        lambda: Both(
            get("bidirectional_cross_attention:BidirectionalCrossAttention")(dim=32, **HEADS)
        ),
        WIDE,
    ),
    Model("s5-pytorch", "S5", built("s5:S5", 16, 16), THIN),
    Model("s5-pytorch", "S5Block of two directions", built("s5:S5Block", 16, 16, True), THIN),
    Model(
        "lru-pytorch",
        "LRU",
        built("LRU_pytorch:LRU", in_features=16, out_features=16, state_features=8),
        THIN,
    ),
    Model(
        "light-recurrent-unit-pytorch",
        "LightRecurrentUnit",
        lambda: First(get("light_recurrent_unit_pytorch:LightRecurrentUnit")(16)),
        given(numbers(2, 8, 16)),
    ),
    Model(
        "pytorch-tsmixer",
        "TSMixer, times are tokens",
        built("torchtsmixer:TSMixer", 16, 4, 7, num_blocks=1, ff_dim=16),
        given(numbers(2, 16, 7)),
    ),
    Model(
        "chronos-forecasting",
        "Chronos-Bolt",
        _bolt,
        given(numbers(2, 64)),
        source="input_patch_embedding",
    ),
    Model(
        "gluonts",
        "DLinear, times are tokens",
        lambda: First(
            get("gluonts.torch.model.d_linear.module:DLinearModel")(
                prediction_length=4,
                context_length=16,
                hidden_dimension=8,
                kernel_size=5,
                scaling=None,
            )
        ),
        given(numbers(2, 16), torch.ones(2, 16)),
        ends=("*",),
    ),
)
