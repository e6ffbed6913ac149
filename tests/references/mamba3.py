"""Mamba-3 as a state that turns itself: complex numbers in place of rotated queries and keys."""

import torch


def reference(m):
    pairs = 0 if m.rotation is None else m.rotation.shape[-1]
    size = m.key.shape[-1]

    def back(state, t):
        """Turn the state backward by the rotation of token t."""
        rows = list(state.unbind(dim=-2))
        for n in range(pairs):
            number = torch.complex(rows[2 * n], rows[2 * n + 1])
            number = number * torch.exp(-1j * m.rotation[..., t, n, None])
            rows[2 * n], rows[2 * n + 1] = number.real, number.imag
        return torch.stack(rows, dim=-2)

    def write(t):
        return m.key[..., t, :, None] * m.value[..., t, None, :]

    state = torch.zeros(*m.value.shape[:-2], size, m.value.shape[-1], dtype=m.value.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        step, share = m.step[..., t, None, None], m.blend[..., t, None, None]
        alpha = torch.exp(step * m.pole[..., t, None, None])
        if t > 0:
            state = alpha * back(state + (1 - share) * step * write(t - 1), t)
        state = state + share * step * write(t)
        y = (m.query[..., t, :, None] * state).sum(dim=-2)
        if m.feedthrough is not None:
            y = y + m.feedthrough[..., None] * m.value[..., t, :]
        out.append(y)
    return torch.stack(out, dim=-2)
