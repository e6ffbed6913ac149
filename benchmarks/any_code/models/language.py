"""Models of texts and other sequences, by softmax, sums, transforms and sparse attention."""

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

X = "x_transformers"
IDS, WIDE = given(ids()), given(numbers(2, TOKENS, 32))
SMALL = {"num_tokens": WORDS, "dim": 32, "depth": 1, "heads": 4}
HEADS = {"heads": 4, "dim_head": 8}


def _x(layers: str = "Decoder", **settings: Any) -> nn.Module:
    usual = {"dim": 32, "depth": 2, "heads": 4, "attn_dim_head": 8, **settings}
    model: nn.Module = get(f"{X}:TransformerWrapper")(
        num_tokens=WORDS, max_seq_len=64, attn_layers=get(f"{X}:{layers}")(**usual)
    )
    return model


class Cross(nn.Module):
    """A model of two sequences, called with the first alone; the second is fixed."""

    def __init__(self, inner: nn.Module, other: torch.Tensor, **names: Any):
        super().__init__()
        self.inner, self.other, self.names = inner, other, names

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, self.other)


def _x_cross() -> nn.Module:
    layers = get(f"{X}:Decoder")(dim=32, depth=1, heads=4, attn_dim_head=8, cross_attend=True)
    return Crossed(layers)


class Crossed(nn.Module):
    """A decoder that looks at its own input as the other sequence, too."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x, context=x.flip(1))


class Threefold(nn.Module):
    """An attention called with queries, keys and values of one input."""

    def __init__(self, inner: nn.Module, *, named: bool = False):
        super().__init__()
        self.inner, self.named = inner, named

    def forward(self, x: torch.Tensor) -> Any:
        if self.named:
            return self.inner(query=x, key=x, value=x)
        return self.inner(x, x, x)


def _labml(name: str, *args: Any, **settings: Any) -> nn.Module:
    return Threefold(get(f"labml_nn.transformers.{name}")(*args, **settings), named=True)


def _curated(family: str, kind: str) -> nn.Module:
    config = get(f"curated_transformers.models.{family}.config:{kind}Config")
    model: nn.Module = get(f"curated_transformers.models:{kind}Encoder")(
        config(
            embedding_width=32,
            hidden_width=32,
            intermediate_width=64,
            n_hidden_layers=2,
            n_attention_heads=4,
            n_pieces=WORDS,
        )
    )
    return Masked(model)


class Masked(nn.Module):
    """An encoder called with a mask of ones."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        mask = get("curated_transformers.layers:AttentionMask")(torch.ones_like(x).bool())
        return self.inner(x, mask).last_hidden_layer_state


def _litgpt(**settings: Any) -> nn.Module:
    usual = {
        "block_size": 64,
        "vocab_size": WORDS,
        "padded_vocab_size": WORDS,
        "n_layer": 2,
        "n_head": 4,
        "n_embd": 32,
        **settings,
    }
    model: nn.Module = get("litgpt:GPT")(get("litgpt:Config")(**usual))
    return model


def _fnet() -> nn.Module:
    model: nn.Module = get("fnet:FNet")(
        {
            "vocab_size": WORDS,
            "embedding_size": 32,
            "hidden_size": 32,
            "intermediate_size": 64,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "dropout_rate": 0.0,
            "num_hidden_layers": 1,
            "fourier": "fft",
        }
    )
    return model


BOOK = {
    "vocab_size": WORDS,
    "context_length": 64,
    "emb_dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "drop_rate": 0.0,
    "qkv_bias": False,
}

