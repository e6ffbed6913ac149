# %% [markdown]
# # 3. Linear and normalised attention
#
# Replace $e^{q^\top k}$ by $\phi(q)^\top \phi(k)$ and the sum over the past can be kept in a state
# of fixed size. What to divide by is then a choice, and this notebook is about that choice.
#
# | layer | weight $a_{ij}$ | normaliser |
# |---|---|---|
# | linear attention | $\phi(q_i)^\top\phi(k_j)/\eta_i$ | $\eta_i = \sum_{s \le i} \phi(q_i)^\top \phi(k_s)$ |
# | normalised attention | $q_i^\top k_j/\eta_i$ | $\eta_i = g(w^\top u_i)$, the current token only |
#
# **You will learn** where the normaliser is in the system, why neither layer forgets, why the
# rank of a causal map is *not* its state, and what a decay would change.

# %%
import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.mixers.ingredients import elu_plus_one
from dsf.report import plot

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)
T, N, P = 20, 4, 3
query, key = torch.randn(2, T, N, generator=rng)
value = torch.randn(T, P, generator=rng)


# %% [markdown]
# ## Linear attention: two running sums
#
# With $S_t = \sum_{j \le t} \phi(k_j) v_j^\top$ and $z_t = \sum_{j \le t} \phi(k_j)$
#
# $$o_t = \frac{S_t^\top \phi(q_t)}{z_t^\top \phi(q_t)} .$$
#
# $z_t$ depends on keys only, not on the values that are mixed, so given queries and keys it is part
# of the *coefficients*:
#
# $$A_t = I, \qquad B_t = \phi(k_t), \qquad C_t = \phi(q_t)^\top / \eta_t .$$

# %%
linear = dsf.mixers.LinearAttention(query=query, key=key, value=value)
system = linear.system()
read, write = elu_plus_one(query), elu_plus_one(key)

S, z, rows = torch.zeros(N, P), torch.zeros(N), []
for q, k, v in zip(read, write, value, strict=True):
    S, z = S + torch.outer(k, v), z + k
    rows.append(S.mT @ q / (z @ q))
torch.testing.assert_close(torch.stack(rows), dsf.respond(system, linear.signal()).squeeze(-2))
map = dsf.attention_map(system)
print(system)

# %% [markdown]
# Rows sum to one and, as $\phi = \mathrm{elu} + 1 > 0$, no weight is negative: linear attention
# averages, like softmax. Sums of rounded numbers are off by a rounding error, so the claim has a
# tolerance; the sums themselves are exact.

# %% tags=["proved"]
for certificate in (
    dsf.certify.row_sums(map, target=1.0, tolerance=1e-14),
    dsf.certify.nonnegative(map),
):
    print(certificate)
    assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# ## Two ways to place the normaliser
#
# The DSF paper writes the same layer with $A_t = \frac{\eta_{t-1}}{\eta_t} I$ and $B_t = \phi(k_t)
# / \eta_t$: the state is kept normalised. The product of the $A$'s telescopes,
# $\frac{\eta_{t-1}}{\eta_t} \cdots \frac{\eta_j}{\eta_{j+1}} \frac{1}{\eta_j} = \frac{1}{\eta_t}$.
# Same map; but the eigenvalues of $A_t$ are now ratios of normalisers, some above one.

# %%
eta = (read * write.cumsum(dim=0)).sum(dim=-1)
ratio = torch.cat([torch.ones(1), eta[:-1] / eta[1:]])
separable = dsf.System.from_write_and_read(
    dsf.systems.transition.ScaledIdentity(ratio, N), write / eta[:, None], read
)
print("ratios from", ratio.min().item(), "to", ratio.max().item())
certificate = dsf.certify.equivalent(system, separable, tolerance=1e-12)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# One equation of the paper prints $\eta_{t-1}$ instead of $\eta_t$ in $B_t$, a misprint; its
# Appendix B and Section 4.2 have the right index. One index makes another layer:

# %% tags=["refuted"]
before = torch.cat([eta[:1], eta[:-1]])
printed = dsf.System.from_write_and_read(
    dsf.systems.transition.ScaledIdentity(ratio, N), write / before[:, None], read
)
certificate = dsf.certify.equivalent(system, printed, tolerance=0.01)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# How this is decided: `python -m papers DSF-2`.

# %% [markdown]
# ## Normalised attention
#
# Let the normaliser be any positive function of the current token, $\eta_t = g(x_t)$ with $g =
# \exp$, softplus or sigmoid. No sum over the past is needed, scores may be negative, and rows sum
# to whatever they sum to.

# %%
x = torch.randn(T, generator=rng)
normalised = dsf.mixers.NormalisedAttention(query=query, key=key, value=value, normaliser=x.exp())
plot.heat_maps(
    {
        "linear attention": map,
        "normalised attention": dsf.attention_map(normalised.system()),
    }
)
plt.show()
sums = torch.stack([measures.row_sums(map), measures.row_sums(normalised.system())])
plot.draw(measures.row_sums, sums, labels=["linear", "normalised"])
plt.show()

# %% [markdown]
# Is $\eta$ a forget factor? It acts at the output: it is a gain of the query, the same for all
# keys. Nothing depends on the lag.
#
# How this is decided: `python -m papers DSF-18`.

# %% [markdown]
# ### Neither of them forgets
#
# Repeat one token. Without decay a layer weighs all copies alike; with decay the old ones fade.

# %%
same_q, same_k = query[:1].expand(T, N), key[:1].expand(T, N)
fading = dsf.mixers.Retention(query=same_q, key=same_k, value=value, decay=torch.tensor(0.8))
still = dsf.mixers.LinearAttention(query=same_q, key=same_k, value=value)
rows = torch.stack([dsf.attention_map(each.system())[-1] for each in (fading, still)])
plot.per_token(
    rows / rows.amax(dim=-1, keepdim=True),
    label="weight / largest of the row",
    labels=["decay 0.8", "linear attention"],
    x="key",
    title="weights of the last query on 20 equal tokens",
)
plt.show()
assert torch.allclose(rows[1], rows[1][0].expand(T))

# %% [markdown]
# ## The rank of the map is not the state
#
# Without the causal mask, $\phi(Q)\phi(K)^\top$ has rank $N$. Masking makes it full rank. What
# measures the state is the rank of the Hankel blocks, which the mask does not touch.

# %%
whole = read @ write.mT
print("rank without mask:", torch.linalg.matrix_rank(whole).item())
print("rank of the map:  ", torch.linalg.matrix_rank(map).item())
print("Hankel ranks:     ", measures.hankel_ranks(map).tolist())
assert torch.linalg.matrix_rank(map) == T
assert measures.hankel_ranks(map).max() == N

# %% [markdown]
# How this is decided: `python -m papers DSF-21`.

# %% [markdown]
# ## Order of the past
#
# With $A = I$ the past is a *bag*: exchange two earlier (key, value) pairs and the last token does
# not notice. That is why linear attention needs positions or convolutions, and decays do not.

# %%
swapped = torch.arange(T)
swapped[[2, 7]] = torch.tensor([7, 2])


def last_response(mixer_class, **parts):
    mixer = mixer_class(query=query, **parts)
    return dsf.respond(mixer.system(), mixer.signal())[-1]


for name, mixer_class, extra in (
    ("linear attention", dsf.mixers.LinearAttention, {}),
    ("retention, decay 0.8", dsf.mixers.Retention, {"decay": torch.tensor(0.8)}),
):
    one = last_response(mixer_class, key=key, value=value, **extra)
    other = last_response(mixer_class, key=key[swapped], value=value[swapped], **extra)
    print(f"{name:22} changes by {(one - other).abs().max().item():.1e}")

# %% [markdown]
# ## Exercises
#
# **1.** Compute all normalisers of linear attention at once, without a loop and without a $T \times
# T$ matrix.

