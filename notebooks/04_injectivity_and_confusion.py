# %% [markdown]
# # 4. Injectivity and confusion
#
# Two different queries that get the same row of weights get the same answer, whatever the values
# are. Han et al. 2024 call this **confusion** and ask which attentions avoid it. The question is
# exact, so the answers can be proved.
#
# For keys $K \in \mathbb R^{N \times d}$ (all of them in reach) write a row as a function of its
# query:
#
# $$S_K(q) = \mathrm{softmax}(K q), \qquad
# L_K(q)_j = \frac{\phi(q)^\top \phi(k_j)}{\sum_s \phi(q)^\top \phi(k_s)}, \qquad
# \mathrm{InL}_K(q)_j = \phi(q)^\top \phi(k_j) - \tfrac1N \sum_s \phi(q)^\top \phi(k_s) + \tfrac1N .$$
#
# **You will learn** when each of them is one-to-one, how to construct confused queries, what a
# causal mask does to the theorem, and why "full rank" is a statement about stored numbers only.

# %%
import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.mixers.ingredients import elu_plus_one, identity, relu
from dsf.report import plot

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)
N, D = 40, 8
key = torch.randn(N, D, generator=rng)
query = torch.randn(D, generator=rng)


def softmax_row(q):
    return torch.softmax(q @ key.mT / D**0.5, dim=-1)


def linear_row(q, phi=elu_plus_one):
    scores = phi(q) @ phi(key).mT
    return scores / scores.sum(dim=-1, keepdim=True)


def in_line_row(q, phi=identity):
    scores = phi(q) @ phi(key).mT * D**-0.5 / N
    return scores - scores.mean(dim=-1, keepdim=True) + 1 / N


# %% [markdown]
# ## Softmax: a rank decides
#
# $S_K(p) = S_K(q)$ means that $K p$ and $K q$ differ by a constant (softmax forgets constants): $K
# (p - q) = c\,\mathbf 1$. A non-zero solution exists exactly when the columns of $[K, \mathbf 1]$
# are dependent. So
#
# $$S_K \text{ is one-to-one} \iff \operatorname{rank}\, [K, \mathbf 1] = d + 1 .$$
#
# Rank is decided in whole numbers: every float is an integer times a power of two. A determinant
# that is a unit modulo a prime is not zero, so a proof takes milliseconds.

# %% tags=["proved"]
certificate = dsf.certify.injective(key, first_row=N - 1)
print(certificate)
print("evidence, rows:", certificate.evidence["rows"])
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# ## Linear attention: always confused
#
# $L_K$ depends on $\phi(q)$ up to a positive factor. With $d$ features a row depends on a
# *direction*, $d - 1$ numbers, and no continuous map squeezes $\mathbb R^d$ into $\mathbb R^{d-1}$
# one-to-one. For every usual feature map the twin of a query can be written down: solve $\phi(p) =
# \lambda \phi(q)$.
#
# | feature map $\phi$ | twin $p$ |
# |---|---|
# | identity, ReLU | $\lambda q$ |
# | $\exp$ | $q + \ln\lambda \cdot \mathbf 1$ |
# | $\mathrm{elu} + 1$ | with $y = \lambda\phi(q)$: $\;y - 1$ where $y > 1$, else $\ln y$ |
# | softplus | $\ln(e^{\lambda\,\mathrm{softplus}(q)} - 1)$ |

# %%
twin = measures.colliding_query(query, feature_map="elu_plus_one", factor=2.5)
for name, row in (("linear", linear_row), ("softmax", softmax_row), ("InLine", in_line_row)):
    print(f"{name:8} rows differ by {(row(twin) - row(query)).abs().max().item():.1e}")
assert torch.allclose(linear_row(twin), linear_row(query), atol=1e-14)
assert not torch.allclose(softmax_row(twin), softmax_row(query))

# %% tags=["refuted"]
certificate = dsf.certify.linear_injective(key, feature_map="elu_plus_one")
print(certificate)
print("a pair of queries as exact fractions:", certificate.witness["query"][0], "...")
print("                                 and:", certificate.witness["other"][0], "...")
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# The proof needs *at most $d$ features*. With more it can be otherwise: the positive features
# $\phi(x) = [e^x, e^{-x}]$ have an explicit inverse.
#
# How this is decided: `python -m papers INL-4`.

