# %% [markdown]
# # 7. Delta rules
#
# Linear attention adds: writing a second value under the same key leaves the sum of both. The
# **delta rule** corrects instead. It reads what the state has stored under $k_t$, and writes the
# error:
#
# $$S_t = S_{t-1} + \beta_t k_t (v_t - S_{t-1}^\top k_t)^\top
# = \underbrace{(I - \beta_t k_t k_t^\top)}_{A_t} S_{t-1} + \underbrace{\beta_t k_t}_{B_t} v_t^\top,
# \qquad o_t = S_t^\top q_t .$$
#
# That is one step of gradient descent on $\frac12 \lVert S^\top k_t - v_t \rVert^2$: the layer
# *learns* the association $k_t \mapsto v_t$ while it reads.
#
# **You will learn** what $A_t$ does to a state, when it is safe, how the map of a delta rule is
# computed by one triangular solve, and what a write strength of two is good for.

# %%
import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.report import plot

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)


def unit(x):
    return x / x.norm(dim=-1, keepdim=True)


# %% [markdown]
# ## A memory that can be corrected
#
# Two keys, four writes: $a \mapsto 1$, $b \mapsto 2$, then $a \mapsto 5$. Ask for $a$ and $b$ at
# the end.

# %%
a, b = torch.eye(3)[:2]
key = torch.stack([a, b, a, torch.eye(3)[2], torch.eye(3)[2]])
query = torch.stack([a, b, a, a, b])
value = torch.tensor([[1.0], [2.0], [5.0], [0.0], [0.0]])
delta = dsf.mixers.DeltaNet(query=query, key=key, value=value, rate=torch.ones(5))
adding = dsf.mixers.LinearAttention(
    query=query, key=key, value=value, feature_map=dsf.mixers.ingredients.identity, normalised=False
)
for name, mixer in (("delta rule", delta), ("adding", adding)):
    answer = dsf.respond(mixer.system(), mixer.signal()).flatten()
    print(f"{name:10} says a = {answer[3].item()}, b = {answer[4].item()}")
assert dsf.respond(delta.system(), delta.signal()).flatten()[3:].tolist() == [5, 2]

# %%
plot.heat_maps(
    {
        "adding": dsf.attention_map(adding.system()),
        "delta rule": dsf.attention_map(delta.system()),
    },
    tokens=["a=1", "b=2", "a=5", "a?", "b?"],
)
plt.show()

# %% [markdown]
# In the map of the delta rule the row "a?" no longer reads "a=1": the later write erased it.
# Erasing one association and keeping the others is not a matter of decay. Among systems with
# *diagonal* transitions only a decay that follows the input can do it (MLA-4); a delta rule is not
# among them:
#
# How this is decided: `python -m papers MLA-42`.

# %% [markdown]
# ## What the transition does
#
# $A = I - \beta k k^\top$ leaves everything orthogonal to $k$ alone and multiplies the direction of
# $k$ by $1 - \beta \lVert k \rVert^2$:
#
# | strength $\beta \lVert k \rVert^2$ | along $k$ | name |
# |---|---|---|
# | 0 | 1 | skip |
# | 1 | 0 | erase, then write |
# | 2 | -1 | reflect (Householder) |
# | > 2 | < -1 | **expand** |
#
# Between 0 and 2 no state grows, whatever the keys: a product of nonexpansive maps is nonexpansive.
# That is a claim about every token, checked exactly, without a rounding error.

# %% tags=["proved"]
T, N = 32, 6
key = torch.randn(T, N, generator=rng)
# the length of a normalised key is one up to rounding, so stay that much below 2
rate = 1.99 * torch.rand(T, generator=rng)
certificate = dsf.certify.nonexpansive(unit(key), rate)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# Keys that nobody normalised break it, and the witness is the token:

# %% tags=["refuted"]
certificate = dsf.certify.nonexpansive(key, rate)
print(certificate)
print("witness:", dict(certificate.witness))
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %%
query, value = torch.randn(T, N, generator=rng), torch.randn(T, 2, generator=rng)
layers = {
    name: dsf.mixers.DeltaNet(query=query, key=keys, value=value, rate=rate)
    for name, keys in (("unit keys", unit(key)), ("raw keys", key))
}
norms = torch.stack([measures.product_norms(layer.system()) for layer in layers.values()])
axes = plot.draw(measures.product_norms, norms, labels=list(layers))
axes.set_yscale("log")
plt.show()
assert (norms[0] <= 1 + 1e-12).all()
assert norms[1].max() > 100