MODELS = (
    Model("x-transformers", "decoder", _x, IDS),
    Model("x-transformers", "encoder, rotary", lambda: _x("Encoder", rotary_pos_emb=True), IDS),
    Model(
        "x-transformers",
        "ALiBi, one head of keys and values",
        lambda: _x(alibi_pos_bias=True, attn_one_kv_head=True),
        IDS,
    ),
    Model("x-transformers", "grouped heads", lambda: _x(attn_kv_heads=2), IDS),
    Model("x-transformers", "shifted tokens", lambda: _x(shift_tokens=1), IDS),
    Model(
        "x-transformers",
        "gated values, sandwich norm",
        lambda: _x(attn_gate_values=True, sandwich_norm=True),
        IDS,
    ),
    Model(
        "x-transformers",
        "talking heads",
        lambda: _x(attn_qk_norm=True, attn_pre_talking_heads=True),
        IDS,
    ),
    Model("x-transformers", "soft cap of the scores", lambda: _x(attn_softclamp_logits=True), IDS),
    Model("x-transformers", "relative bias of T5", lambda: _x(rel_pos_bias=True), IDS),
    Model("x-transformers", "fused attention", lambda: _x(attn_flash=True), IDS),
    Model("x-transformers", "memory of keys and values", lambda: _x(attn_num_mem_kv=3), IDS),
    Model("x-transformers", "macaron", lambda: _x(macaron=True), IDS),
    Model("x-transformers", "decoder with a second sequence", _x_cross, WIDE),
    Model(
        "linformer",
        "LinformerSelfAttention",
        built("linformer:LinformerSelfAttention", dim=32, seq_len=TOKENS, heads=4, k=8),
        WIDE,
    ),
    Model(
        "linear-attention-transformer",
        "local and linear heads, causal",
        built(
            "linear_attention_transformer:LinearAttentionTransformerLM",
            max_seq_len=64,
            causal=True,
            n_local_attn_heads=2,
            local_attn_window_size=32,
            **SMALL,
        ),
        given(ids(32)),
    ),
    Model(
        "linear-attention-transformer",
        "linear heads, not causal",
        built("linear_attention_transformer:LinearAttentionTransformerLM", max_seq_len=64, **SMALL),
        IDS,
    ),
    Model(
        "performer-pytorch",
        "Performer, not causal",
        built("performer_pytorch:Performer", dim=32, depth=1, causal=False, **HEADS),
        WIDE,
    ),
    Model(
        "conformer",
        "Conformer",
        built("conformer:Conformer", dim=32, depth=1, conv_kernel_size=7, **HEADS),
        WIDE,
    ),
    Model("llms-from-scratch", "GPT", lambda: get("llms_from_scratch.ch04:GPTModel")(BOOK), IDS),
    Model(
        "local-attention",
        "LocalTransformer",
        built(
            "local_attention:LocalTransformer", max_seq_len=64, local_attn_window_size=8, **SMALL
        ),
        IDS,
    ),
    Model(
        "nystrom-attention",
        "Nystromformer",
        built("nystrom_attention:Nystromformer", dim=32, depth=1, num_landmarks=8, **HEADS),
        WIDE,
    ),
    Model(
        "reformer-pytorch",
        "Reformer, full attention",
        built(
            "reformer_pytorch:Reformer", dim=32, depth=1, heads=4, bucket_size=4, use_full_attn=True
        ),
        WIDE,
    ),
    Model(
        "reformer-pytorch",
        "LSH attention",
        built("reformer_pytorch:LSHSelfAttention", dim=32, heads=4, bucket_size=4, n_hashes=2),
        WIDE,
    ),
    Model(
        "routing-transformer",
        "RoutingTransformer",
        built(
            "routing_transformer:RoutingTransformer",
            dim=32,
            depth=1,
            max_seq_len=32,
            heads=4,
            window_size=8,
        ),
        given(numbers(2, 32, 32)),
    ),
    Model(
        "sinkhorn-transformer",
        "SinkhornTransformer",
        built(
            "sinkhorn_transformer:SinkhornTransformer",
            dim=32,
            depth=1,
            heads=4,
            bucket_size=8,
            max_seq_len=32,
        ),
        given(numbers(2, 32, 32)),
    ),
    Model(
        "hourglass-transformer-pytorch",
        "HourglassTransformerLM",
        built(
            "hourglass_transformer_pytorch:HourglassTransformerLM",
            num_tokens=WORDS,
            dim=32,
            max_seq_len=32,
            depth=(1, 1, 1),
            shorten_factor=2,
            **HEADS,
        ),
        given(ids(32)),
    ),
    Model(
        "h-transformer-1d",
        "HTransformer1D",
        built("h_transformer_1d:HTransformer1D", max_seq_len=32, block_size=8, **SMALL),
        given(ids(32)),
    ),
    Model(
        "memory-efficient-attention-pytorch",
        "Attention",
        built("memory_efficient_attention_pytorch:Attention", dim=32, causal=True, **HEADS),
        WIDE,
    ),
    Model(
        "infini-transformer-pytorch",
        "InfiniTransformer",
        built("infini_transformer_pytorch:InfiniTransformer", **SMALL),
        IDS,
    ),
    Model(
        "simple-hierarchical-transformer",
        "HierarchicalTransformer",
        built(
            "simple_hierarchical_transformer:HierarchicalTransformer",
            seq_len=32,
            hierarchies=(1, 2),
            window_sizes=(32, None),
            **SMALL,
        ),
        given(ids(32)),
    ),
    Model(
        "block-recurrent-transformer-pytorch",
        "BlockRecurrentTransformer",
        built(
            "block_recurrent_transformer_pytorch:BlockRecurrentTransformer",
            num_tokens=WORDS,
            dim=32,
            depth=2,
            max_seq_len=32,
            block_width=8,
            num_state_vectors=8,
            **HEADS,
        ),
        given(ids(32)),
    ),
    Model(
        "feedback-transformer-pytorch",
        "FeedbackTransformer",
        built("feedback_transformer_pytorch:FeedbackTransformer", mem_len=16, **SMALL),
        IDS,
    ),
    Model(
        "colt5-attention",
        "ConditionalRoutedAttention",
        built(
            "colt5_attention:ConditionalRoutedAttention",
            32,
            num_heavy_tokens_q=8,
            num_heavy_tokens_kv=8,
            light_dim_head=8,
            light_heads=4,
            light_window_size=8,
            heavy_dim_head=8,
            heavy_heads=4,
        ),
        WIDE,
    ),
    Model(
        "mixture-of-attention",
        "MixtureOfAttention",
        built(
            "mixture_of_attention:MixtureOfAttention",
            32,
            num_routed_queries=8,
            num_routed_key_values=8,
            use_triton=False,
            **HEADS,
        ),
        WIDE,
    ),
    Model(
        "taylor-series-linear-attention",
        "not causal",
        built("taylor_series_linear_attention:TaylorSeriesLinearAttn", 32, **HEADS),
        WIDE,
    ),
    Model(
        "agent-attention-pytorch",
        "AgentSelfAttention",
        built("agent_attention_pytorch:AgentSelfAttention", 32, num_agent_tokens=6, **HEADS),
        WIDE,
    ),
    Model("aft-pytorch", "AFTFull", built("aft_pytorch:AFTFull", TOKENS, 32), WIDE),
    Model("aft-pytorch", "AFTSimple", built("aft_pytorch:AFTSimple", TOKENS, 32), WIDE),
    Model("fnet-pytorch", "FNet", _fnet, given(ids(), torch.zeros_like(ids()))),
    Model(
        "g-mlp-pytorch",
        "gMLP",
        built("g_mlp_pytorch:gMLP", num_tokens=WORDS, dim=32, depth=1, seq_len=TOKENS),
        IDS,
    ),
    Model(
        "g-mlp-pytorch",
        "causal gMLP with a small attention",
        built(
            "g_mlp_pytorch:gMLP",
            num_tokens=WORDS,
            dim=32,
            depth=1,
            seq_len=TOKENS,
            causal=True,
            attn_dim=16,
        ),
        IDS,
    ),
    Model(
        "token-shift-gpt",
        "TokenShiftGPT",
        built("token_shift_gpt:TokenShiftGPT", num_tokens=WORDS, dim=32, max_seq_len=32, depth=1),
        IDS,
    ),
    Model(
        "soft-moe-pytorch",
        "SoftMoE",
        built("soft_moe_pytorch:SoftMoE", 32, seq_len=TOKENS, num_experts=3),
        WIDE,
    ),
    Model("curated-transformers", "BERT", lambda: _curated("bert", "BERT"), IDS),
    Model("curated-transformers", "ALBERT", lambda: _curated("albert", "ALBERT"), IDS),
    Model("litgpt", "Pythia", _litgpt, IDS),
    Model(
        "litgpt",
        "grouped heads, RMS norms, SwiGLU",
        lambda: _litgpt(
            n_query_groups=2,
            norm_class_name="RMSNorm",
            mlp_class_name="LLaMAMLP",
            intermediate_size=64,
            bias=False,
        ),
        IDS,
    ),
    Model(
        "litgpt",
        "soft caps, sliding window",
        lambda: _litgpt(
            attention_logit_softcapping=5.0, final_logit_softcapping=9.0, sliding_window_size=8
        ),
        IDS,
    ),
    Model(
        "labml-nn",
        "MultiHeadAttention",
        lambda: _labml("mha:MultiHeadAttention", 4, 32),
        given(numbers(TOKENS, 2, 32)),
        axes=(0,),
        sample=1,
    ),
    Model(
        "labml-nn",
        "relative positions of Transformer-XL",
        lambda: _labml("xl.relative_mha:RelativeMultiHeadAttention", 4, 32),
        given(numbers(TOKENS, 2, 32)),
        axes=(0,),
        sample=1,
    ),
    Model(
        "labml-nn",
        "rotary positions of values, too",
        lambda: _labml("rope.value_pe:RotaryValuePEMultiHeadAttention", 4, 32),
        given(numbers(TOKENS, 2, 32)),
        axes=(0,),
        sample=1,
    ),
    Model(
        "labml-nn",
        "FNetMix",
        lambda: _labml("fnet:FNetMix"),
        given(numbers(TOKENS, 2, 32)),
        axes=(0,),
        sample=1,
    ),
    Model(
        "fair-esm",
        "ESM-2",
        built("esm.model.esm2:ESM2", num_layers=2, embed_dim=32, attention_heads=4),
        given(ids(words=20)),
    ),
    Model(
        "openai-whisper",
        "decoder, with its own and the other sequence",
        lambda: Cross(get("whisper.model:TextDecoder")(WORDS, 32, 32, 4, 1), numbers(2, 9, 32)),
        IDS,
    ),
    Model(
        "openai-whisper",
        "encoder",
        built("whisper.model:AudioEncoder", 8, TOKENS, 32, 4, 1),
        given(numbers(2, 8, 2 * TOKENS)),
        source="conv2",
        axes=(2,),
    ),
    Model(
        "open-clip-torch",
        "text transformer",
        built(
            "open_clip.transformer:TextTransformer",
            context_length=TOKENS,
            vocab_size=WORDS,
            width=32,
            heads=4,
            layers=2,
            output_dim=16,
        ),
        IDS,
        ends=("ln_final",),
    ),
    Model(
        "x-clip",
        "TextTransformer",
        built(
            "x_clip.x_clip:TextTransformer",
            32,
            num_tokens=WORDS,
            max_seq_len=TOKENS,
            depth=1,
            **HEADS,
        ),
        IDS,
    ),
    Model(
        "coca-pytorch",
        "ParallelTransformerBlock",
        built("coca_pytorch.coca_pytorch:ParallelTransformerBlock", 32, dim_head=8, heads=4),
        WIDE,
    ),
    Model(
        "coca-pytorch",
        "CrossAttention",
        lambda: Crossed(get("coca_pytorch.coca_pytorch:CrossAttention")(32, dim_head=8, heads=4)),
        WIDE,
    ),
)
