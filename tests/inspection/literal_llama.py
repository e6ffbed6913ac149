"""A llama's residual stream from its weights, linear once its run is known: the formula alone.

Attention weights are given. The sizes of the norms and the gates of the MLP are detached, so that
the Jacobian of what is left is the frozen network.
"""

import torch


def block(weights, stream, attention):
    """One block: ``sample time width``, with ``attention`` as ``sample head written read``."""
    normed = rms(stream, weights["input_layernorm.weight"])
    value = normed @ weights["self_attn.v_proj.weight"].T
    heads = value.unflatten(-1, (attention.shape[1], -1))
    mixed = torch.einsum("shij,sjhc->sihc", attention, heads).flatten(-2)
    stream = stream + mixed @ weights["self_attn.o_proj.weight"].T
    normed = rms(stream, weights["post_attention_layernorm.weight"])
    gate = normed @ weights["mlp.gate_proj.weight"].T
    gate = (gate * torch.sigmoid(gate)).detach()
    inner = gate * (normed @ weights["mlp.up_proj.weight"].T)
    return stream + inner @ weights["mlp.down_proj.weight"].T


def rms(x, weight, eps=1e-6):
    size = (x * x).mean(dim=-1, keepdim=True).add(eps).sqrt().detach()
    return weight * (x / size)


def contributions(blocks, stream, attentions):
    """``written read width`` of the only sample: the Jacobian times each token of the stream."""

    def network(given):
        for weights, attention in zip(blocks, attentions, strict=True):
            given = block(weights, given, attention)
        return given[0]

    jacobian = torch.autograd.functional.jacobian(network, stream)[:, :, 0]
    return torch.einsum("icjd,jd->ijc", jacobian, stream[0])
