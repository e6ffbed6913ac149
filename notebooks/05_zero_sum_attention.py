# %% [markdown]
# # 5. Zero-sum attention
#
# Softmax averages: weights are positive and sum to one. An average cannot *compare*; the difference
# $v_1 - v_2$ of two tokens is out of its reach. Lu et al. 2025 (ZeroS) take the constant part out
# of softmax and weigh the rest anew.
#
# Over $t$ tokens with logits $s_i$, mean $\bar s$, and $\delta_i = s_i - \bar s$:
#
# $$\mathrm{softmax}(s)_i = \underbrace{\tfrac1t}_{\text{zero order}} +
# \underbrace{\tfrac{\delta_i}{t}}_{\text{first}} +
# \underbrace{\varepsilon_i}_{\text{higher}}, \qquad
# w_i = \sigma^1 \tfrac{\delta_i}{t} + \sigma^h \varepsilon_i, \qquad \sum_i w_i = 0 .$$
#
# **You will learn** what signed weights can say, how the layer runs in linear time with a state of
# $3 d_k$ entries, and which of the claims made about it hold.

# %%
import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.report import plot

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)


# %% [markdown]
# ## Three orders of one row

# %%
T = 32
logit = torch.randn(T, generator=rng)
deviation = logit - logit.mean()
zero, first = torch.full((T,), 1 / T), deviation / T
higher = torch.softmax(logit, dim=0) - zero - first
plot.per_token(
    torch.stack([zero, first, higher]),
    label="weight",
    labels=["zero order", "first order", "higher orders"],
    title="what softmax is made of",
)
plt.show()
assert abs(first.sum()) < 1e-15
assert abs(higher.sum()) < 1e-15

# %% [markdown]
# The parts shrink at different rates when the logits do: the first order like $|\delta|$, the rest
# like $|\delta|^2$. Halve the logits and the error of stopping early falls by 4 or by 8:

# %%
scales = 0.4 * 0.5 ** torch.arange(6)
after_first, after_second = [], []
for scale in scales:
    d = scale * deviation
    rest = torch.softmax(d, dim=0) - 1 / T - d / T
    second = (d.square() - d.square().mean()) / (2 * T)
    after_first.append(rest.norm().item())
    after_second.append((rest - second).norm().item())
plot.curves(
    scales,
    {"after the first order": after_first, "after the second": after_second},
    x_label="scale of the logits",
    y_label="what is left (l2)",
    logarithmic="xy",
)
plt.show()
slopes = [torch.tensor(left).log2().diff().neg()[-1].item() for left in (after_first, after_second)]
print("slopes:", slopes)
assert abs(slopes[0] - 2) < 0.1
assert abs(slopes[1] - 3) < 0.1

# %% [markdown]
# Stopping after the first order with both gates at one is InLine attention of notebook 4; putting
# the zero order back and all gates at one is softmax: one expansion, three layers.

# %% [markdown]
# ## The layer
#
# `ZeroSumAttention` takes one logit and two gates for every token. Without queries and keys the
# weights are the *radial* ones above, and every row sums to zero.

# %%
gates = torch.rand(2, T, generator=rng)
value = torch.randn(T, 3, generator=rng)
radial = dsf.mixers.ZeroSumAttention(
    value=value, logit=2 * logit, first_order=gates[0], higher_order=gates[1]
)
map = dsf.attention_map(radial.system())

# %% tags=["proved"]
certificate = dsf.certify.zero_sums(map, tolerance=1e-14)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# How this is decided: `python -m papers ZER-1`.

# %% [markdown]
# The full layer multiplies by the cosine of query and key, $o_t = \sum_i w_{ti}\, (\hat q_t^\top
# \hat k_i)\, v_i$. "Both r_{t,i} and cos θ are centered values, preserving zero-sum properties in
# the weights r_{t,i} cos θ", says the paper. A product of centred things need not be centred:

# %% tags=["refuted"]
query, key = torch.randn(2, T, 4, generator=rng)
full = dsf.mixers.ZeroSumAttention(
    query=query,
    key=key,
    value=value,
    logit=2 * logit,
    first_order=gates[0],
    higher_order=gates[1],
)
full_map = dsf.attention_map(full.system())
certificate = dsf.certify.zero_sums(full_map, tolerance=0.01)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# How this is decided: `python -m papers ZER-17`.

# %%
plot.heat_maps({"radial: rows sum to zero": map, "with the angle: they do not": full_map})
plt.show()
sums = torch.stack([measures.row_sums(map), measures.row_sums(full_map)])
plot.draw(measures.row_sums, sums, labels=["radial", "with the angle"], target=0.0)
plt.show()