# %% [markdown]
# ## The map by a triangular solve
#
# A product of $T$ Householder-like matrices looks like a job for a loop. But the *error* that is
# written at each token, $e_t = v_t - S_{t-1}^\top k_t$, satisfies
#
# $$e_t = v_t - \sum_{j < t} \beta_j (k_j^\top k_t)\, e_j
# \quad\Longleftrightarrow\quad
# \bigl(I + \mathrm{tril}(K K^\top, -1)\, \mathrm{diag}(\beta)\bigr) E = V ,$$
#
# and $o_t = \sum_{j \le t} \beta_j (q_t^\top k_j) e_j$. So
#
# $$\Phi = \mathrm{tril}(Q K^\top)\, \mathrm{diag}(\beta)\,
# \bigl(I + \mathrm{tril}(K K^\top, -1)\, \mathrm{diag}(\beta)\bigr)^{-1} .$$
#
# Linear attention times the inverse of a unit triangular matrix: first clean the values of what the
# memory knows already, then attend. Fast kernels do this inside each chunk.

# %%
layer = layers["unit keys"]
map = dsf.attention_map(layer.system())
k = unit(key)
cleaning = torch.eye(T) + (k @ k.mT).tril(-1) * rate
by_solve = (query @ k.mT).tril() * rate @ torch.linalg.inv(cleaning)
torch.testing.assert_close(map, by_solve)
print("largest difference:", (map - by_solve).abs().max().item())

# %% [markdown]
# Even with positive scores some entries are negative: subtracting is what "correct" means.

# %% tags=["refuted"]
positive = dsf.mixers.DeltaNet(
    query=query.abs(), key=unit(key.abs()), value=value, rate=rate.clamp(max=1)
)
certificate = dsf.certify.nonnegative(dsf.attention_map(positive.system()))
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## Forgetting as well
#
# The delta rule forgets a key only when it is written again. *Gated* DeltaNet multiplies by
# $e^{g_t} \le 1$ at every token; Kimi Delta Attention gives each coordinate a decay of its own.
# What that does is seen in the weight by lag, without talking about states:

# %%
gated = dsf.mixers.GatedDeltaNet(
    query=query, key=k, value=value, rate=rate, log_decay=torch.full((T,), -0.15)
)
mass = torch.stack([measures.mass_by_lag(each.system()) for each in (layer, gated)])
plot.by_lag(mass, labels=["DeltaNet", "gated, decay 0.86"])
plt.show()
assert measures.half_life(gated.system()) < measures.half_life(layer.system())

# %% [markdown]
# ## Reflections keep count
#
# A layer with positive decays cannot tell an even from an odd number of ones for long; with $\beta
# = 2$ every one *reflects* the state, and the sign is the parity. (This is why rates up to 2, or
# several reflections per token as in DeltaProduct, matter for state tracking.)

# %%
bits = torch.randint(0, 2, (T,), generator=rng)
bits[0] = 1
e = torch.ones(T, 1)
counter = dsf.mixers.DeltaNet(query=e, key=e, value=torch.zeros(T, 1), rate=2.0 * bits).system()
start = dsf.System(counter.A, counter.B, counter.C, initial=torch.ones(1, 1))
sign = dsf.respond(start, torch.zeros(T, 1, 1)).flatten()
parity = bits.cumsum(dim=0) % 2
plot.per_token(sign, label="state", title="parity of the ones so far")
plt.show()
assert torch.equal(sign, (1 - 2 * parity).double())

# %% [markdown]
# ## Does the order of the past matter?
#
# For $A = I$ it does not (notebook 3). With $A \ne I$ it may: in a delta rule the state depends on
# who wrote last.
#
# How this is decided: `python -m papers CDY-1`.

# %% [markdown]
# ## Play
#
# The memory of the beginning, with sliders. Set $\beta$ to 0.5: what does "a?" answer after "a=2"? Set it
# to 2 and look at the state at every write. Then compare with linear attention, which only adds.

# %%
dsf.report.playground("delta_net", rate=1.0)

# %% [markdown]
# A trained model with the gated delta rule (two of its three layers). Cool cells subtract.

# %%
import transformers

from dsf.models import folder, recall

