# %% [markdown]
# # 11. Optimal linear approximation: MetaLA
#
# Which linear layer is *the best* stand-in for softmax attention? Chou et al. 2024 first write all
# of them in one form, then ask what of it is needed. Their form has three groups of parameters,
# queries, keys and a dynamic decay:
#
# $$S_t = \mathrm{diag}(\alpha_t)\, S_{t-1} + k_t v_t^\top, \qquad o_t = S_t^\top q_t, \qquad
# a_{ts} = q_t^\top \Bigl( \prod_{j=s+1}^{t} \alpha_j \odot k_s \Bigr) .$$
#
# | condition | says |
# |---|---|
# | C0 | linear in training, constant per token |
# | C1 | *dynamic memory*: with a bounded state keep what matters, drop the rest, adaptively |
# | C2 | *static approximation*: bounded parameters reproduce every softmax map |
# | C3 | with the fewest groups of parameters |
#
# The answer of the paper: queries and dynamic decay are enough, the key can be tied, $k_t = 1 -
# \alpha_t$. **You will learn** the constructions behind C1 and C2, check them, and find the gaps in
# the argument: a proof in a paper is a claim like any other.

# %%
import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.report import plot

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)


def softmax_map(tokens):
    """Some causal softmax map."""
    logits = 2 * torch.randn(tokens, tokens, generator=rng)
    return logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf).softmax(-1)


# %% [markdown]
# ## C1: overwriting one value
#
# The memory is full: row $i$ of the state holds $v_i$. A new value has to go into row 1. What is
# left of the old one? A fixed decay leaves $\alpha$ of it, no decay leaves all, a dynamic decay
# $\alpha_t = (0, 1, \dots, 1)$ leaves nothing.
#
# How this is decided: `python -m papers MLA-3`.

# %% [markdown]
# The paper concludes that among systems of this form *only* a dynamic decay works, and it is right.
# Two remarks: its proof looks at row 1 and sets $k = 1$, which adds the new value to every other
# row as well, and the tied key $1 - \alpha$ repairs that; and the delta rule of notebook 7, which
# is outside the form, overwrites without any decay.
#
# How this is decided: `python -m papers MLA-4 MLA-5 MLA-42`.

# %% [markdown]
# ## C2: one row by a decay
#
# Let $p_1, \dots, p_t$ be probabilities. One state with $k_s = 1 - \alpha_s$ is a running average,
#
# $$S_s = \alpha_s S_{s-1} + (1 - \alpha_s) v_s, \qquad
# \alpha_s = \frac{p_1 + \dots + p_{s-1}}{p_1 + \dots + p_s} \in [0, 1],$$
#
# and after the last token it has averaged with exactly the weights $p$: no key is needed.

# %%
p = torch.softmax(2 * torch.randn(12, generator=rng), dim=0)
total = p.cumsum(dim=0)
alpha = torch.cat([torch.zeros(1), total[:-1] / total[1:]])
average = dsf.mixers.MetaLinearAttention(
    query=torch.ones(12, 1), value=torch.zeros(12, 1), decay=alpha[:, None]
)
row = dsf.attention_map(average.system())[-1]
plot.per_token(
    torch.stack([p, row, alpha]),
    label="number",
    labels=["wanted weight", "weight of the layer", "decay"],
    x="key",
)
plt.show()
torch.testing.assert_close(row, p)

# %% [markdown]
# How this is decided: `python -m papers MLA-6`.

# %% [markdown]
# A whole map takes a channel for every row: the query of token $t$ picks channel $t$.

# %%
target = softmax_map(16)
total = target.mT.cumsum(dim=0)  # token s, channel c: the sum of row c up to s
before = torch.cat([torch.zeros(1, 16), total[:-1]])
layer = dsf.mixers.MetaLinearAttention(
    query=torch.eye(16), value=torch.zeros(16, 1), decay=before / total
)
found = dsf.attention_map(layer.system())
print("largest difference:", (found - target).abs().max().item())
torch.testing.assert_close(found, target)
plot.heat_maps({"softmax map": target, "MetaLA with 16 channels": found})
plt.show()

