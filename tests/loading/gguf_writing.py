"""A small Llama, and the GGUF file of it."""

import numpy as np
import torch

HEADS, WIDTH = 4, 64
WORDS = ["<unk>", *"abcdefghijklmnopqrstuvwxyz", "Ġ", "th", "the", "Ġthe"]
MERGES = ["t h", "th e", "Ġ the"]


def small_llama():
    """Two layers with random weights, every head of its own."""
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        vocab_size=len(WORDS),
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).eval()


NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def stored(model):
    """Weights as GGUF files hold them: rotary pairs of a head beside each other."""
    weights = {name: part.numpy() for name, part in model.state_dict().items()}
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    yield "output.weight", weights["lm_head.weight"]
    for block in range(2):
        for ours, theirs in NAMES.items():
            weight = weights[f"model.layers.{block}.{ours}.weight"]
            if theirs in ("attn_q", "attn_k"):
                halves = weight.reshape(-1, 2, WIDTH // HEADS // 2, WIDTH)
                weight = halves.swapaxes(1, 2).reshape(weight.shape)
            yield f"blk.{block}.{theirs}.weight", weight


def write_gguf(path, model, format=None, *, tokenizer=True, **more):
    """A GGUF file of the model; matrices in ``format``, norms always in float32."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(more.get("epsilon", model.config.rms_norm_eps))
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(WORDS)
        writer.add_token_merges(MERGES)
        writer.add_chat_template("{{ messages }}")
    else:
        writer.add_vocab_size(len(WORDS))
    for name, weight in stored(model):
        if format is None or weight.ndim == 1:
            writer.add_tensor(name, np.ascontiguousarray(weight))
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, format), raw_dtype=format)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