# %% [markdown]
# ## What signed weights reach
#
# Take two tokens. Softmax gives a point *between* $v_1$ and $v_2$. Zero-sum weights of two tokens
# are $(w, -w)$: a multiple of the difference. With gates $0.9$ and $0.1$ a logit gap of $4.754$
# makes it $v_1 - v_2$ itself.


# %%
def weight_of_first(gap, first_order=0.9, higher_order=0.1):
    pair = torch.tensor([gap, 0.0])
    layer = dsf.mixers.ZeroSumAttention(
        value=torch.zeros(2, 1),
        logit=pair,
        first_order=torch.full((2,), first_order),
        higher_order=torch.full((2,), higher_order),
    )
    return dsf.attention_map(layer.system())[-1, 0].item()


gaps = torch.linspace(0, 6, 25)
plot.curves(
    gaps,
    {
        "ZeroS, gates 0.9 and 0.1": [weight_of_first(gap) for gap in gaps.tolist()],
        "ZeroS, gates 0.3 and 0.7": [weight_of_first(gap, 0.3, 0.7) for gap in gaps.tolist()],
        "softmax less 1/2": torch.sigmoid(gaps) - 0.5,
    },
    x_label="logit gap",
    y_label="weight of the first token",
)
plt.show()

# %% [markdown]
# How this is decided: `python -m papers ZER-19`.

# %% [markdown]
# The dashed curve returns to zero: with the higher orders above the first, *two* gaps give the same
# weights.
#
# How this is decided: `python -m papers ZER-10`.

# %% [markdown]
# Taking $1/t$ off a softmax row gives zero-sum combinations (ZER-7, which the paper states), but no
# more of them than softmax gives deviations: for two tokens the weights stay within $\pm\frac12$
# (dotted). So the subtraction alone enlarges nothing; what enlarges the set, as the corollary
# concludes, are two gates that differ (ZER-9).
#
# How this is decided: `python -m papers ZER-7 ZER-27`.

# %% [markdown]
# ## Dilution
#
# With bounded logits, $|s| \le S$, every softmax weight lies between $e^{-2S}/t$ and $e^{2S}/t$:
# the longer the context, the smaller each weight, and a fixed share of the row's energy stays in
# its useless uniform part, $\frac{1}{t\,\lVert a \rVert^2} \ge e^{-4S}$. Zero-sum rows have none of
# it.

# %%
lengths = (16, 64, 256, 1024)
shares = {"softmax": [], "zero-sum": []}
for length in lengths:
    s = torch.randn(length, generator=rng)
    row = torch.softmax(s, dim=0)
    rest = row - 1 / length
    for name, weights in (("softmax", row), ("zero-sum", rest)):
        shares[name].append((weights.sum() ** 2 / (length * weights.square().sum())).item())
plot.curves(
    lengths,
    shares,
    x_label="tokens",
    y_label="uniform share of the energy",
    logarithmic="x",
)
plt.show()

# %% [markdown]
# ## A state of three sums
#
# Write the weights as $w_i = a\, e^{s_i} + b\, s_i + c$. Then three running sums are enough, each
# of the size of a linear attention state:
#
# $$F = \sum_i e^{s_i} \hat k_i v_i^\top, \quad G = \sum_i s_i \hat k_i v_i^\top, \quad
# H = \sum_i \hat k_i v_i^\top, \qquad o_t = (a_t F + b_t G + c_t H)^\top \hat q_t .$$

# %%
print(radial.system())
print(full.system())
for name, layer, bound in (("radial", radial, 3), ("full", full, 3 * 4)):
    needed = measures.hankel_ranks(layer.system()).max().item()
    print(f"{name}: needs {needed} states, {bound} promised")
    assert needed <= bound

# %% [markdown]
# $e^{s}$ overflows. Scaling $F$ by the running maximum of the logits is a change of state basis
# ($A_t \ne I$ for the first block only) and keeps the layer causal; the maximum of the *whole*
# sequence would let a late token change the rounding of earlier ones.
#
# ## Is it as stable as softmax?
#
# For bounded logits, the hypothesis of the paper's lemma, it is. Without that hypothesis the
# first-order part grows, since it is *linear* in the logits, while a softmax response never leaves
# the convex hull of the values.
#
# How this is decided: `python -m papers ZER-15 ZER-39`.

