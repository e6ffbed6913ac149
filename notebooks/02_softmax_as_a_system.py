# %% [markdown]
# # 2. Softmax attention as a system, and its truncations
#
# Softmax attention keeps every key and value it has seen. "It needs an infinite state" is often
# said; this notebook finds out what is true of that sentence, and what a *finite* state costs.
#
# $$a_{ij} = \frac{e^{q_i^\top k_j / \sqrt m}}{\sum_{s \le i} e^{q_i^\top k_s / \sqrt m}},
# \qquad o_i = \sum_{j \le i} a_{ij} v_j .$$
#
# **You will learn** three systems with the same response (the cache, the smallest one, the power
# series), how to count the states that a map needs, and why a truncation that is best for *every*
# query is far from the best one for *these* queries.

# %%
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.report import plot

torch.set_default_dtype(torch.float64)


def softmax(tokens, width, scale=1.0, seed=0):
    rng = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, tokens, width, generator=rng)
    return dsf.mixers.SoftmaxAttention(query=scale * query, key=key, value=value)


# %% [markdown]
# ## The cache is a state
#
# Give every token a place of its own in the state. Token $t$ fills place $t$, nothing is ever
# forgotten, and the output matrix is row $t$ of the map:
#
# $$A_t = I, \qquad B_t = e_t, \qquad C_t = (a_{t1}, \dots, a_{tt}, 0, \dots, 0), \qquad N = T .$$
#
# This is exact, and it is *linear in the values given queries and keys*. The library stores
# neither the $e_t$ nor the rows; both are computed from queries and keys when they are needed.

# %%
attention = softmax(tokens=24, width=3)
system = attention.system()
print(system)
map = dsf.attention_map(system)
torch.testing.assert_close(
    map @ attention.value, dsf.respond(system, attention.signal()).squeeze(-2)
)
plot.heat_map(map, title="softmax attention")
plt.show()

# %% [markdown]
# ## How many states does a map need?
#
# In any system, everything that the past (tokens up to $t$) contributes to the future (tokens after
# $t$) has to pass through the state $h_t$. In the map this is the **Hankel block**
#
# $$H_t = \Phi_{t+1:,\; :t} = \begin{pmatrix} C_{t+1}A_{t+1} \\ C_{t+2}A_{t+2}A_{t+1} \\ \vdots
# \end{pmatrix} \begin{pmatrix} \cdots & A_t B_{t-1} & B_t \end{pmatrix}, \qquad
# \operatorname{rank} H_t \le N .$$
#
# Conversely a system with $\operatorname{rank} H_t$ states after token $t$ exists, and
# `dsf.evaluate.realise` builds it. So the ranks of the Hankel blocks are *the* number of states. They do not
# depend on any choice of coordinates.

# %%
linear = dsf.mixers.LinearAttention(query=attention.query, key=attention.key, value=attention.value)
ranks = torch.stack([measures.hankel_ranks(map), measures.hankel_ranks(linear.system())])
plot.draw(measures.hankel_ranks, ranks, labels=["softmax", "linear attention, 3 features"])
plt.show()

assert measures.hankel_ranks(map).max() == 12  # floor(24 / 2)
smallest = dsf.evaluate.realise(map)
print(smallest)
assert (
    dsf.certify.equivalent(system, smallest, tolerance=1e-10).verdict is dsf.certify.Verdict.PROVED
)

# %% [markdown]
# One state fewer is too few:

# %% tags=["refuted"]
fewer = dsf.evaluate.reduce(map, order=11).system
certificate = dsf.certify.equivalent(system, fewer, tolerance=1e-6)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# A triangle: the block at $t$ has $t$ columns and $T - t$ rows, and generic softmax blocks have
# full rank. The peak is $\lfloor T/2 \rfloor$: finite at every length, unbounded over all lengths.
# Both halves of that sentence are statements that the library decides; the first is the paper's.
#
# How this is decided: `python -m papers DSF-5`.

# %% [markdown]
# Half the length is enough for coefficients that may see the prefix. For features of *one* token
# each, the paper's class, no finite number is, and two tokens are enough to see it.
#
# How this is decided: `python -m papers DSF-6 DSF-30`.

