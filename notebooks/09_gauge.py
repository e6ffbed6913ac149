# %% [markdown]
# # 9. Gauge: what eigenvalues do and do not say
#
# Spectra of $A_t$ are often plotted to explain how a layer remembers: mass near one, long memory;
# mass near zero, selection. But the state is internal to the layer. Choose other coordinates for
# it, $\tilde h_t = T_t h_t$ with any invertible matrices $T_t$, and
#
# $$\tilde A_t = T_t A_t T_{t-1}^{-1}, \qquad \tilde B_t = T_t B_t, \qquad \tilde C_t = C_t T_t^{-1},
# \qquad \tilde D_t = D_t$$
#
# give **the same map**. A choice of $T_t$ is called a *gauge*. What a gauge can change is not a
# property of the layer.
#
# **You will learn** how far a gauge can go, what survives it, when eigenvalues mean something after
# all, and what to plot instead.

# %%
import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.report import plot
from dsf.systems.algebra import change_of_basis

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)
T, N = 24, 4


# %% [markdown]
# ## One map, three spectra
#
# Take gated linear attention, whose transitions are diagonal decays: the spectrum is what the paper
# plots.

# %%
query, key = torch.randn(2, T, N, generator=rng)
value = torch.randn(T, 2, generator=rng)
log_decay = -0.3 * torch.rand(T, N, generator=rng)
layer = dsf.mixers.GatedLinearAttention(query=query, key=key, value=value, log_decay=log_decay)
system = layer.system()
map = dsf.attention_map(system)

random_gauge = torch.eye(N) + 0.4 * torch.randn(T + 1, N, N, generator=rng)
scrambled = change_of_basis(system, random_gauge)

# undo the decay: T_t is the inverse of everything that was forgotten up to t
total = torch.cat([torch.zeros(1, N), log_decay.cumsum(dim=0)])
undone = change_of_basis(system, torch.diag_embed((-total).exp()))

grid = plot.panels(1, 3, size=(11, 3.4))
named = {"own states": system, "random states": scrambled, "undone decay": undone}
for axes, (name, each) in zip(grid, named.items(), strict=True):
    plot.draw(
        measures.transition_eigenvalues,
        measures.transition_eigenvalues(each),
        title=name,
        axes=axes,
    )
plt.show()

# %% tags=["proved"]
for each in (scrambled, undone):
    certificate = dsf.certify.equivalent(system, each, tolerance=1e-10)
    print(certificate)
    assert certificate.verdict is dsf.certify.Verdict.PROVED
assert torch.allclose(undone.A.dense(), torch.eye(N).expand(T, -1, -1))

# %% [markdown]
# The right one has $A_t = I$ throughout: *read by its eigenvalues this layer never forgets
# anything*, and it is the same layer. The eigenvalues of $A_t$ depend on the state basis, and here
# is a case that anybody can recompute:
#
# How this is decided: `python -m papers DSF-17`.

# %% [markdown]
# Nor does the spectrum determine the map. The same decays with other queries:

# %% tags=["refuted"]
other = dsf.mixers.GatedLinearAttention(
    query=query.flip(0), key=key, value=value, log_decay=log_decay
)
assert torch.equal(
    measures.transition_eigenvalues(other.system()), measures.transition_eigenvalues(system)
)
certificate = dsf.certify.equivalent(system, other.system(), tolerance=0.1)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## Nor is $|A_t| < 1$ a criterion of stability
#
# Attention with a normaliser has $A_t = \eta_{t-1}/\eta_t$ in one gauge. Half of these ratios are
# above one. Nothing explodes: $\eta_t$ only scales the response at token $t$. The paper says so too:
# attention gets its stability from the normalisation, and not from its eigenvalues.
#
# How this is decided: `python -m papers DSF-19`.

