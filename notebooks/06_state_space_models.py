# %% [markdown]
# # 6. State-space models from S4 to Mamba-2
#
# A state-space layer starts in continuous time, $\dot h = A h + B u$, $y = C h$, and is *sampled*
# at a step $\Delta$. In five years the family moved from one fixed filter (S4) to coefficients that
# follow the input (Mamba), and from large structured matrices to one number per head (Mamba-2):
#
# | layer | transition $A_t$ | what follows the input |
# |---|---|---|
# | S4 | diagonal plus rank one | nothing |
# | S4D | diagonal, complex | nothing |
# | Mamba (S6) | $\exp(\Delta_t a)$, diagonal, one per channel | $\Delta_t$, $B_t$, $C_t$ |
# | Mamba-2 (SSD) | $\exp(\Delta_t a)\, I$ | $\Delta_t$, $B_t$, $C_t$ |
#
# **You will learn** two ways to sample, where S4's structure comes from, what selection does to the
# map, and in which sense a state-space model "is" attention.

# %%
import math

import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.mixers.ingredients import bilinear, zero_order_hold
from dsf.report import plot

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)


# %% [markdown]
# ## Sampling
#
# Hold the input constant during a step of length $\Delta$ and solve exactly (*zero-order hold*), or
# use the trapezoidal rule (*bilinear*). For a pole $\lambda$:
#
# $$\text{hold:}\quad \bar a = e^{\Delta\lambda},\; \bar b = \frac{e^{\Delta\lambda} - 1}{\lambda}\, b
# \qquad\qquad
# \text{bilinear:}\quad \bar a = \frac{1 + \Delta\lambda/2}{1 - \Delta\lambda/2},\;
# \bar b = \frac{\Delta}{1 - \Delta\lambda/2}\, b .$$
#
# Both send the left half plane into the unit circle: what decays in continuous time decays in
# steps.

# %%
poles = -torch.rand(300, generator=rng) * 3 + 1j * torch.randn(300, generator=rng) * 6
for rule in (zero_order_hold, bilinear):
    decay, _ = rule(poles, torch.tensor(1.0))
    axes = plot.complex_plane(decay, title=rule.__name__)
    plt.show()
    assert (decay.abs() <= 1).all()

# %% [markdown]
# They agree for small steps, to third order in the decay:

# %%
steps = 2.0 ** -torch.arange(1, 8)
pole = torch.tensor(-0.5 + 2.0j)
gap = [(zero_order_hold(pole, d).decay - bilinear(pole, d).decay).abs().item() for d in steps]
plot.curves(
    steps,
    {"difference of the decays": gap},
    x_label="step",
    y_label="|hold - bilinear|",
    logarithmic="xy",
)
plt.show()
assert abs(math.log2(gap[-2] / gap[-1]) - 3) < 0.05

# %% [markdown]
# ## S4: a matrix with a meaning
#
# S4 starts from *HiPPO-LegS*, a matrix whose states are Legendre coefficients of the past:
#
# $$A_{nk} = -\begin{cases}\sqrt{(2n+1)(2k+1)} & n > k\\ n + 1 & n = k\\ 0 & n < k\end{cases}
# \qquad B_n = \sqrt{2n+1} .$$
#
# It cannot be diagonalised in practice: its eigenvectors are exponentially ill-conditioned. But
# with $p_n = \sqrt{n + 1/2}$ the sum $A + p p^\top$ is $-\frac12 I$ plus a skew-symmetric matrix,
# which a unitary change of states makes diagonal. What is left is a diagonal *plus rank one*, and
# the bilinear rule keeps that form.

# %%
N, T = 8, 64
n = torch.arange(N)
root = (2 * n + 1.0).sqrt()
hippo = -(torch.outer(root, root).tril(-1) + torch.diag(n + 1.0))
p = (n + 0.5).sqrt()
normal = hippo + torch.outer(p, p)
skew = normal + 0.5 * torch.eye(N)
assert torch.allclose(skew, -skew.mT)