# %% [markdown]
# ## Truncating the power series
#
# $e^{x} = \sum_p x^p / p!$, and $(q^\top k)^p$ is an inner product of all monomials of degree $p$.
# So
#
# $$e^{q^\top k} \approx \phi_p(q)^\top \phi_p(k), \qquad
# \phi_p(x) = \Bigl( \tfrac{x^\alpha}{\sqrt{\alpha!}} \Bigr)_{|\alpha| \le p}, \qquad
# n_p = \binom{m + p}{p} \text{ features.}$$
#
# With finitely many features softmax attention becomes linear attention, a system of $n_p$ states.
# The error of a score is at most $|x|^{p+1} e^{|x|} / (p+1)!$ by Taylor's theorem.

# %%
orders = range(0, 9)
sizes, errors = [], []
for order in orders:
    truncated = attention.expansion(order).system()
    sizes.append(truncated.state_size)
    errors.append(measures.largest_difference(map, dsf.attention_map(truncated)).item())
    print(f"order {order}: {sizes[-1]:4} states, largest error {errors[-1]:.1e}")

scores = attention.query @ attention.key.mT / math.sqrt(3)
for order in orders:
    series = sum(scores**p / math.factorial(p) for p in range(order + 1))
    bound = dsf.mixers.ingredients.series_error(scores, order)
    assert ((series - scores.exp()).abs() <= bound * (1 + 1e-12) + 1e-13).all()

# %% [markdown]
# At odd orders the truncated series takes negative values, so a denominator may get near zero and
# the weights explode. Always look at the sign before trusting such a map.

# %%
wide = replace(attention, query=3 * attention.query)
for order in (2, 3):
    lowest = measures.smallest_entry(wide.expansion(order).system()).item()
    print(f"order {order}: smallest weight {lowest:.3f}")

# %% [markdown]
# ## The best truncation of this map
#
# The series is good for all small scores. Given *one* map, the best system with $n$ states is found
# from the singular values of the Hankel blocks: no system of $n$ states is nearer to a block, in
# spectral norm, than its singular value $\sigma_{n+1}$ (Eckart-Young). `dsf.evaluate.reduce` keeps the
# leading directions at every token; its error comes with a proven bound, rounding included.

# %%
states = [1, 2, 3, 4, 6, 8, 10]
reductions = [dsf.evaluate.reduce(map, order=n) for n in states]
reduced = [float(each.error / each.size) for each in reductions]
bounds = [float(each.bound / each.size) for each in reductions]
small = [
    (n, float(measures.map_distance(map, dsf.attention_map(attention.expansion(p).system()))))
    for p, n in zip(orders, sizes, strict=True)
]
axes = plot.curves(
    states,
    {"reduction": reduced, "its bound": bounds},
    x_label="states",
    y_label="relative error (Frobenius)",
    logarithmic="xy",
)
axes.plot(*zip(*small, strict=True), marker=".", label="power series")
axes.legend()
plt.show()
assert all(error <= bound for error, bound in zip(reduced, bounds, strict=True))

# %% [markdown]
# The power series has to serve all queries that might occur, the reduction only the ones that did.
# The first can be computed while tokens arrive, the second only when the whole map is known: it is
# a reference to compare with, not an architecture. The bound can be certified, with exact
# arithmetic on the stored numbers:

# %% tags=["proved"]
certificate = dsf.certify.reduction_error(map, order=6)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# ### Sharp attention needs more states
#
# Scale the logits: flat maps are nearly one average, sharp ones look up single tokens.

# %%
scales = (0.25, 1.0, 4.0)
values = torch.stack(
    [
        measures.hankel_singular_values(softmax(64, 4, scale).system(), positions=[31])[0]
        for scale in scales
    ]
)
plot.spectrum(
    values / values[:, :1],
    label="singular value / largest",
    labels=[f"logits x {scale}" for scale in scales],
    title="Hankel block in the middle of 64 tokens",
)
plt.show()
effective = (values > 0.01 * values[:, :1]).sum(dim=-1)
print("states above one per cent:", effective.tolist(), "of 32")
assert effective[0] < effective[1] < effective[2]