# %% [markdown] tags=["hints"]
# - $\eta_i = \phi(q_i)^\top \sum_{s \le i} \phi(k_s)$: the sum does not depend on the query.
# - The running sum over tokens is `write.cumsum(dim=0)`; multiply by `read` and sum over the
#   features.


# %% tags=["solution"]
def normalisers(read, write):
    """The sums of scores in reach, (T,), from features of queries and keys (T, N)."""
    return (read * write.cumsum(dim=0)).sum(dim=-1)


# %% tags=["check"]
found = normalisers(read, write)
assert found.shape == (T,), f"one normaliser for every token, not {tuple(found.shape)}"
literal = torch.stack([sum(read[i] @ write[j] for j in range(i + 1)) for i in range(T)])
assert close(found, literal), "the first token in reach is token 0, the last one is i"
print("exercise 1: right")

# %% [markdown]
# **2.** Write normalised attention as the separable system: decays $\eta_{t-1}/\eta_t$ (the first
# one is 1), write vectors and read vectors.

# %% [markdown] tags=["hints"]
# - Write $q_i^\top k_j / \eta_i$ as a product of three factors: one of $i$, one of $j$, and
#   ratios in between.
# - $\frac1{\eta_i} = \frac1{\eta_j} \cdot \frac{\eta_j}{\eta_{j+1}} \cdots
#   \frac{\eta_{i-1}}{\eta_i}$.
# - So write $k_j / \eta_j$, read $q_i$, and put a one in front of `normaliser[:-1] /
#   normaliser[1:]`.


# %% tags=["solution"]
def separable_form(query, key, normaliser):
    """Decays (T,), write vectors (T, N) and read vectors (T, N)."""
    decays = torch.cat([torch.ones(1), normaliser[:-1] / normaliser[1:]])
    return decays, key / normaliser[:, None], query


# %% tags=["check"]
decays, writes, reads = separable_form(query, key, x.exp())
form = dsf.System.from_write_and_read(
    dsf.systems.transition.ScaledIdentity(decays, N), writes, reads
)
expected = dsf.attention_map(normalised.system())
assert close(dsf.attention_map(form), expected), "which index has the normaliser in B?"
assert not close(decays, torch.ones(T)), "the decays have to be ratios of normalisers"
print("exercise 2: right")

# %% [markdown]
# **3.** Find a query that linear attention with features $\mathrm{elu} + 1$ cannot tell from $q$:
# the row depends on $\phi(q)$ up to a positive factor only. (Notebook 4 makes a theory of it.)

# %% [markdown] tags=["hints"]
# - Look for a query whose features are exactly twice those of $q$.
# - Invert $\phi(x) = y$: above 1 it is $x + 1$, below it is $e^x$.
# - `torch.where(y > 1, y - 1, y.log())` with `y = 2 * elu_plus_one(q)`.


# %% tags=["solution"]
def twin(q):
    """Another query whose features are twice those of ``q``."""
    scaled = 2 * elu_plus_one(q)
    return torch.where(scaled > 1, scaled - 1, scaled.log())


# %% tags=["check"]
q = torch.tensor([0.3, -1.2, 0.0, 2.0])
other = twin(q)
assert (other - q).abs().max() > 0.1, "that is the same query"
scores = torch.stack([elu_plus_one(part) @ write.mT for part in (q, other.to(q))])
rows = scores / scores.sum(dim=-1, keepdim=True)
assert close(rows[0], rows[1]), f"the rows differ by {(rows[0] - rows[1]).abs().max():.2g}"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - A normaliser that does not depend on values belongs to $C$ (or, in another choice of states, to
#   $A$ and $B$ together). It is a gain, not a decay.
# - $A = I$: nothing is forgotten and the order of the past is lost.
# - States are counted in Hankel blocks, not in the rank of the masked map.
#
# **Further reading:** Katharopoulos et al. 2020 (arXiv:2006.16236); Sieber et al. 2024
# (arXiv:2405.15731).