# %% [markdown]
# ## InLine: subtract instead of divide
#
# InLine attention normalises by a *difference*. Rows still sum to one, the scale of $\phi(q)$ is
# kept, and weights may be negative. If $\phi$ is one-to-one and $\operatorname{rank}[\phi(K),
# \mathbf 1] = d+1$, so is the row.
#
# How this is decided: `python -m papers INL-6 INL-9`.

# %% [markdown]
# "If $\phi$ is one-to-one" is not decoration. ReLU is not: change negative coordinates of a query
# and nothing moves, not even in the last bit.
#
# How this is decided: `python -m papers INL-25`.

# %% [markdown]
# ## Counting confusions
#
# Draw queries along a few directions with different lengths, and compare for every pair the
# distance of the rows with the distance of the queries. Confused pairs pile up at zero.

# %%
directions = torch.randn(12, D, generator=rng)
chosen = torch.randint(0, 12, (90,), generator=rng)
queries = directions[chosen] * (0.3 + 1.7 * torch.rand(90, 1, generator=rng))
rows = {
    "softmax": softmax_row(queries),
    "linear, ReLU": linear_row(queries, relu),
    "linear, elu + 1": linear_row(queries),
    "InLine": in_line_row(queries),
}
grid = plot.panels(1, 4, size=(13, 2.6))
for axes, (name, weights) in zip(grid, rows.items(), strict=True):
    ratios = measures.distance_ratios(weights, queries)
    plot.draw(measures.distance_ratios, ratios / ratios.max(), title=name, axes=axes)
    axes.set(xlabel="distance of rows / of queries\n(share of the largest)", xlim=(0, 1))
plt.show()

counts = {
    name: measures.confusions(weights, queries, weights_within=0.02, relative=True)
    for name, weights in rows.items()
}
print("confused pairs, relative threshold:", counts)
assert counts["linear, ReLU"] > 10 * max(counts["softmax"], counts["InLine"])

# %% [markdown]
# A caution about such counts: they depend on the queries (Gaussian ones are never confused), and an
# *absolute* threshold rewards flat maps. The relative threshold measures rows against their spread.
#
# ## Locally: the rank of the Jacobian
#
# If the Jacobian of $q \mapsto$ row has rank below $d$, some direction of the query is invisible
# near $q$. For linear attention with $d$ features there always is one: the direction that scales
# $\phi$.

# %%
points = torch.randn(3, D, generator=rng)
for name, row in (("softmax", softmax_row), ("linear", linear_row), ("InLine", in_line_row)):
    print(f"{name:8} ranks {measures.jacobian_rank(row, points).tolist()} of {D}")
assert measures.jacobian_rank(linear_row, points).tolist() == [D - 1] * 3

# %% [markdown]
# ## A causal mask breaks the theorem for early rows
#
# Row $t$ of causal attention sees $t$ keys. Fewer than $d + 1$ keys cannot tell $d$-dimensional
# queries apart: the first $d$ rows are *never* one-to-one, the first row is constant.

# %% tags=["refuted"]
early = dsf.certify.injective(key, first_row=2)
late = dsf.certify.injective(key)
print(early)
print(late)
assert early.verdict is dsf.certify.Verdict.REFUTED
assert late.verdict is dsf.certify.Verdict.PROVED
*direction, _ = map(float, early.witness["null"])
direction = torch.tensor(direction) / max(abs(value) for value in direction)
seen = key[:3] @ direction
print("moving along it changes the three scores by", seen.tolist())
assert torch.allclose(seen, seen[0].expand(3))

# %% [markdown]
# ## Exact rank alone misleads
#
# Keys of rank two, computed in floating point: rounding makes their exact rank full. The claim
# about the *stored* numbers is true and useless. Ask instead for every matrix within the rounding
# error of the one that is stored: `Level.REAL`, decided by a certified smallest singular value.

