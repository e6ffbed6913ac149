"""Tiny softmax models with parameters that make their attention uneven, and what to call them with.

Freshly initialised, their maps are almost uniform, and a wrong scale or a swapped head would show
in the last digits only.
"""

import torch
from transformers import (
    BertConfig,
    BertModel,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

TOKENS, SAMPLES, VOCABULARY, PADDED = 13, 2, 97, 4
WINDOW, SOFTCAP = 5, 3.0
BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
BODY |= {"intermediate_size": 48}
TEXT = BODY | {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 0}
GROUPED = TEXT | {"num_key_value_heads": 2}
GEMMA = GROUPED | {"head_dim": 8, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}
EXPERTS = {"num_experts_per_tok": 1, "num_local_experts": 2}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8}
LATENT |= {"v_head_dim": 10, "num_key_value_heads": 4, "first_k_dense_replace": 2}
LATENT |= {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
ENCODER_DECODER = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}
ENCODER_DECODER |= {"num_heads": 4, "decoder_start_token_id": 0}
SMALL_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}

BUILT = {
    "llama": (LlamaForCausalLM, LlamaConfig, GROUPED),
    "mistral": (MistralForCausalLM, MistralConfig, GROUPED | {"sliding_window": WINDOW}),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, GEMMA | {"attn_logit_softcapping": SOFTCAP}),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, GEMMA),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, GROUPED),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, GROUPED | {"head_dim": 8}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, SMALL_GPT),
    "gpt_neox": (GPTNeoXForCausalLM, GPTNeoXConfig, TEXT),
    "phi3": (Phi3ForCausalLM, Phi3Config, GROUPED),
    "gpt_oss": (
        GptOssForCausalLM,
        GptOssConfig,
        GROUPED | EXPERTS | {"head_dim": 8, "sliding_window": WINDOW},
    ),
    "deepseek_v3": (DeepseekV3ForCausalLM, DeepseekV3Config, TEXT | LATENT),
    "bert": (BertModel, BertConfig, TEXT),
    "vit": (ViTModel, ViTConfig, BODY | {"image_size": 16, "patch_size": 4}),
    "t5": (T5ForConditionalGeneration, T5Config, ENCODER_DECODER),
}


def build(name, **changes):
    """A model in evaluation mode, its parameters drawn anew; the same every time."""
    model_class, config_class, settings = BUILT[name]
    model = model_class(config_class(**{**settings, **changes})).eval()
    if name == "gemma2":  # older releases run it fused, which leaves the soft cap out
        model.set_attn_implementation("eager")
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, part in model.named_parameters():
            drawn = torch.randn(part.shape, generator=rng)
            if part.ndim > 1:
                part.copy_(1.5 * drawn / part.shape[-1] ** 0.5)
            else:
                part.copy_(("norm" in path.lower() or ".ln_" in path) + 0.3 * drawn)
    return model


def inputs(name, *, padded=False):
    """What the model is called with; ``padded`` hides the first tokens of the last sample."""
    rng = torch.Generator().manual_seed(1)
    if name == "vit":
        return {"pixel_values": torch.randn(SAMPLES, 3, 16, 16, generator=rng)}
    ids = torch.randint(1, VOCABULARY, (SAMPLES, TOKENS), generator=rng)
    given = {"input_ids": ids}
    if name == "t5":
        given["decoder_input_ids"] = ids[:, :7].flip(-1)
    if padded:
        mask = torch.ones_like(ids)
        mask[-1, :PADDED] = 0
        given["attention_mask"] = mask
    return given