turned, V = torch.linalg.eigh(-1j * skew)  # skew = V (i turned) V*
read = torch.randn(N, generator=rng)
s4 = dsf.mixers.S4(
    value=torch.randn(T, 1, generator=rng),
    pole=torch.complex(torch.full((N,), -0.5), turned),
    low_rank_left=-(V.mH @ p.to(V.dtype)),
    low_rank_right=V.mH @ p.to(V.dtype),
    write=V.mH @ root.to(V.dtype),
    read=V.mT @ read.to(V.dtype),
    step=torch.tensor(0.1),
)
half = torch.eye(N) - 0.05 * hippo
dense = dsf.System(
    dsf.systems.transition.Dense(
        torch.linalg.solve(half, torch.eye(N) + 0.05 * hippo).expand(T, -1, -1)
    ),
    B=torch.linalg.solve(half, 0.1 * root)[:, None].expand(T, -1, -1),
    C=read[None].expand(T, -1, -1),
)

# %% tags=["proved"]
print(s4.system())
certificate = dsf.certify.equivalent(s4.system(), dense, tolerance=1e-10)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# The states as they follow one impulse: polynomials in a warped time. Each one remembers the past
# at another resolution.

# %%
identity = torch.eye(N).expand(T, -1, -1)
states = dsf.attention_map(dsf.System(dense.A, dense.B, identity))[:, 0].reshape(T, N)
plot.per_token(
    states[:, :5].mT,
    label="state",
    labels=[f"state {k}" for k in range(5)],
    x="lag (tokens)",
    title="HiPPO-LegS after an impulse",
)
plt.show()

# %% [markdown]
# ## S4D: drop the rank one
#
# Keeping only a diagonal of conjugate pairs loses little in practice, and the layer becomes a sum
# of damped waves: $k_\tau = \mathrm{Re} \sum_n 2 c_n \bar b_n \bar a_n^\tau$. Being time-invariant,
# it has a kernel, and its map is constant along diagonals: **it treats every token alike.**
#
# ## Mamba: selection
#
# In S6 the step follows the token, $\Delta_t = \mathrm{softplus}(w^\top x_t + b)$. Look at $h_t =
# e^{\Delta_t a} h_{t-1} + \Delta_t b_t x_t$: with $\Delta_t \to 0$ the token is *skipped* ($A = I$,
# nothing written), with $\Delta_t \to \infty$ the past is *reset*. In this example some
# tokens matter and the others are noise, and the step tells them apart.

# %%
T = 32
matters = torch.zeros(T, dtype=torch.bool)
matters[[3, 9, 10, 22]] = True
step = torch.where(matters, 1.0, 0.01)[:, None]
ones = torch.ones(T, 1)
selective = dsf.mixers.SelectiveStateSpace(
    value=torch.randn(T, 1, generator=rng),
    step=step,
    pole=torch.tensor([[-0.2]]),
    write=ones,
    read=ones,
)
fixed = dsf.mixers.SelectiveStateSpace(
    value=selective.value,
    step=torch.full((T, 1), step.mean().item()),
    pole=torch.tensor([[-0.2]]),
    write=ones,
    read=ones,
)
maps = {
    "one step for all": dsf.attention_map(fixed.system())[0],
    "steps that select": dsf.attention_map(selective.system())[0],
}
plot.heat_maps(maps)
plt.show()
row = maps["steps that select"][-1]
share = (row[matters].sum() / row.sum()).item()
print(f"weight of the last row on the four tokens that matter: {share:.0%}")
assert share > 0.75

# %% [markdown]
# With one step for all tokens the same layer mixes otherwise:

# %% tags=["refuted"]
certificate = dsf.certify.same_map(*maps.values(), tolerance=0.1)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ### For every input, not for this one
#
# A map is computed from one sequence. Some statements hold for *all* inputs: S6's decay is monotone
# in $w^\top x$, so over a box of inputs one corner decides. Whatever the tokens in the box are, the
# product of 64 decays is at most one half:

# %% tags=["proved"]
weight, bias = torch.tensor([0.5, -0.25, 0.1]), torch.tensor(-2.0)
box = (torch.full((3,), -1.0), torch.full((3,), 1.0))
certificate = dsf.certify.decay_box(
    weight, bias, rate=torch.tensor(0.2), box=box, width=64, most=0.5
)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# S6's decay is a forget gate in another form. With $\Delta = \mathrm{softplus}(z)$,
#
# $$e^{-a\,\mathrm{softplus}(z)} = (1 + e^z)^{-a} = \sigma(-z)^a ,$$
#
# a power of the forget gate of an LSTM.
#
# How this is decided: `python -m papers DSF-11`.

# %% [markdown]
# ## Mamba-2: duality
#
# Make $A_t$ one number for a whole head. Then the decays leave the product of matrices,
#
# $$\Phi_{ij} = \Bigl(\prod_{s=j+1}^{i} e^{\Delta_s a}\Bigr)\, c_i^\top (\Delta_j b_j)
# \qquad\Longleftrightarrow\qquad \Phi = L \odot (C \bar B^\top), \quad
# L_{ij} = e^{a(\Delta_{j+1} + \dots + \Delta_i)} ,$$
#
# masked attention with a mask that fades: that is **state-space duality**.

# %%
T, N = 24, 4
ssd = dsf.mixers.StateSpaceDuality(
    value=torch.randn(1, T, 2, generator=rng),
    step=torch.rand(1, T, generator=rng),
    pole=torch.tensor([-0.5]),
    write=torch.randn(1, T, N, generator=rng),
    read=torch.randn(1, T, N, generator=rng),
)
map = dsf.attention_map(ssd.system())[0]
log_decay = (-0.5 * ssd.step[0]).cumsum(dim=0)
fading = (log_decay[:, None] - log_decay).exp().tril()
scores = ssd.read[0] @ (ssd.step[0, :, None] * ssd.write[0]).mT
torch.testing.assert_close(map, fading * scores)
plot.heat_maps({"scores C B": scores.tril(), "fading mask L": fading, "their product": map})
plt.show()
assert measures.hankel_ranks(map).max() == N

# %% [markdown]
# ### How far does the duality go?
#
# Linear attention with a normaliser $\eta$ has the same form when $\eta_i = e^{a \sum_{k \le i}
# \Delta_k}$, but the key features then carry the whole prefix. A key feature of the current token
# alone cannot do it: on a constant input such attention weighs equal tokens equally, SSD does not.
# And the full S6, whose channels have decays of their own, is not *one* attention at all.
#
# How this is decided: `python -m papers DSF-13 DSF-15`.

# %% [markdown]
# ## Play
#
# Mamba's scan with sliders: make the step small, and most tokens are passed over; make it large, and
# each one resets the past. S4D is next to it: its map stays the same along every diagonal whatever you
# do.

# %%
dsf.report.playground("selective_state_space", step=1.0)

# %% [markdown]
# A trained Mamba on a recall task. Its channels have a map each, so the view opens with all of them
# together; choose *State* to see how fast each forgets.

# %%
import transformers

from dsf.models import folder, recall

transformers.logging.set_verbosity_error()
prompt = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
trained = dsf.inspect(folder("mamba"), input_ids=prompt, tokens=[recall.spell(prompt[0])])
dsf.show(trained)

# %% [markdown]
# ## Exercises
#
# **1.** Write the zero-order hold of a real pole, the pole zero included (it is a limit).

# %% [markdown] tags=["hints"]
# - Away from zero take the two formulas above; `math.expm1` keeps the digits of $e^x - 1$.
# - At $\lambda = 0$ nothing decays, and the gain $(e^{\Delta\lambda} - 1)/\lambda$ tends to
#   $\Delta$.


