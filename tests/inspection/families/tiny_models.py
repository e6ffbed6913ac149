"""Tiny models of the library's families, with parameters that make their layers mix.

Freshly initialised, most of these families look at little more than the current token, and a
test on them would prove little. Sizes differ from one another wherever they can, so that two axes
in the wrong order are an error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

VOCABULARY = 40
PADDING = 0


@dataclass(frozen=True)
class Family:
    """How to build the smallest model of a family that has everything its layers can have.

    Attributes:
        model: the model's class; its configuration is ``model.config_class``.
        settings: of the configuration.
        mixer: what the family's recurrent layers become.
        recurrent, softmax: how many layers of either kind the model has.
        redrawn: whether the parameters are drawn anew; some families mix as initialised.
        share: the least share of a recurrent layer's map that is off the diagonal.
        exact: the largest error in float64; more where the library computes a buffer in float32.
    """

    model: str
    settings: Mapping[str, Any]
    mixer: str
    recurrent: int = 2
    softmax: int = 0
    redrawn: bool = True
    share: float = 0.1
    exact: float = 1e-12


WIDTH = {"vocab_size": VOCABULARY, "hidden_size": 16, "pad_token_id": PADDING}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
# No kernels, and no scan that compiles itself at the first call.
PLAIN_SCAN = {"use_mamba_kernels": False, "use_associative_scan": False}
MAMBA2_IN_HYBRIDS = {
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 5,
    "mamba_d_conv": 3,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 3,
    "head_dim": 8,
}
TWO_AND_SOFTMAX = {
    "num_hidden_layers": 3,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 12}
LATENT = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 24,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "n_group": 1,
    "topk_group": 1,
}
KIMI = {"linear_head_dim": 6, "linear_num_heads": 4, "linear_conv_kernel_dim": 3}
CONVOLUTIONS = {
    "num_hidden_layers": 3,
    "layer_types": ["conv", "full_attention", "conv"],
    "conv_L_cache": 4,
    "conv_bias": True,
}

FAMILIES = {
    "mamba": Family(
        "MambaForCausalLM",
        WIDTH
        | PLAIN_SCAN
        | {"num_hidden_layers": 2, "state_size": 5, "conv_kernel": 3, "time_step_rank": 3},
        "SelectiveStateSpace",
    ),
    "falcon_mamba": Family(
        "FalconMambaForCausalLM",
        WIDTH
        | PLAIN_SCAN
        | {"num_hidden_layers": 2, "state_size": 5, "conv_kernel": 3, "time_step_rank": 3},
        "SelectiveStateSpace",
    ),
    "jamba": Family(
        "JambaForCausalLM",
        WIDTH
        | ATTENTION
        | PLAIN_SCAN
        | {
            "num_hidden_layers": 3,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "num_experts": 2,
            "mamba_d_state": 5,
            "mamba_d_conv": 3,
            "mamba_dt_rank": 3,
        },
        "SelectiveStateSpace",
        softmax=1,
    ),
    "zamba": Family(
        "ZambaForCausalLM",
        WIDTH
        | ATTENTION
        | PLAIN_SCAN
        | {
            "num_key_value_heads": 4,
            "num_hidden_layers": 4,
            "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
            "attention_hidden_size": 32,
            "attention_head_dim": 8,
            "n_mamba_heads": 2,
            "mamba_d_state": 5,
            "mamba_d_conv": 3,
            "mamba_dt_rank": 3,
        },
        "SelectiveStateSpace",
        recurrent=4,
        softmax=2,
    ),
    "mamba2": Family(
        "Mamba2ForCausalLM",
        WIDTH
        | {
            "num_hidden_layers": 2,
            "num_heads": 4,
            "head_dim": 8,
            "n_groups": 2,
            "state_size": 5,
            "conv_kernel": 3,
            "chunk_size": 8,
            "time_step_limit": (0.02, 0.6),
        },
        "StateSpaceDuality",
    ),
    "bamba": Family(
        "BambaForCausalLM",
        WIDTH | ATTENTION | MAMBA2_IN_HYBRIDS | {"num_hidden_layers": 3, "attn_layer_indices": [1]},
        "StateSpaceDuality",
        softmax=1,
    ),
    "falcon_h1": Family(
        "FalconH1ForCausalLM",
        WIDTH
        | ATTENTION
        | MAMBA2_IN_HYBRIDS
        | {
            "num_hidden_layers": 2,
            "mamba_d_ssm": 32,
            "mamba_rms_norm": True,
            "ssm_in_multiplier": 1.3,
            "ssm_multipliers": [0.9, 1.2, 0.8, 1.1, 0.7],
        },
        "StateSpaceDuality",
        softmax=2,
    ),
    "granitemoehybrid": Family(
        "GraniteMoeHybridForCausalLM",
        WIDTH
        | ATTENTION
        | MAMBA2_IN_HYBRIDS
        | {
            "num_hidden_layers": 3,
            "layer_types": ["mamba", "attention", "mamba"],
            "num_local_experts": 0,
            "shared_intermediate_size": 24,
        },
        "StateSpaceDuality",
        softmax=1,
    ),
    "nemotron_h": Family(
        "NemotronHForCausalLM",
        WIDTH
        | ATTENTION
        | {
            "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
            "head_dim": 8,
            "mamba_num_heads": 4,
            "mamba_head_dim": 8,
            "n_groups": 2,
            "ssm_state_size": 5,
            "conv_kernel": 3,
            "chunk_size": 8,
            "time_step_min": 0.1,
            "use_mamba_kernels": False,
        },
        "StateSpaceDuality",
        softmax=1,
    ),
    "zamba2": Family(
        "Zamba2ForCausalLM",
        WIDTH
        | ATTENTION
        | {
            "num_key_value_heads": 4,
            "num_hidden_layers": 3,
            "layers_block_type": ["mamba", "hybrid", "mamba"],
            "n_mamba_heads": 4,
            "mamba_headdim": 8,
            "mamba_ngroups": 2,
            "mamba_d_state": 5,
            "mamba_d_conv": 3,
            "chunk_size": 8,
            "time_step_min": 0.1,
            "adapter_rank": 4,
            "use_mamba_kernels": False,
        },
        "StateSpaceDuality",
        recurrent=3,
        softmax=1,
    ),
    "qwen3_next": Family(
        "Qwen3NextForCausalLM",
        WIDTH | ATTENTION | DELTA | TWO_AND_SOFTMAX | {"mlp_only_layers": [0, 1, 2]},
        "GatedDeltaNet",
        softmax=1,
    ),
    "qwen3_5": Family(
        "Qwen3_5ForCausalLM",
        WIDTH | ATTENTION | DELTA | TWO_AND_SOFTMAX,
        "GatedDeltaNet",
        softmax=1,
    ),
    "qwen3_5_moe": Family(
        "Qwen3_5MoeForCausalLM",
        WIDTH
        | ATTENTION
        | DELTA
        | TWO_AND_SOFTMAX
        | {
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 12,
            "shared_expert_intermediate_size": 12,
        },
        "GatedDeltaNet",
        softmax=1,
    ),
    "olmo_hybrid": Family(
        "OlmoHybridForCausalLM",
        WIDTH | ATTENTION | DELTA | TWO_AND_SOFTMAX | {"linear_allow_neg_eigval": True},
        "GatedDeltaNet",
        softmax=1,
        redrawn=False,
    ),
    "qwen4_exp": Family(
        "Qwen4ExpForCausalLM",
        WIDTH
        | ATTENTION
        | DELTA
        | TWO_AND_SOFTMAX
        | EXPERTS
        | {
            "num_experts": 2,
            "shared_expert_intermediate_size": 12,
            "output_gate_type": "sigmoid",
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 8,
            "indexer_budget": 8,
            "indexer_compress_ratio": 4,
            "ngram_vocab_size_base": 50,
            "hc_lowrank": 4,
            "hc_count": 2,
        },
        "GatedDeltaNet",
        softmax=1,
    ),
    "lara_mini": Family(
        "LaraMiniForCausalLM",
        WIDTH
        | ATTENTION
        | DELTA
        | TWO_AND_SOFTMAX
        | EXPERTS
        | {"num_experts": 2, "shared_expert_intermediate_size": 12},
        "GatedDeltaNet",
        softmax=1,
    ),
    "kimi_linear": Family(
        "KimiLinearForCausalLM",
        WIDTH | LATENT | TWO_AND_SOFTMAX | KIMI | EXPERTS,
        "KimiDeltaAttention",
        softmax=1,
        redrawn=False,
    ),
    "bailing_hybrid": Family(
        "BailingHybridForCausalLM",
        WIDTH | LATENT | TWO_AND_SOFTMAX | EXPERTS | {"head_dim": 6, "short_conv_kernel_size": 3},
        "KimiDeltaAttention",
        softmax=1,
        redrawn=False,
    ),
    "glm5_next": Family(
        "Glm5NextTextModel",
        WIDTH
        | LATENT
        | TWO_AND_SOFTMAX
        | KIMI
        | EXPERTS
        | {
            "qk_rope_head_dim": 0,
            "n_routed_experts": 2,
            "hc_mult": 2,
            "index_topk": 8,
            "index_head_dim": 8,
            "index_n_heads": 2,
            "index_kpool": 4,
        },
        "KimiDeltaAttention",
        softmax=1,
        redrawn=False,
    ),
    "recurrent_gemma": Family(
        "RecurrentGemmaForCausalLM",
        WIDTH
        | ATTENTION
        | {"num_hidden_layers": 3, "lru_width": 24, "conv1d_width": 3, "attention_window_size": 8},
        "RGLRU",
        softmax=1,
        redrawn=False,
    ),
    "rwkv": Family(
        "RwkvForCausalLM",
        WIDTH | {"num_hidden_layers": 3, "attention_hidden_size": 24, "rescale_every": 2},
        "RWKV4",
        recurrent=3,
        redrawn=False,
    ),
    "xlstm": Family(
        "xLSTMForCausalLM",
        WIDTH | {"hidden_size": 128, "num_hidden_layers": 2, "num_heads": 2, "use_bias": True},
        "MLSTM",
        redrawn=False,
    ),
    "minimax": Family(
        "MiniMaxForCausalLM",
        WIDTH
        | ATTENTION
        | TWO_AND_SOFTMAX
        | {"num_local_experts": 2, "block_size": 8, "head_dim": 6},
        "Retention",
        softmax=1,
        redrawn=False,
        exact=1e-7,
    ),
    "lfm2": Family(
        "Lfm2ForCausalLM",
        WIDTH | ATTENTION | CONVOLUTIONS,
        "ShortConvolution",
        softmax=1,
        redrawn=False,
    ),
    "lfm2_moe": Family(
        "Lfm2MoeForCausalLM",
        WIDTH | ATTENTION | CONVOLUTIONS | {"num_experts": 2, "num_experts_per_tok": 1},
        "ShortConvolution",
        softmax=1,
        redrawn=False,
    ),
    "lfm3": Family(
        "Lfm3ForCausalLM",
        WIDTH | ATTENTION | CONVOLUTIONS | {"head_dim": 8},
        "ShortConvolution",
        softmax=1,
        redrawn=False,
    ),
}
# The families that every supported release of the library has.
OLD = (
    "mamba",
    "falcon_mamba",
    "jamba",
    "zamba",
    "mamba2",
    "bamba",
    "falcon_h1",
    "granitemoehybrid",
    "nemotron_h",
    "zamba2",
    "qwen3_next",
    "qwen3_5",
    "qwen3_5_moe",
    "olmo_hybrid",
)


def build(name: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """A model of the family ``name`` in float32, ready to be inspected."""
    family = FAMILIES[name]
    cls = getattr(transformers, family.model, None)
    if cls is None:
        pytest.skip(f"transformers {transformers.__version__} has no {family.model}")
    torch.manual_seed(seed)
    config = cls.config_class(**{**family.settings, **changes})
    # The default way to run experts knows no float64.
    config._experts_implementation = "eager"
    model = cls(config).eval()
    if family.redrawn:
        redraw(model, torch.Generator().manual_seed(seed))
    return model


@torch.no_grad()
def redraw(model: nn.Module, rng: torch.Generator) -> None:
    """Draw every parameter so that states live for some tokens and every part takes part."""
    for name, part in model.named_parameters():
        part.copy_(_drawn(name, part, rng))


def _drawn(name: str, part: Tensor, rng: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(part.shape, generator=rng)

    normal = torch.randn(part.shape, generator=rng)
    last = name.rsplit(".", maxsplit=1)[-1]
    if last == "A_log":
        return uniform(math.log(0.05), math.log(2.0))
    if last in ("dt_bias", "dt_proj_bias") or name.endswith("dt_proj.bias"):
        return uniform(math.log(0.02), math.log(0.5)).exp().expm1().log()
    if last == "D":
        return 0.3 * normal
    if part.ndim > 1:
        return normal / math.sqrt(part[0].numel() if part.ndim != 3 else part.shape[-1])
    if "norm" in name and last == "weight":
        return 1 + 0.2 * normal
    return 0.3 * normal


def inputs(length: int = 21, *, padding: str = "none", seed: int = 1) -> dict[str, Tensor]:
    """Two samples; with padding the first has five tokens fewer, the second two."""
    rng = torch.Generator().manual_seed(seed)
    ids = torch.randint(PADDING + 1, VOCABULARY, (2, length), generator=rng)
    mask = torch.ones_like(ids)
    for sample, missing in enumerate((5, 2)):
        if padding == "left":
            mask[sample, :missing] = 0
        if padding == "right":
            mask[sample, length - missing :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def off_diagonal_share(map: Tensor) -> float:
    """The part of a map's Frobenius norm that is not on its diagonal."""
    return (map.tril(-1).norm() / map.norm()).item()
