"""The four models: three to six layers of width 160, about a million parameters each."""

from transformers import (
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    PreTrainedConfig,
    Qwen3NextConfig,
)

SHARED = {
    "vocab_size": 1024,
    "hidden_size": 160,
    "tie_word_embeddings": True,
    "initializer_range": 0.05,
    "use_cache": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}

STEP = {"time_step_min": 0.01, "time_step_max": 0.5}


def llama() -> PreTrainedConfig:
    """Softmax attention with rotary positions, five heads a layer."""
    return LlamaConfig(
        **SHARED,
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=5,
        intermediate_size=384,
        max_position_embeddings=512,
    )


def mamba() -> PreTrainedConfig:
    """Selective state space, 320 channels of 8 states a layer."""
    return MambaConfig(**SHARED, num_hidden_layers=5, state_size=8, **STEP)


def mamba2() -> PreTrainedConfig:
    """State-space duality, five heads of 64 channels and 32 states a layer."""
    return Mamba2Config(
        **SHARED,
        num_hidden_layers=5,
        num_heads=5,
        head_dim=64,
        n_groups=1,
        state_size=32,
        chunk_size=32,
        **STEP,
    )


def qwen3_next() -> PreTrainedConfig:
    """Two gated delta nets, one layer of gated softmax attention; no experts."""
    return Qwen3NextConfig(
        **SHARED,
        layer_types=["linear_attention", "linear_attention", "full_attention"],
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        linear_num_key_heads=5,
        linear_num_value_heads=5,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        intermediate_size=320,
        num_experts=0,
        max_position_embeddings=512,
    )
