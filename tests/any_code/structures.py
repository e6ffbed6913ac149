"""Recurrent layers of nobody's, with the parameters of known families, and their maps by formula.

Each is a plain loop over the tokens as its paper has it. ``map`` gives the weights by which the
values of a token reach a later one, worked out entry by entry in float64.
"""

import torch
from torch import nn
from torch.nn.functional import silu, softplus

MODEL, INNER, STATE, RANK, TAPS, HEADS = 6, 8, 3, 2, 3, 4


def drawn(module, seed=0):
    """In evaluation mode, with weights that make its maps uneven."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, part in module.named_parameters():
            if part.dtype.is_complex:
                continue
            new = torch.randn(part.shape, generator=rng)
            scale = 0.5 if part.ndim == 1 else 1.5 / part.shape[-1] ** 0.5
            part.copy_(scale * new + (1 if name.endswith("norm.weight") else 0))
    return module.eval()


def tokens(samples=2, steps=9, width=MODEL, seed=1):
    return torch.randn(samples, steps, width, generator=torch.Generator().manual_seed(seed))


def gated_rms(x, weight, gate=None, epsilon=1e-5):
    x = x if gate is None else x * silu(gate)
    return weight * x / (x.square().mean(dim=-1, keepdim=True) + epsilon).sqrt()


class Stranger(nn.Module):
    """A selective state-space layer (Mamba, arXiv:2312.00752), token by token."""

    is_decoy = False

    def __init__(self):
        super().__init__()
        self.in_proj = nn.Linear(MODEL, 2 * INNER, bias=False)
        self.conv1d = nn.Conv1d(INNER, INNER, TAPS, groups=INNER, padding=TAPS - 1)
        self.x_proj = nn.Linear(INNER, RANK + 2 * STATE, bias=False)
        self.dt_proj = nn.Linear(RANK, INNER)
        self.A_log = nn.Parameter(torch.zeros(INNER, STATE))
        self.D = nn.Parameter(torch.zeros(INNER))
        self.out_proj = nn.Linear(INNER, MODEL, bias=False)

    def parts(self, x):
        """Values, gate, step, write, read."""
        values, gate = self.in_proj(x).chunk(2, dim=-1)
        values = silu(self.conv1d(values.mT)[..., : x.shape[1]].mT)
        step, write, read = self.x_proj(values).split([RANK, STATE, STATE], dim=-1)
        return values, gate, softplus(self.dt_proj(step)), write, read

    def write(self, step, write):
        return step[:, :, None] * write[:, None]

    def gated(self, y, gate):
        return y * silu(gate)

    def forward(self, x):
        values, gate, step, write, read = self.parts(x)
        pole, state, outputs = -self.A_log.exp(), 0, []
        for t in range(x.shape[1]):
            drive = self.write(step[:, t], write[:, t]) * values[:, t, :, None]
            state = (step[:, t, :, None] * pole).exp() * state + drive
            outputs.append((state * read[:, t, None]).sum(dim=-1) + self.D * values[:, t])
        return self.out_proj(self.gated(torch.stack(outputs, dim=1), gate))

    def map(self, x):
        """``sample channel time time``: ``read_i · exp(pole Σ step) write_j``."""
        _, _, step, write, read = self.parts(x)
        steps = x.shape[1]
        found = torch.zeros(len(x), INNER, steps, steps, dtype=x.dtype)
        for i in range(steps):
            for j in range(i + 1):
                passed = step[:, j + 1 : i + 1].sum(dim=1)
                kept = (passed[..., None] * -self.A_log.exp()).exp()
                written = self.write(step[:, j], write[:, j])
                found[:, :, i, j] = (read[:, i, None] * kept * written).sum(dim=-1)
            found[:, :, i, i] += self.D
        return found


class SigmoidGate(Stranger):
    def gated(self, y, gate):
        return y * gate.sigmoid()


class OtherDiscretisation(Stranger):
    """Writes by a zero-order hold, where Mamba writes ``step · write``."""

    def write(self, step, write):
        pole = -self.A_log.exp()
        return ((step[..., None] * pole).exp() - 1) / pole * write[:, None]


class Backwards(Stranger):
    def forward(self, x):
        return super().forward(x.flip(1)).flip(1)


class Dual(nn.Module):
    """A scalar state-space layer (Mamba-2, arXiv:2405.21060), token by token."""

    groups = 1
    norm_first = False

    def __init__(self):
        super().__init__()
        mixed = INNER + 2 * self.groups * STATE
        self.in_proj = nn.Linear(MODEL, INNER + mixed + HEADS, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, TAPS, groups=mixed, padding=TAPS - 1)
        self.A_log, self.dt_bias, self.D = (nn.Parameter(torch.zeros(HEADS)) for _ in range(3))
        self.norm = nn.Module()
        self.norm.weight, self.norm.eps = nn.Parameter(torch.ones(INNER)), 1e-5
        self.out_proj = nn.Linear(INNER, MODEL, bias=False)

    def parts(self, x):
        """Values, gate, step, write, read; the last four by head."""
        shared = self.groups * STATE
        gate, mixed, step = self.in_proj(x).split([INNER, INNER + 2 * shared, HEADS], dim=-1)
        mixed = silu(self.conv1d(mixed.mT)[..., : x.shape[1]].mT)
        values, write, read = mixed.split([INNER, shared, shared], dim=-1)
        by_head = [
            part.unflatten(-1, (self.groups, STATE)).repeat_interleave(HEADS // self.groups, dim=2)
            for part in (write, read)
        ]
        return values.unflatten(-1, (HEADS, -1)), gate, softplus(step + self.dt_bias), *by_head

    def forward(self, x):
        values, gate, step, write, read = self.parts(x)
        state, outputs = 0, []
        for t in range(x.shape[1]):
            drive = (step[:, t, :, None] * write[:, t])[..., None] * values[:, t, :, None]
            state = (step[:, t] * -self.A_log.exp()).exp()[..., None, None] * state + drive
            y = (read[:, t, :, :, None] * state).sum(dim=-2) + self.D[:, None] * values[:, t]
            outputs.append(y.flatten(1))
        y = torch.stack(outputs, dim=1)
        if self.norm_first:
            return self.out_proj(gated_rms(y, self.norm.weight) * silu(gate))
        return self.out_proj(gated_rms(y, self.norm.weight, gate))

    def map(self, x):
        """``sample head time time``."""
        _, _, step, write, read = self.parts(x)
        steps = x.shape[1]
        found = torch.zeros(len(x), HEADS, steps, steps, dtype=x.dtype)
        for i in range(steps):
            for j in range(i + 1):
                kept = (step[:, j + 1 : i + 1].sum(dim=1) * -self.A_log.exp()).exp()
                found[:, :, i, j] = kept * step[:, j] * (read[:, i] * write[:, j]).sum(dim=-1)
            found[:, :, i, i] += self.D
        return found


class DualInGroups(Dual):
    groups = 2


class DualNormFirst(Dual):
    norm_first = True


class DualWithoutDecay(Dual):
    """Steps write but do not decay."""

    def forward(self, x):
        decay, self.A_log = self.A_log, nn.Parameter(torch.full_like(self.A_log, -30.0))
        try:
            return super().forward(x)
        finally:
            self.A_log = decay


class Minimal(nn.Module):
    """A minGRU (arXiv:2410.01201), token by token; its states stay positive."""

    def __init__(self):
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(MODEL, 2 * INNER, bias=False)
        self.to_out = nn.Linear(INNER, MODEL, bias=False)

    def parts(self, x):
        hidden, gate = self.to_hidden_and_gate(x).chunk(2, dim=-1)
        return torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid()), gate.sigmoid()

    def forward(self, x):
        values, update = self.parts(x)
        state, states = torch.zeros_like(values[:, 0]), []
        for t in range(x.shape[1]):
            state = torch.lerp(state, values[:, t], update[:, t])
            states.append(state)
        return self.to_out(torch.stack(states, dim=1))

    def map(self, x):
        """``sample channel time time``: ``(1 - update_j+1) ... (1 - update_i) update_j``."""
        _, update = self.parts(x)
        steps = x.shape[1]
        found = torch.zeros(len(x), INNER, steps, steps, dtype=x.dtype)
        for i in range(steps):
            for j in range(i + 1):
                found[:, :, i, j] = (1 - update[:, j + 1 : i + 1]).prod(dim=1) * update[:, j]
        return found


class MinimalInTwo(Minimal):
    """Two projections, and the candidate as it is."""

    def __init__(self):
        super().__init__()
        self.linear_z, self.linear_h = nn.Linear(MODEL, INNER), nn.Linear(MODEL, INNER)
        del self.to_hidden_and_gate

    def parts(self, x):
        return self.linear_h(x), self.linear_z(x).sigmoid()


class MinimalCubed(Minimal):
    def parts(self, x):
        values, update = super().parts(x)
        return values**3, update


READ = {
    "mamba": (Stranger, "SelectiveStateSpace"),
    "mamba2": (Dual, "StateSpaceDuality"),
    "mamba2, two groups": (DualInGroups, "StateSpaceDuality"),
    "mamba2, norm before the output gate": (DualNormFirst, "StateSpaceDuality"),
    "minGRU": (Minimal, "MinGRU"),
    "minGRU, two projections": (MinimalInTwo, "MinGRU"),
}
DECOYS = {
    "sigmoid output gate": (SigmoidGate, "Mamba"),
    "zero-order hold": (OtherDiscretisation, "Mamba"),
    "backwards": (Backwards, "Mamba"),
    "cubed candidate": (MinimalCubed, "minGRU"),
    "no decay": (DualWithoutDecay, "Mamba-2"),
}
