"""Models of transformers: encoders and decoders of text, series, sound, images and videos."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.any_code.models.entry import TOKENS, WORDS, Model, get, given, ids, numbers

IDS = given(ids())
LONG = given(ids(64))
SENTENCES = given(input_ids=ids(), decoder_input_ids=ids(9))
SIZES = {"vocab_size": WORDS, "max_position_embeddings": 64}
LAYERS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
BERT = SIZES | LAYERS
TWO_STACKS = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
BART = SIZES | TWO_STACKS
T5 = {
    "vocab_size": WORDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 4,
}


def made(name: str, head: str = "Model", **settings: Any) -> nn.Module:
    """A model of transformers with its configuration."""
    config = get(f"transformers:{name}Config")(**settings)
    model: nn.Module = get(f"transformers:{name}{head}")(config)
    return model


def _text(what: str, name: str, head: str = "Model", inputs: Any = IDS, **settings: Any) -> Model:
    """A model called with the ids of its tokens."""
    where = {k: settings.pop(k) for k in ("source", "argument", "axes", "ends") if k in settings}
    return Model("transformers", what, lambda: made(name, head, **settings), inputs, **where)


def _seen(what: str, name: str, source: str, head: str = "Model", **settings: Any) -> Model:
    """A model called with images, sound or series, whose tokens a module of its own makes."""
    where = {k: settings.pop(k) for k in ("axes", "sample", "ends") if k in settings}
    inputs = settings.pop("inputs")
    return Model(
        "transformers", what, lambda: made(name, head, **settings), inputs, source=source, **where
    )


SERIES = {
    "prediction_length": 4,
    "context_length": 16,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_time_features": 1,
    "lags_sequence": [1, 2],
}
PAST = given(
    past_values=numbers(2, 18),
    past_time_features=numbers(2, 18, 1),
    past_observed_mask=torch.ones(2, 18),
    future_values=numbers(2, 4),
    future_time_features=numbers(2, 4, 1),
)


class Forecast(nn.Module):
    """A forecaster called with the values of a series by their name."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(past_values=x)


def _perceiver() -> nn.Module:
    return made(
        "Perceiver",
        "ForMaskedLM",
        num_latents=6,
        d_latents=32,
        d_model=32,
        num_self_attends_per_block=1,
        num_self_attention_heads=4,
        num_cross_attention_heads=4,
        qk_channels=32,
        v_channels=32,
        vocab_size=WORDS,
        max_position_embeddings=TOKENS,
    )