# %% [markdown]
# ## Exercises
#
# **1.** Write one zero-sum row.

# %% [markdown] tags=["hints"]
# - First the deviation $\delta = s - \bar s$, then $\varepsilon$ as what is left of softmax.
# - $\varepsilon_i = \mathrm{softmax}(s)_i - \frac1t - \frac{\delta_i}{t}$.
# - The row is `first_order * deviation / t + higher_order * higher`.


# %% tags=["solution"]
def zero_sum_row(logit, first_order, higher_order):
    """The weights over all tokens of ``logit`` (t,), from two gates (numbers)."""
    t = len(logit)
    deviation = logit - logit.mean()
    higher = torch.softmax(logit, dim=0) - 1 / t - deviation / t
    return first_order * deviation / t + higher_order * higher


# %% tags=["check"]
row = zero_sum_row(2 * logit, gates[0, -1], gates[1, -1])
assert row.shape == (T,), f"a row over {T} tokens has {T} weights, not {tuple(row.shape)}"
assert close(row.sum(), 0), "the weights have to sum to zero"
assert close(row, map[-1]), "the sum is right, the weights are not"
print("exercise 1: right")

# %% [markdown]
# **2.** Write the coefficients of the scan: $a$, $b$ and $c$ with $w_i = a\, e^{s_i} + b\, s_i +
# c$.

# %% [markdown] tags=["hints"]
# - Put the row of exercise 1 in order: what multiplies $e^{s_i}$, what multiplies $s_i$, what
#   is the same for all?
# - $\mathrm{softmax}(s)_i = e^{s_i} / \sum_j e^{s_j}$, so $a = \sigma^h / \sum_j e^{s_j}$, and
#   $b = (\sigma^1 - \sigma^h)/t$.
# - $c = -\sigma^h/t - (\sigma^1 - \sigma^h)\, \bar s / t$.


# %% tags=["solution"]
def scan_coefficients(logit, first_order, higher_order):
    """(a, b, c) for the last of the tokens of ``logit`` (t,)."""
    t = len(logit)
    a = higher_order / logit.exp().sum()
    b = (first_order - higher_order) / t
    c = -higher_order / t - (first_order - higher_order) * logit.mean() / t
    return a, b, c


# %% tags=["check"]
a, b, c = scan_coefficients(logit, 0.8, 0.3)
wanted = zero_sum_row(logit, 0.8, 0.3)
found = a * logit.exp() + b * logit + c
assert close(found.diff(), wanted.diff()), "a or b is wrong: differences do not match"
assert close(found, wanted), f"c is off by {(wanted - found)[0].item():.3g}"
print("exercise 2: right")

# %% [markdown]
# **3.** Find the logit gap at which two tokens with gates $0.9$ and $0.1$ get the weights $(1,
# -1)$. Solve $w(g) = 1$ where $w(g) = \sigma^1 \frac g4 + \sigma^h(\frac{1}{1+e^{-g}} - \frac12 -
# \frac g4)$.

# %% [markdown] tags=["hints"]
# - $w$ grows with $g$ when $\sigma^1 > \sigma^h$. There is no closed form: search.
# - Bisection: start with 0 and 100, and keep the half in which $w(g) - 1$ changes its sign.


# %% tags=["solution"]
def gap_for_difference(first_order, higher_order):
    """The gap g > 0 at which the first token's weight is 1 (for first_order > higher_order)."""
    low, high = 0.0, 100.0
    for _ in range(80):
        middle = (low + high) / 2
        above_half = torch.sigmoid(torch.tensor(middle)).item() - 0.5
        weight = first_order * middle / 4 + higher_order * (above_half - middle / 4)
        low, high = (middle, high) if weight < 1 else (low, middle)
    return low


# %% tags=["check"]
gap = gap_for_difference(0.9, 0.1)
got = weight_of_first(float(gap))
assert close(got, 1), f"the weight at your gap {gap}"
assert abs(gap - gap_for_difference(0.8, 0.1)) > 0.1, "the gap depends on the gates"
print("exercise 3: right, the gap is", gap)

# %% [markdown]
# ## Summary
#
# - A row that sums to zero compares; a row that sums to one averages. Read signed maps with care:
#   large weights of both signs can cancel.
# - The radial weights sum to zero; the weights of the full layer, with its cosine factor, do not.
# - Linear time costs a state three times that of linear attention, and bounded logits are an
#   assumption, not a detail.
#
# **Further reading:** Lu et al. 2025, *ZeroS: zero-sum linear attention* (arXiv:2602.05230).