# %% [markdown]
# ## Exercises
#
# **1.** How many states does the truncation at order $p$ have for queries of width $m$?

# %% [markdown] tags=["hints"]
# - Count the ways to choose exponents of $m$ variables whose sum is at most $p$.
# - Add one more variable that takes what is left over: then the sum is exactly $p$.
# - That is a binomial coefficient, `math.comb(width + order, order)`.


# %% tags=["solution"]
def states_of_order(width, order):
    """The number of monomials of degree at most ``order`` in ``width`` variables."""
    return math.comb(width + order, order)


# %% tags=["check"]
for width, order in ((1, 5), (3, 2), (4, 3), (6, 0)):
    counted = dsf.mixers.ingredients.monomials(order)(torch.zeros(width)).shape[-1]
    answer = states_of_order(width, order)
    assert close(answer, counted), f"for width {width} and order {order}"
print("exercise 1: right")

# %% [markdown]
# **2.** Build the cache system of a causal map by hand: $A$ as full matrices, $B$ as columns, $C$
# as rows, with shapes `(T, T, T)`, `(T, T, 1)` and `(T, 1, T)`.

# %% [markdown] tags=["hints"]
# - Nothing is forgotten, so what is $A_t$? Token $t$ writes into place $t$, so what is $B_t$?
# - $A_t = I$, $B_t = e_t$, and $C_t$ is row $t$ of the map.
# - `torch.eye(T)` gives all of them: `expand(T, -1, -1)` for A, `unsqueeze(-1)` for B; C is
#   `map.unsqueeze(-2)`.


# %% tags=["solution"]
def cache(map):
    """A, B and C of the system whose state has a place for every token."""
    identity = torch.eye(len(map))
    return identity.expand(len(map), -1, -1), identity.unsqueeze(-1), map.unsqueeze(-2)


# %% tags=["check"]
A, B, C = cache(map[:5, :5])
built = dsf.System(dsf.systems.transition.Dense(A), B, C)
assert built.state_size == 5, f"a cache of 5 tokens has 5 states, yours {built.state_size}"
assert close(dsf.attention_map(built), map[:5, :5]), "your system has another map"
assert close(A, torch.eye(5).expand(5, -1, -1)), "a cache forgets nothing: every A is I"
print("exercise 2: right")

# %% [markdown]
# **3.** Write the rank profile of a map: the numerical rank of every Hankel block `map[t+1:,
# :t+1]`, counting singular values above `1e-10` times the largest of *all* blocks.

# %% [markdown] tags=["hints"]
# - The singular values of one block are `torch.linalg.svdvals(map[t + 1 :, : t + 1])`.
# - Find the largest singular value of all blocks first; then count in every block.


# %% tags=["solution"]
def profile(map):
    """The ranks of all Hankel blocks, T - 1 whole numbers."""
    values = [torch.linalg.svdvals(map[t + 1 :, : t + 1]) for t in range(len(map) - 1)]
    largest = max(block.max() for block in values)
    return torch.stack([(block > 1e-10 * largest).sum() for block in values])


# %% tags=["check"]
for name, tested in (("softmax", map), ("linear", dsf.attention_map(linear.system()))):
    expected, got = measures.hankel_ranks(tested), profile(tested)
    assert got.shape == expected.shape, (
        f"{name}: needs {len(expected)} ranks, not {tuple(got.shape)}"
    )
    assert close(got, expected), f"the ranks of {name} attention"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - At a fixed length softmax attention has a finite state; the smallest has $\lfloor T/2 \rfloor$
#   entries for generic queries and keys. Over all lengths no finite state suffices.
# - Truncated series are linear attention with more features; odd orders can go wrong.
# - Hankel singular values say how many states a *given* map needs, and how much each one matters.
#
# **Further reading:** Sieber et al. 2024 (arXiv:2405.15731); Dewilde & van der Veen 1998,
# *Time-varying systems and computations*, on minimal realisations.
