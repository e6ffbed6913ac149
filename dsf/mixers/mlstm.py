r"""mLSTM: a matrix memory with an exponential input gate, kept in range by a running maximum.

    m_t = max(log σ(f_t) + m_{t-1}, i_t)        m_0 = 0
    S_t = e^{log σ(f_t) + m_{t-1} - m_t} S_{t-1} + e^{i_t - m_t} k_t v_tᵀ
    o_t = S_tᵀ q_t / (max(|q_t.n_t|, e^{-m_t}) + ε)

n_t is the same recurrence on k_t alone. Of a sequence that goes on, S_0, n_0 and m_0 are those of
the tokens before; else they are zero. The normaliser depends on queries, keys and gates only, so
it is part of C. Rows do not sum to one.

Source: Beck et al. 2024, arXiv:2405.04517.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.mixers.base import KeyedMixer, laws, mixer, normal
from dsf.mixers.ingredients.recurrences import one_state, running_maximum
from dsf.systems.system import System
from dsf.systems.transition import ScaledIdentity, continued


@mixer
class MLSTM(KeyedMixer):
    """The matrix LSTM of xLSTM. No scale is applied: pass a scaled query.

    Attributes:
        input_gate: i_t, the exponent of the input gate.
        forget_gate: f_t, before its sigmoid.
        epsilon: ε, added to the normaliser.
        start, start_total, start_peak: S_0, n_0 and m_0; from rest when absent.
    """

    input_gate: Float[Tensor, "*batch time"]
    forget_gate: Float[Tensor, "*batch time"]
    epsilon: float = 1e-6
    start: Float[Tensor, "*batch key channel"] | None = None
    start_total: Float[Tensor, "*batch key"] | None = None
    start_peak: Float[Tensor, "*batch"] | None = None

    drawn = laws(forget_gate=lambda rng, *size: 2 + normal(rng, *size), epsilon=1e-2)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_state("MLSTM", self.start, self.start_total, self.start_peak)

    def system(self) -> System:
        log_decay = torch.nn.functional.logsigmoid(self.forget_gate)
        start = 0.0 if self.start_peak is None else self.start_peak.unsqueeze(-1)
        gates = log_decay.unsqueeze(-1), self.input_gate.unsqueeze(-1)
        earlier, largest = (each.squeeze(-1) for each in running_maximum(*gates, start=start))
        decay = (log_decay + earlier - largest).exp()
        write = (self.input_gate - largest).exp().unsqueeze(-1) * self.key
        A = ScaledIdentity(decay, self.key.shape[-1])
        first = None if self.start_total is None else self.start_total.unsqueeze(-1)
        held = continued(A, write.unsqueeze(-1), first)[0].squeeze(-1)
        recalled = (self.query * held).sum(dim=-1).abs()
        normaliser = torch.maximum(recalled, (-largest).exp()) + self.epsilon
        read = self.query / normaliser.unsqueeze(-1)
        return System(A, B=write.unsqueeze(-1), C=read.unsqueeze(-2), initial=self.start)
