"""Settings of the families with a gated delta rule or Kimi delta attention."""

from tests.inspection.families.family import ATTENTION, TWO_AND_SOFTMAX, WIDTH, Family

DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 6,
    "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 3,
    "head_dim": 8,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
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

DELTA_RULES = {
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
}
