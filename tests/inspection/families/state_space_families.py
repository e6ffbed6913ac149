"""Settings of the families with a selective scan, Mamba's or Mamba-2's."""

from tests.inspection.families.family import ATTENTION, WIDTH, Family

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

STATE_SPACES = {
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
            "time_step_limit": (0.1, 0.4),
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
            "use_mem_rope": True,  # release 5.0 runs no other
            "use_mamba_kernels": False,
        },
        "StateSpaceDuality",
        recurrent=3,
        softmax=1,
    ),
}