MODELS = (
    _text(
        "Funnel",
        "Funnel",
        block_sizes=[1, 1],
        d_model=32,
        n_head=4,
        d_head=8,
        d_inner=64,
        vocab_size=WORDS,
    ),
    _text(
        "Canine",
        "Canine",
        inputs=given(ids(32)),
        **BERT,
        num_hash_functions=2,
        num_hash_buckets=64,
        local_transformer_stride=8,
        ends=("pooler",),
    ),
    _text("T5", "T5", inputs=SENTENCES, **T5),
    _text(
        "Switch Transformer",
        "SwitchTransformers",
        inputs=SENTENCES,
        **T5,
        num_experts=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
    _text(
        "LongT5, local and global tokens",
        "LongT5",
        inputs=SENTENCES,
        **T5,
        encoder_attention_type="transient-global",
        local_radius=3,
        global_block_size=4,
    ),
    _text("BART", "Bart", inputs=SENTENCES, **BART),
    _text(
        "Pegasus-X",
        "PegasusX",
        inputs=SENTENCES,
        **BART,
        block_size=8,
        num_global_tokens=3,
    ),
    _text(
        "ProphetNet",
        "ProphetNet",
        inputs=SENTENCES,
        vocab_size=WORDS,
        hidden_size=32,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
    ),
    _text(
        "LED",
        "LED",
        inputs=SENTENCES,
        **{k: v for k, v in BART.items() if k != "max_position_embeddings"},
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
        attention_window=8,
    ),
    _text("Longformer", "Longformer", **BERT, attention_window=8, ends=("pooler",)),
    _text(
        "BigBird, sparse blocks",
        "BigBird",
        inputs=LONG,
        **BERT,
        block_size=4,
        num_random_blocks=1,
        ends=("pooler",),
    ),
    _text(
        "Reformer, local and hashed",
        "Reformer",
        inputs=given(ids(32)),
        attention_head_size=8,
        num_attention_heads=4,
        attn_layers=["local", "lsh"],
        axial_pos_embds=False,
        hidden_size=32,
        feed_forward_size=64,
        local_attn_chunk_length=8,
        lsh_attn_chunk_length=8,
        num_buckets=4,
        max_position_embeddings=64,
        vocab_size=WORDS,
    ),
    _text("FNet", "FNet", **BERT, ends=("pooler",)),
    _text("Nystromformer", "Nystromformer", **BERT, num_landmarks=4, segment_means_seq_len=TOKENS),
    _text("YOSO", "Yoso", **BERT),
    _text("XLNet", "XLNet", vocab_size=WORDS, d_model=32, n_layer=2, n_head=4, d_inner=64),
    _text("DeBERTa", "Deberta", **BERT, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    _text(
        "DeBERTa-v2, with a convolution",
        "DebertaV2",
        **BERT,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        position_buckets=8,
        share_att_key=True,
        conv_kernel_size=3,
        conv_act="gelu",
    ),
    _text("ConvBERT", "ConvBert", **BERT, embedding_size=32, head_ratio=2, conv_kernel_size=3),
    _text("ESM", "Esm", **BERT, pad_token_id=1, position_embedding_type="rotary", ends=("pooler",)),
    Model(
        "transformers",
        "Perceiver",
        _perceiver,
        IDS,
        ends=(),
    ),
    Model(
        "transformers",
        "Informer",
        lambda: made("Informer", **SERIES),
        PAST,
        source="encoder.value_embedding",
    ),
    Model(
        "transformers",
        "Autoformer",
        lambda: made("Autoformer", **SERIES, label_length=4, moving_average=3),
        PAST,
        source="encoder.value_embedding",
    ),
    Model(
        "transformers",
        "PatchTST",
        lambda: made(
            "PatchTST",
            num_input_channels=2,
            context_length=32,
            patch_length=4,
            patch_stride=4,
            num_hidden_layers=1,
            d_model=16,
            num_attention_heads=4,
            ffn_dim=32,
        ),
        given(numbers(2, 32, 2)),
        source="patchifier",
        axes=(2,),
    ),
    Model(
        "transformers",
        "PatchTSMixer",
        lambda: made(
            "PatchTSMixer",
            context_length=32,
            patch_length=4,
            patch_stride=4,
            num_input_channels=3,
            d_model=8,
            num_layers=2,
            mode="mix_channel",
        ),
        given(numbers(2, 32, 3)),
        source="patching",
        axes=(1, 2),
    ),
    Model(
        "transformers",
        "TimesFM",
        lambda: made(
            "TimesFm",
            patch_length=4,
            context_length=32,
            horizon_length=8,
            num_hidden_layers=2,
            hidden_size=32,
            intermediate_size=64,
            head_dim=8,
            num_attention_heads=4,
        ),
        given(numbers(2, 32), torch.zeros(2, 32), torch.zeros(2, 1, dtype=torch.long)),
        source="input_ff_layer",
    ),
    _text(
        "ModernBERT, windows in turn",
        "ModernBert",
        **BERT,
        global_attn_every_n_layers=2,
        local_attention=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        cls_token_id=1,
        sep_token_id=1,
    ),
    _text("DiffLlama, differences of two maps", "DiffLlama", **BERT),
    _text(
        "DeepSeek-V3, latent keys and experts",
        "DeepseekV3",
        **BERT,
        moe_intermediate_size=16,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        num_key_value_heads=4,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    ),
    _text(
        "MiniMax, lightning attention",
        "MiniMax",
        **BERT,
        num_key_value_heads=2,
        head_dim=8,
        block_size=8,
        num_local_experts=2,
        layer_types=["linear_attention", "full_attention"],
    ),
    _text(
        "Jamba",
        "Jamba",
        **BERT,
        num_key_value_heads=2,
        attn_layer_period=2,
        attn_layer_offset=1,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=2,
        mamba_d_state=4,
    ),
    Model(
        "transformers",
        "Decision Transformer",
        lambda: made(
            "DecisionTransformer",
            state_dim=6,
            act_dim=3,
            hidden_size=32,
            max_ep_len=32,
            n_layer=2,
            n_head=4,
        ),
        given(
            states=numbers(2, 8, 6),
            actions=numbers(2, 8, 3),
            rewards=numbers(2, 8, 1),
            returns_to_go=numbers(2, 8, 1),
            timesteps=torch.arange(8).repeat(2, 1),
            attention_mask=torch.ones(2, 8, dtype=torch.long),
        ),
    ),
    Model(
        "transformers",
        "time series transformer",
        lambda: made("TimeSeriesTransformer", **SERIES, scaling=None),
        PAST,
        source="encoder.value_embedding",
    ),
)