# %%
narrow = torch.randn(N, 2, generator=rng) @ torch.randn(2, D, generator=rng)
rounding = 1e-14 * narrow.norm().item()
stored = dsf.certify.injective(narrow, first_row=N - 1)
meant = dsf.certify.injective(
    narrow, first_row=N - 1, level=dsf.certify.Level.REAL, uncertainty=rounding
)
print(stored)
print(meant)
assert stored.verdict is dsf.certify.Verdict.PROVED
assert meant.verdict is dsf.certify.Verdict.UNKNOWN

# %% [markdown]
# ## Exercises
#
# **1.** Write the twin of a query for the feature map $\phi(x) = \ln(1 + e^x)$, softplus.

# %% [markdown] tags=["hints"]
# - Rows depend on the features up to a positive factor, so invert softplus.
# - $\ln(1 + e^p) = f\, \ln(1 + e^q)$ gives $e^p = e^{f \ln(1 + e^q)} - 1$.
# - `torch.expm1` keeps the digits; then take the logarithm.


# %% tags=["solution"]
def softplus_twin(q, factor):
    """A query whose softplus features are ``factor`` times those of ``q``."""
    return torch.expm1(factor * torch.nn.functional.softplus(q)).log()


# %% tags=["check"]
p = softplus_twin(query, 3.0)
softplus = torch.nn.functional.softplus
assert (p - query).abs().max() > 0.1, "that is the same query"
assert close(softplus(p), 3 * softplus(query)), "its features are not three times those of q"
assert close(linear_row(p.to(query), softplus), linear_row(query, softplus)), "the rows differ"
print("exercise 1: right")

# %% [markdown]
# **2.** Give a direction in which a query can move without changing a causal softmax row over few
# keys ($t \le d$ of them): a non-zero $x$ with $K x = c\,\mathbf 1$.

# %% [markdown] tags=["hints"]
# - If all scores move alike, differences of scores do not move.
# - So $x$ has to be orthogonal to every `keys[j] - keys[0]`: a null vector of that matrix.
# - The last row of `Vh` from `torch.linalg.svd(differences, full_matrices=True)` is one, of
#   length one.


# %% tags=["solution"]
def invisible(keys):
    """A unit vector (d,) that changes all scores of ``keys`` (t, d) alike."""
    differences = keys[1:] - keys[:1]
    return torch.linalg.svd(differences, full_matrices=True).Vh[-1]


# %% tags=["check"]
few = key[:5]
x = invisible(few)
assert x.shape == (D,), f"a direction of queries has {D} entries, not {tuple(x.shape)}"
assert close(x.norm(), 1), "give a unit vector"
before, after = torch.softmax(few @ query, dim=0), torch.softmax(few @ (query + 2 * x), dim=0)
assert close(before, after), f"the row changes by {(before - after).abs().max():.2g}"
print("exercise 2: right")

# %% [markdown]
# **3.** Get the query back: from an InLine row with identity features (and keys with
# $\operatorname{rank} [K, \mathbf 1] = d + 1$), compute $q$. That is the proof of injectivity as a
# program.

# %% [markdown] tags=["hints"]
# - The row is affine in $q$: $\tfrac1N$ plus centred keys times $q$.
# - Subtract $\tfrac1N$, then solve a least-squares problem with the matrix of centred keys.
# - Do not forget the factor that `in_line_row` has in front of its scores.


# %% tags=["solution"]
def query_of(row):
    """The query behind an InLine row over ``key``."""
    centred = (key - key.mean(dim=0)) * D**-0.5 / N
    return torch.linalg.lstsq(centred, (row - 1 / N).unsqueeze(-1)).solution.squeeze(-1)


# %% tags=["check"]
for number in range(3):
    wanted = torch.randn(D, generator=rng)
    found = query_of(in_line_row(wanted))
    assert found.shape == (D,), f"a query has {D} entries, not {tuple(found.shape)}"
    assert close(found, wanted), f"query {number} is recovered as another"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - Softmax rows are one-to-one iff $\operatorname{rank}[K, \mathbf 1] = d+1$; causal rows from
#   token $d + 1$ on only.
# - Normalised linear attention with at most $d$ features confuses queries, always; more features
#   may save it.
# - Injective in $q$ is not injective in the token: a projection to fewer dimensions also confuses.
#
# **Further reading:** Han et al. 2024, *Bridging the divide: reconsidering softmax and linear
# attention* (arXiv:2412.06590).