transformers.logging.set_verbosity_error()
prompt = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
trained = dsf.inspect(folder("qwen3_next"), input_ids=prompt, tokens=[recall.spell(prompt[0])])
dsf.show(trained)

# %% [markdown]
# ## Exercises
#
# **1.** Write the delta rule as its papers do: read, compare, correct.

# %% [markdown] tags=["hints"]
# - One token has three lines: what is stored under $k_t$, by how much is it wrong, write the
#   error.
# - `error = v - state.mT @ k_t`, then add `beta * torch.outer(k_t, error)`.
# - The response reads the state *after* the write: `state.mT @ q`.


# %% tags=["solution"]
def delta_rule(query, key, value, rate):
    """Responses (T, P), token by token."""
    state = torch.zeros(key.shape[-1], value.shape[-1])
    responses = []
    for q, k_t, v, beta in zip(query, key, value, rate, strict=True):
        error = v - state.mT @ k_t
        state = state + beta * torch.outer(k_t, error)
        responses.append(state.mT @ q)
    return torch.stack(responses)


# %% tags=["check"]
found = delta_rule(query, k, value, rate)
wanted = map @ value
assert found.shape == wanted.shape, f"needs {tuple(wanted.shape)}, not {tuple(found.shape)}"
assert close(found[0], wanted[0]), "the first token reads the state after its own write"
assert close(found, wanted), "the first token is right: what does the second one correct?"
print("exercise 1: right")

# %% [markdown]
# **2.** With a raw key $k$ (any length), which rate erases exactly what is stored under $k$,
# so that afterwards $S^\top k = v$?

# %% [markdown] tags=["hints"]
# - Ask for $k$ right after the write: $S^\top k$ has moved by $\beta \lVert k \rVert^2$ times
#   the error.
# - All of the error is corrected if $\beta \lVert k \rVert^2 = 1$.


# %% tags=["solution"]
def exact_rate(k_t):
    """The write strength with which one write stores its value exactly."""
    return 1 / (k_t @ k_t)


# %% tags=["check"]
raw = 3 * torch.randn(5, N, generator=rng)
rates = torch.stack([torch.as_tensor(exact_rate(each)) for each in raw])
last = delta_rule(raw, raw, value[:5], rates)
assert close(last, value[:5]), f"asking at once gives {last.flatten().tolist()[:3]} ..."
print("exercise 2: right")

# %% [markdown]
# **3.** How many associations fit? With $N$-dimensional unit keys that are *orthogonal*, the delta
# rule at rate 1 stores $N$ of them without loss. Return the largest recall error when $n$ random
# unit keys are written once each and then all asked for, from the final state.

# %% [markdown] tags=["hints"]
# - Run the delta rule with rate 1 and keep the state only.
# - After the loop `keys @ state` are all answers at once; compare with `values`.
# - `.abs().max().item()` of the difference.


# %% tags=["solution"]
def recall_error(keys, values):
    """Largest error of ``S_T.mT @ k_j - v_j`` over all j, written at rate 1."""
    state = torch.zeros(keys.shape[-1], values.shape[-1])
    for k_t, v in zip(keys, values, strict=True):
        state = state + torch.outer(k_t, v - state.mT @ k_t)
    return (keys @ state - values).abs().max().item()


# %% tags=["check"]
orthogonal = torch.linalg.qr(torch.randn(N, N, generator=rng)).Q
assert close(recall_error(orthogonal, value[:N]), 0), "orthogonal keys do not disturb each other"
few, many = (recall_error(unit(torch.randn(n, N, generator=rng)), value[:n]) for n in (2, 30))
assert 0 < few < many, f"random keys disturb each other: {few:.2g} for 2, {many:.2g} for 30"
repeated = recall_error(orthogonal[[0, 1, 0]], torch.tensor([[1.0], [2.0], [1.0]]))
assert close(repeated, 0), "writing the same pair again changes nothing"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - The delta rule writes the error of what it remembers: gradient descent inside the layer.
# - $0 \le \beta \lVert k \rVert^2 \le 2$ is a safe step, and a certificate can say so for every
#   token.
# - The map is linear attention times a triangular inverse; its negative weights are corrections.
#
# **Further reading:** Yang et al. 2024, *Parallelizing linear transformers with the delta rule*
# (arXiv:2406.06484) and *Gated delta networks* (arXiv:2412.06464); Grazzi et al. 2024
# (arXiv:2411.12537); Siems et al. 2025 (arXiv:2502.10297).