# %% tags=["proved"]
certificate = dsf.certify.same_map(found, target, tolerance=1e-12)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# With a channel less a row is missing. "Fifteen channels do as well, within a hundredth" is refuted:

# %% tags=["refuted"]
fewer = dsf.mixers.MetaLinearAttention(
    query=layer.query[:, :-1], value=layer.value, decay=layer.decay[:, :-1]
)
certificate = dsf.certify.same_map(dsf.attention_map(fewer.system()), target, tolerance=0.01)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## Three questions about the argument
#
# **Who knows the decay?** Channel $c$ uses row $c$ of the map for *all* tokens up to $c$: the decay
# at token $j$ depends on later queries. The paper lets the parameters depend on
# the map, so this does not contradict its theorem; but no parameters serve all maps in this way.
#
# How this is decided: `python -m papers MLA-10`.

# %% [markdown]
# **Are queries needed?** "This means models without Q can not approximate softmax attention map",
# says the paper. With signed keys they can: channel $c$ keeps everything up to token $c$ and erases
# it at $c + 1$ ($\alpha = 1$, then $0$), and the key is the difference of two neighbouring rows, $k_{s,c} = p_{c,s} - p_{c+1,s}$. Summing
# the channels telescopes back to the row.
#
# How this is decided: `python -m papers MLA-8`.

# %% [markdown]
# What holds: with $q = 1$ and keys that are *not negative* a weight never increases from one row
# to the next, and most softmax maps do increase somewhere.
#
# How this is decided: `python -m papers MLA-9`.

# %% [markdown]
# **How many channels?** The construction uses as many as there are tokens. It cannot be done with
# few: all of the state is read after the update with $D = 0$, so every block $a_{t:, :t+1}$ has
# rank at most the number of channels, and a generic softmax map needs $\lceil n/2 \rceil$.

# %%
sizes = (8, 16, 24, 32)
needed = []
for size in sizes:
    map = softmax_map(size)
    blocks = [torch.linalg.matrix_rank(map[t:, : t + 1]).item() for t in range(size)]
    needed.append(max(blocks))
    assert needed[-1] == size // 2
print("tokens:", sizes, "channels at least:", needed)

# %% [markdown]
# How this is decided: `python -m papers MLA-11`.

# %% [markdown]
# ## The layer that came out of it
#
# $\alpha_t = \sigma(x_t W)^{1/16}$, key $1 - \alpha_t$, and an *augmentation* that lets the current
# token count extra, since with $\alpha$ near one the key is near zero. The root has a meaning: at
# zero logits the half-life is exactly 16 tokens. It also means that no single token can erase the
# memory: at a logit of $-10$ still $53\,\%$ stay.

# %%
logits = torch.linspace(-12, 6, 100)
decay = torch.sigmoid(logits) ** (1 / 16)
plot.curves(
    logits,
    {"decay": decay, "key 1 - decay": 1 - decay},
    x_label="logit",
    y_label="per token",
)
plt.show()

# %% [markdown]
# How this is decided: `python -m papers MLA-21`.

# %%
T, N = 48, 8
sampled = torch.sigmoid(2 * torch.randn(T, N, generator=rng)) ** (1 / 16)
metala = dsf.mixers.MetaLinearAttention(
    query=torch.randn(T, N, generator=rng), value=torch.randn(T, 2, generator=rng), decay=sampled
)
system = metala.system()
plot.heat_maps(
    {
        "MetaLA": dsf.attention_map(system),
        "its augmentation": dsf.attention_map(
            dsf.mixers.MetaLinearAttention(
                query=metala.query,
                value=metala.value,
                decay=sampled,
                augmentation=2 * torch.ones(N),
            ).system()
        ),
    }
)
plt.show()
print("negative share:", measures.negative_share(system).item())

# %% [markdown]
# ## Exercises
#
# **1.** Row sums without a map. Each channel's weights sum to $1 - \prod_{j \le t} \alpha_j$.

# %% [markdown] tags=["hints"]
# - What has been written and not yet lost is $1 - \prod \alpha$ in every channel.
# - `decay.cumprod(dim=0)` has the products; multiply by the query and sum over the channels.


