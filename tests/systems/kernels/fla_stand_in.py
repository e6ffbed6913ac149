"""Functions of flash-linear-attention with its arguments and axes, token by token in plain torch.

Written from the formulas and signatures of fla-core 0.6.0. Axes: batch, time, head, width.
"""

import sys

import torch

MODULES = ("simple_gla", "gla", "gated_delta_rule", "kda")


def installed(monkeypatch):
    """Found where the library would be."""
    for name in MODULES:
        monkeypatch.setitem(sys.modules, f"fla.ops.{name}", sys.modules[__name__])


def chunk_simple_gla(q, k, v, g, **options):
    return walked(q, k, v, g.unsqueeze(-1), None, **options)


def chunk_gla(q, k, v, g, **options):
    assert q.shape == k.shape == g.shape
    return walked(q, k, v, g, None, **options)


def chunk_gated_delta_rule(q, k, v, g, beta, **options):
    return walked(q, k, v, g.unsqueeze(-1), beta, **options)


def chunk_kda(q, k, v, g, beta, **options):
    assert q.shape == k.shape == g.shape
    return walked(q, k, v, g, beta, **options)


def walked(q, k, v, g, beta, *, scale=None, initial_state=None, output_final_state=False):
    (batch, steps, heads, keys), values = q.shape, v.shape[-1]
    assert v.shape[:3] == g.shape[:3] == k.shape[:3]
    assert bool(g.isfinite().all()), "running sums of logarithms would be NaN"
    state = torch.zeros(batch, heads, keys, values, dtype=q.dtype)
    if initial_state is not None:
        assert initial_state.shape == state.shape
        state = initial_state
    scale = keys**-0.5 if scale is None else scale
    found = []
    for t in range(steps):
        state, new = g[:, t].exp().unsqueeze(-1) * state, v[:, t]
        if beta is not None:
            assert beta.shape == (batch, steps, heads)
            held = torch.einsum("bhk,bhkv->bhv", k[:, t], state)
            new = beta[:, t].unsqueeze(-1) * (new - held)
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, t], new)
        found.append(scale * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(found, dim=1), state if output_final_state else None
