"""S5 with the held input integrated by an exponential of the state and input matrix together."""

import torch


def reference(m):
    states, inputs = m.write.shape
    rate = torch.zeros(states + inputs, states + inputs, dtype=m.pole.dtype)
    steps_of_states = m.step.expand(states)
    rate[:states, :states] = torch.diag(steps_of_states * m.pole)
    rate[:states, states:] = steps_of_states[:, None] * m.write
    flow = torch.linalg.matrix_exp(rate)
    state = torch.zeros(*m.value.shape[:-2], states, dtype=m.pole.dtype)
    out = []
    for t in range(m.value.shape[-2]):
        u = m.value[..., t, :]
        state = (flow @ torch.cat([state, u.to(state.dtype)], dim=-1)[..., None])[..., :states, 0]
        y = torch.einsum("on,...n->...o", m.read, state).real
        if m.feedthrough is not None:
            y = y + (u @ m.feedthrough.T if m.feedthrough.ndim > 1 else u * m.feedthrough)
        out.append(y)
    return torch.stack(out, dim=-2)