# %% tags=["solution"]
def row_sums(query, decay):
    """The sum of every row (T,) from queries and decays (T, N)."""
    return (query * (1 - decay.cumprod(dim=0))).sum(dim=-1)


# %% tags=["check"]
found = row_sums(metala.query, sampled)
expected = measures.row_sums(system)
assert found.shape == expected.shape, f"needs {tuple(expected.shape)}, not {tuple(found.shape)}"
assert close(found[0], expected[0]), "the first row has one entry: q.(1 - alpha)"
assert close(found, expected), "the first row is right, later ones are not"
print("exercise 1: right")

# %% [markdown]
# **2.** Write the hold-then-erase construction: keys and decays that make a causal map with $q =
# 1$.

# %% [markdown] tags=["hints"]
# - Channel $c$ belongs to token $c$: it holds a weight while $i = c$ and erases it afterwards.
# - What a key adds at channel $c$ is the difference of rows $c$ and $c + 1$ of the map, since
#   later channels hold the rest.
# - The decay of channel $c$ is 0 at token $c + 1$ and 1 everywhere else.


# %% tags=["solution"]
def hold_then_erase(target):
    """(key, decay), both (T, T) with a channel for every token, for a causal map (T, T)."""
    following = torch.cat([target[1:], torch.zeros(1, len(target))])
    key = (target - following).tril().mT
    decay = torch.ones_like(target)
    for channel in range(len(target) - 1):
        decay[channel + 1, channel] = 0
    return key, decay


# %% tags=["check"]
key, decays = (torch.as_tensor(part) for part in hold_then_erase(target))
assert key.shape == decays.shape == (16, 16), "one channel for each of the 16 tokens"
assert key.abs().max() <= 1, "differences of probabilities stay within one"
built = dsf.System.from_write_and_read(
    dsf.systems.transition.Diagonal(decays), key, torch.ones(16, 16)
)
assert close(dsf.attention_map(built), target), "your system has another map"
print("exercise 2: right")

# %% [markdown]
# **3.** A *fixed* decay can also make any one row, by large keys: $k_s = p_s\, \alpha^{-(t-s)}$.
# How large does the key of the first token get when it is to receive weight $p$ at token $t$? At
# which length $t$ does that overflow float16 (largest number 65504) for $\alpha = 0.9$ and $p =
# 0.1$?

# %% [markdown] tags=["hints"]
# - Between token 1 and token $t$ there are $t - 1$ decays to make up for.
# - $k_1 = p\, \alpha^{-(t - 1)}$; count lengths up until it is above the largest number.


# %% tags=["solution"]
def loudest_key(weight, decay, length):
    """The key of token 1 that still has ``weight`` at token ``length``."""
    return weight * decay ** -(length - 1)


def overflow_length(weight, decay, largest=65504.0):
    """The first length at which that key is above ``largest``."""
    length = 1
    while loudest_key(weight, decay, length) <= largest:
        length += 1
    return length


# %% tags=["check"]
key_ = loudest_key(0.1, 0.9, 30)
kept = key_ * 0.9**29
assert close(kept, 0.1), "what is left of your key after 29 decays"
length = overflow_length(0.1, 0.9)
around = [float(loudest_key(0.1, 0.9, each)) for each in (length - 1, length)]
assert around[0] <= 65504 < around[1], (
    f"{length} is not the first: the keys of {length - 1} and {length} tokens are {around}"
)
assert overflow_length(0.1, 0.99) > 5 * length, "slower decays overflow much later"
print(f"exercise 3: right, at {length} tokens")

# %% [markdown]
# ## Summary
#
# - A running average with a dynamic decay reproduces any row of probabilities; that is why the key
#   may be tied to the decay.
# - "There are parameters" is not "a layer computes them", and not "training finds them".
# - The number of channels bounds the rank of every block of the map. No parametrisation escapes it.
#
# **Further reading:** Chou et al. 2024, *MetaLA: unified optimal linear approximation to softmax
# attention map* (arXiv:2411.10741).
