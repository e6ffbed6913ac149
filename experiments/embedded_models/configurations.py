"""The four models: two or three layers of width 64, about 100,000 parameters each."""

import math

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3NextConfig,
)

from dsf.models import recall

SHARED = {
    "vocab_size": len(recall.VOCABULARY),
    "hidden_size": 64,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "use_cache": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}


STEP = {"time_step_min": 0.02, "time_step_max": 0.5}

PLAIN = {"num_hidden_layers": 2, "conv_kernel": 2, "expand": 3}
"""One layer to join a value with its key and one to find it, and a convolution that only joins two.

With three layers and the library's width of four, a token is written into four values and its
answer is read in several layers: no single edge carries it.
"""

SLOWEST, FASTEST = 0.01, 1.0
"""Bounds of the poles that ``start`` draws, in nats per unit of time."""


def start(configuration: PreTrainedConfig, *, seed: int) -> PreTrainedModel:
    """An untrained model whose recurrent layers remember from the first step on.

    The library draws poles up to 16: with its step sizes a state is gone, or hardly written, before
    the query comes, and training finds a way around the recurrence. Here poles are log-uniform.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(configuration)
    for name, parameter in model.named_parameters():
        if name.endswith("A_log"):
            torch.nn.init.uniform_(parameter, math.log(SLOWEST), math.log(FASTEST))
    return model


def llama() -> PreTrainedConfig:
    """Softmax attention with rotary positions, two heads a layer."""
    return LlamaConfig(
        **SHARED,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=160,
        max_position_embeddings=128,
    )


def mamba() -> PreTrainedConfig:
    """Selective state space, 192 channels of 16 states a layer."""
    return MambaConfig(**SHARED, **PLAIN, state_size=16, **STEP)


def mamba2() -> PreTrainedConfig:
    """State-space duality, six heads of 32 channels and 32 states a layer."""
    return Mamba2Config(
        **SHARED,
        **PLAIN,
        num_heads=6,
        head_dim=32,
        n_groups=1,
        state_size=32,
        chunk_size=32,
        **STEP,
    )


def qwen3_next() -> PreTrainedConfig:
    """One layer of gated softmax attention, then two gated delta nets; no experts.

    In this order the recall falls to the delta nets: softmax attention behind a short convolution
    solves the task alone and leaves every other layer idle.
    """
    return Qwen3NextConfig(
        **SHARED,
        layer_types=["full_attention", "linear_attention", "linear_attention"],
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        intermediate_size=96,
        num_experts=0,
        max_position_embeddings=128,
    )