# %% [markdown]
# The ratios can still be *computed*. At zero logits softmax attention has $\eta_{i}/\eta_{i+1} =
# i/(i+1)$, whatever the tokens are: a spectrum near one that says "averages over $i$ tokens" and
# nothing about memory.
#
# How this is decided: `python -m papers EIG-1`.

# %% [markdown]
# ## What no gauge can change
#
# Everything that can be computed from the map. Above all
#
# - the **Hankel singular values**, what passes from the past to the future at each token,
# - the **mass by lag**, which shows how a layer forgets,
# - row sums, gains, entropies, negative weights.

# %%
left, right = plot.panels(1, 2, size=(9, 3.2))
hankel = torch.stack(
    [measures.hankel_singular_values(each, positions=[T // 2])[0] for each in named.values()]
)
plot.spectrum(hankel, labels=list(named), axes=left)
mass = torch.stack([measures.mass_by_lag(each) for each in named.values()])
plot.by_lag(mass, labels=list(named), axes=right)
plt.show()
for numbers in (hankel, mass):
    torch.testing.assert_close(numbers[1:], numbers[:1].expand_as(numbers[1:]))

# %% [markdown]
# The three curves coincide. Compare them with the three spectra above.
#
# ## When eigenvalues do mean something
#
# **1. Time-invariant systems with a fixed gauge.** If $A, B, C$ do not change and neither does $T$,
# then $\tilde A = T A T^{-1}$ has the eigenvalues of $A$. S4's poles are real properties: they are
# the exponents of its kernel (as far as $B$ and $C$ reach them).
#
# **2. On average, under bounded gauges.** If all $T_t$ and $T_t^{-1}$ stay below one bound, the
# mean growth of $A_t \cdots A_1$ cannot change: $\tilde A_t \cdots \tilde A_1 = T_t (A_t \cdots
# A_1) T_0^{-1}$, and $\frac1t \log \lVert T_t \rVert \to 0$. These **Lyapunov exponents** are what
# one would like eigenvalues to be. A gauge that undoes a decay grows exponentially, so it is not
# bounded.

# %%
long = 400
decays = -0.3 * torch.rand(long, 2, generator=rng)
two = dsf.mixers.GatedLinearAttention(
    query=torch.randn(long, 2, generator=rng),
    key=torch.randn(long, 2, generator=rng),
    value=torch.zeros(long, 1),
    log_decay=decays,
).system()
bounded = torch.linalg.qr(torch.randn(long + 1, 2, 2, generator=rng)).Q
bounded = bounded * (0.5 + torch.rand(long + 1, 1, 1, generator=rng))
turned = change_of_basis(two, bounded)
before, after = (measures.lyapunov_exponents(each) for each in (two, turned))
moduli = [measures.transition_eigenvalues(each).abs() for each in (two, turned)]
print("exponents:", before.tolist(), "->", after.tolist())
print("moduli of eigenvalues up to", moduli[0].max().item(), "->", moduli[1].max().item())
assert (before - after).abs().max() < 0.01
assert moduli[1].max() > 1 > moduli[0].max()

# %% [markdown]
# **3. As a recipe for one kind of layer.** Comparing the decays of two checkpoints of the *same*
# layer type compares like with like. Comparing softmax with Mamba by eigenvalues compares two
# conventions.
#
# ## A normal form
#
# If coordinates are arbitrary, choose good ones. In *balanced* states (Moore 1981) what the past
# puts in and what the future gets out are the same diagonal matrix, the Hankel singular values:
# states are ordered by how much they matter, and leaving out the last ones is a reduction. That is
# notebook 10.
#
# ## Exercises
#
# **1.** Apply a gauge by hand: new $A$, $B$, $C$ from full matrices and $T_0, \dots, T_T$.

# %% [markdown] tags=["hints"]
# - Put $h_t = T_t^{-1} \tilde h_t$ into both equations.
# - $\tilde A_t = T_t A_t T_{t-1}^{-1}$: two places of `gauge`, one before and one after the
#   token.
# - `before, after = gauge[:-1], gauge[1:]`; B and C use `after`.


# %% tags=["solution"]
def regauged(A, B, C, gauge):
    """(A, B, C) in the states T_t h_t, for a gauge of shape (T + 1, N, N)."""
    before, after = gauge[:-1], gauge[1:]
    return (
        after @ A @ torch.linalg.inv(before),
        after @ B,
        C @ torch.linalg.inv(after),
    )


# %% tags=["check"]
parts = system.A.dense(), torch.as_tensor(system.B), torch.as_tensor(system.C)
A, B, C = (torch.as_tensor(part) for part in regauged(*parts, random_gauge))
rebuilt = dsf.System(dsf.systems.transition.Dense(A), B, C)
assert close(dsf.attention_map(rebuilt), map), "the map changes: which T belongs to h_{t-1}?"
assert not close(A, parts[0]), "the coefficients have to change"
print("exercise 1: right")

# %% [markdown]
# **2.** Find a gauge (scalars $\theta_0, \dots, \theta_T$, $T_t = \theta_t I$) that turns Retention
# with decay $\gamma$ into a system whose transitions are all $\rho I$, for any $\rho > 0$ you like.
# So a layer that "explodes" on paper may be the same as one that does not.

# %% [markdown] tags=["hints"]
# - With scalars, the new decay at token $t$ is $\gamma\, \theta_t / \theta_{t-1}$.
# - So every $\theta$ is the one before times $\rho / \gamma$: powers, $T + 1$ of them.


# %% tags=["solution"]
def scales_for(decay, wanted, steps):
    """theta_0 ... theta_T (T + 1 numbers) that turn every decay into ``wanted``."""
    return (wanted / decay) ** torch.arange(steps + 1)


# %% tags=["check"]
retention = dsf.mixers.Retention(
    query=query, key=key, value=value, decay=torch.tensor(0.9)
).system()
scales = torch.as_tensor(scales_for(0.9, 1.25, T))
assert scales.shape == (T + 1,), f"one scale for every place between tokens: {T + 1}"
grown = change_of_basis(retention, scales[:, None, None] * torch.eye(N))
assert close(grown.A.dense(), 1.25 * torch.eye(N).expand(T, N, N)), "not all transitions are 1.25 I"
assert close(dsf.attention_map(grown), dsf.attention_map(retention)), "the map has changed"
print("exercise 2: right")

# %% [markdown]
# **3.** Compute a gauge-free half-life from the map alone: the smallest lag up to which at least
# half of the mass by lag is found.

# %% [markdown] tags=["hints"]
# - The mass at a lag is the mean magnitude along one diagonal:
#   `map.diagonal(-lag).abs().mean()`.
# - Add up from lag 0, divide by the total, and count the lags that stay below one half.


# %% tags=["solution"]
def half_life(map):
    """A whole number of tokens."""
    steps = len(map)
    mass = torch.stack([map.diagonal(-lag).abs().mean() for lag in range(steps)])
    reached = mass.cumsum(dim=0) / mass.sum()
    return int((reached < 0.5).sum())


# %% tags=["check"]
for name, each in named.items():
    expected = measures.half_life(each).item()
    found = half_life(dsf.attention_map(each))
    assert close(found, expected), f"the half-life of {name}, in tokens"
assert half_life(torch.eye(5)) == 0, "a map that reads its own token only has half-life 0"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - A spectrum of $A_t$ shows a layer *and a choice of states*. With time-varying gauges any
#   spectrum can be had.
# - Report the map, its Hankel singular values and its mass by lag first; Lyapunov exponents where a
#   rate is wanted.
# - If a picture depends on the choice of states, its caption has to name that choice.
#
# **Further reading:** Rickenbach et al. 2025, *Task-level insights from eigenvalues*
# (arXiv:2510.09379), together with this notebook; Sieber et al. 2024 (arXiv:2405.15731).
