"""S4 by solving the trapezoidal rule for the next state, with the state matrix written out."""

import torch


def reference(m):
    size = m.pole.shape[0]
    A = torch.diag(m.pole) + torch.outer(m.low_rank_left, m.low_rank_right.conj())
    identity = torch.eye(size, dtype=A.dtype)
    out = torch.zeros_like(m.value)
    steps = m.value.shape[-2]
    for place in range(m.step.numel()):
        delta = m.step.flatten()[place]
        value = m.value.flatten(0, -3)[place].to(A.dtype)
        written = out.flatten(0, -3)[place]
        state = torch.zeros(size, value.shape[-1], dtype=A.dtype)
        for t in range(steps):
            known = state + delta / 2 * (A @ state) + delta * torch.outer(m.write, value[t])
            state = torch.linalg.solve(identity - delta / 2 * A, known)
            written[t] = (m.read @ state).real
            if m.feedthrough is not None:
                written[t] += m.feedthrough.flatten()[place] * value[t].real
    return out
