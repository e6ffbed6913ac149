"""Settings of the families with gated recurrences, retention or short convolutions."""

from tests.inspection.families.family import ATTENTION, TWO_AND_SOFTMAX, WIDTH, Family

CONVOLUTIONS = {
    "num_hidden_layers": 3,
    "layer_types": ["conv", "full_attention", "conv"],
    "conv_L_cache": 4,
    "conv_bias": True,
}

GATED = {
    "recurrent_gemma": Family(
        "RecurrentGemmaForCausalLM",
        WIDTH
        | ATTENTION
        | {"num_hidden_layers": 3, "lru_width": 24, "conv1d_width": 3, "attention_window_size": 8},
        "RGLRU",
        softmax=1,
    ),
    "rwkv": Family(
        "RwkvForCausalLM",
        WIDTH | {"num_hidden_layers": 3, "attention_hidden_size": 24, "rescale_every": 2},
        "RWKV4",
        recurrent=3,
    ),
    "xlstm": Family(
        "xLSTMForCausalLM",
        WIDTH | {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2, "use_bias": True},
        "MLSTM",
    ),
    "minimax": Family(
        "MiniMaxForCausalLM",
        WIDTH
        | ATTENTION
        | TWO_AND_SOFTMAX
        | {"num_local_experts": 2, "block_size": 8, "head_dim": 6},
        "Retention",
        softmax=1,
        exact=1e-7,
    ),
    "lfm2": Family(
        "Lfm2ForCausalLM",
        WIDTH | ATTENTION | CONVOLUTIONS,
        "ShortConvolution",
        softmax=1,
    ),
    "lfm2_moe": Family(
        "Lfm2MoeForCausalLM",
        WIDTH | ATTENTION | CONVOLUTIONS | {"num_experts": 2, "num_experts_per_tok": 1},
        "ShortConvolution",
        softmax=1,
    ),
    "lfm3": Family(
        "Lfm3ForCausalLM",
        WIDTH | ATTENTION | CONVOLUTIONS | {"head_dim": 8},
        "ShortConvolution",
        softmax=1,
    ),
}