# %% tags=["solution"]
def held(pole, step):
    """Decay and gain (floats) of a real ``pole`` sampled at ``step``."""
    if pole == 0:
        return 1.0, step
    return math.exp(step * pole), math.expm1(step * pole) / pole


# %% tags=["check"]
for pole_, step_ in ((-1.0, 0.5), (-3.0, 2.0), (-1e-12, 0.1), (0.0, 0.7)):
    decay, gain = held(pole_, step_)
    wanted = zero_order_hold(torch.tensor(pole_), torch.tensor(step_))
    assert close(decay, wanted.decay), f"the decay of the pole {pole_}"
    assert close(gain, wanted.gain), f"the gain of the pole {pole_}"
print("exercise 1: right")

# %% [markdown]
# **2.** Which step gives a state with pole $a < 0$ a half-life of $n$ tokens? Check your formula on
# the map: the weight has to halve every $n$ tokens.

# %% [markdown] tags=["hints"]
# - After $n$ tokens the weight is $e^{n \Delta a}$.
# - Set it to one half and solve for $\Delta$: $n \Delta a = -\ln 2$.


# %% tags=["solution"]
def step_for(half_life, pole):
    """The step at which ``exp(step * pole)`` to the power ``half_life`` is one half."""
    return math.log(2) / (half_life * -pole)


# %% tags=["check"]
for wanted, pole_ in ((1, -1.0), (8, -0.3)):
    chosen = step_for(wanted, pole_)
    layer = dsf.mixers.SelectiveStateSpace(
        value=torch.zeros(20, 1),
        step=torch.full((20, 1), chosen),
        pole=torch.tensor([[pole_]]),
        write=torch.ones(20, 1),
        read=torch.ones(20, 1),
    )
    column = dsf.attention_map(layer.system())[0, :, 0]
    assert close(column[wanted] / column[0], 0.5), f"what is left after {wanted} tokens"
print("exercise 2: right")

# %% [markdown]
# **3.** Write the map of SSD without a loop over tokens, from log decays. The fading mask is the
# exponential of a difference of cumulative sums. (Over thousands of tokens that difference loses
# its digits in float32; the library sums inside chunks instead.)

# %% [markdown] tags=["hints"]
# - $\Delta_{j+1} + \dots + \Delta_i$ is a difference of two cumulative sums.
# - `total[:, None] - total` with `total = (pole * step).cumsum(dim=0)`; take the exponential
#   only below the diagonal.
# - The scores are `read @ (step[:, None] * write).mT`.


# %% tags=["solution"]
def dual_map(step, pole, write, read):
    """The map (T, T) from step (T,), pole (a number), write and read (T, N)."""
    total = (pole * step).cumsum(dim=0)
    mask = (total[:, None] - total).tril().exp().tril()
    return mask * (read @ (step[:, None] * write).mT)


# %% tags=["check"]
found = dual_map(ssd.step[0], -0.5, ssd.write[0], ssd.read[0])
assert found.shape == (T, T), f"the map is {T} x {T}, yours is {tuple(found.shape)}"
assert (found.triu(1) == 0).all(), "a token reads the future"
assert close(found.diagonal(), map.diagonal()), "the diagonal has no decay: step c b"
assert close(found, map), "the diagonal is right; does the decay of token j itself count?"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - Sampling turns poles into decays; half-life is $\ln 2 / (\Delta |a|)$ tokens.
# - Time-invariant layers filter, selective layers choose: small step, token skipped; large step,
#   past reset.
# - One decay per head makes the map a masked attention. One per channel does not.
#
# **Further reading:** Gu, Goel & Ré 2021 (arXiv:2111.00396); Gu et al. 2022 (arXiv:2206.11893); Gu
# & Dao 2023 (arXiv:2312.00752); Dao & Gu 2024 (arXiv:2405.21060).
