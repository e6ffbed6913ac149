# %% [markdown]
# # 1. One layer, three forms
#
# A token mixer takes a signal $u_1, \dots, u_T$ (one vector for every token) and returns a response
# $y_1, \dots, y_T$. Attention, state-space models, delta rules and recurrent networks look
# different on paper. Once their coefficients are computed, each is the same object, a **linear
# time-varying system**:
#
# $$h_t = A_t h_{t-1} + B_t u_t, \qquad y_t = C_t h_t + D_t u_t .$$
#
# This notebook shows one such layer in three forms:
#
# | form | what it is | cost for $T$ tokens, $N$ states |
# |---|---|---|
# | recurrence | a state that is carried along | $T N$ (diagonal $A$) |
# | matrix | the **attention map** $\Phi$, $y = \Phi u$ | $T^2$ |
# | kernel | a filter, $y = k * u$ | $T \log T$, time-invariant layers only |
#
# **You will learn** to convert one form into another by hand, to see when a form does not exist,
# and to tell a proof about a map from a look at its picture.

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
# ## An example: retention
#
# *Retention* (Sun et al. 2023) is linear attention whose past decays by a fixed factor $\gamma$ per
# token:
#
# $$S_t = \gamma\, S_{t-1} + k_t v_t^\top, \qquad o_t = S_t^\top q_t .$$
#
# Compare with the general equation: the state is $S$ (one column for every value channel),
# $A_t = \gamma I$, $B_t = k_t$, $C_t = q_t^\top$, $D_t = 0$, and the signal is the value $v_t$. All
# channels share the four coefficients, so one system is enough for all of them.

# %%
T, N, P = 24, 4, 3  # tokens, states, channels
query, key = torch.randn(2, T, N, generator=rng) / N**0.5
value = torch.randn(T, P, generator=rng)
retention = dsf.mixers.Retention(query=query, key=key, value=value, decay=torch.tensor(0.9))
system = retention.system()
print(system)

# %% [markdown]
# ## First form: the recurrence
#
# The equation, token by token. The state is a summary of everything read so far; it never grows.


# %%
def recurrence(decay, query, key, value):
    state = torch.zeros(key.shape[-1], value.shape[-1])
    responses = []
    for q, k, v in zip(query, key, value, strict=True):
        state = decay * state + torch.outer(k, v)
        responses.append(state.mT @ q)
    return torch.stack(responses)


by_hand = recurrence(0.9, query, key, value)
by_library = dsf.respond(system, retention.signal()).squeeze(-2)
torch.testing.assert_close(by_hand, by_library)
print("largest difference:", (by_hand - by_library).abs().max().item())

# %% [markdown]
# ## Second form: the matrix
#
# Substitute the equation into itself until no state is left:
#
# $$y_i = \sum_{j \le i} \underbrace{C_i A_i A_{i-1} \cdots A_{j+1} B_j}_{\Phi_{ij}} u_j, \qquad
# \Phi_{ii} = C_i B_i + D_i, \qquad \Phi_{ij} = 0 \text{ for } j > i .$$
#
# $\Phi$ is the attention map of a layer that never computes one. As in attention, row $i$ belongs
# to the **query**, the token that is written to, and column $j$ to the **key**, the token that is
# read. Here $\Phi_{ij} = \gamma^{i-j}\, q_i^\top k_j$.

# %%
map = dsf.attention_map(system)
lag = torch.arange(T)[:, None] - torch.arange(T)
formula = (0.9 ** lag.clamp(min=0) * (query @ key.mT)).tril()
torch.testing.assert_close(map, formula)
torch.testing.assert_close(map @ value, by_hand)

plot.heat_map(map, title="retention: map of 24 tokens")
plt.show()

# %% [markdown]
# Blue entries are negative: token $i$ *subtracts* the value of token $j$. Softmax attention cannot
# do that. It is tempting to stop at the picture, but a picture is not a proof. `dsf.certify` returns
# one of three verdicts, and an independent checker has to accept the evidence before it returns
# `PROVED` or `REFUTED`.

# %% tags=["proved"]
certificate = dsf.certify.causal(map)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% tags=["refuted"]
certificate = dsf.certify.nonnegative(map)
print(certificate)
print("witness:", dict(certificate.witness))
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# "Causal" is proved for these stored numbers, every entry above the diagonal being exactly zero.
# "No negative weight" is refuted by a witness: a row that anybody can look up.
#
# A certificate is not a boolean. `if certificate:` raises an error, because `UNKNOWN` is neither
# yes nor no.

# %%
try:
    bool(certificate)
except TypeError as error:
    print(error)

# %% [markdown]
# ## Third form: the kernel
#
# If $A, B, C$ do not depend on $t$, then $\Phi_{ij} = C A^{i-j} B$ depends on the **lag** $i - j$
# alone. The map is constant along its diagonals (a Toeplitz matrix), and the layer is a convolution
# with the kernel
#
# $$k_\tau = C A^{\tau} B \quad (+\, D \text{ at } \tau = 0) .$$
#
# S4 and its relatives are of this kind. Here is an example with two states, one that decays and one
# that also oscillates:

# %%
pole = torch.tensor([-0.1 + 0.0j, -0.1 + 1.0j])
one = torch.ones(2, dtype=torch.complex128)
s4d = dsf.mixers.DiagonalStateSpace(
    value=value[:, :1],
    pole=pole,
    write=one,
    read=0.5 * one,
    step=torch.tensor(1.0),
)
invariant = s4d.system()
toeplitz = dsf.attention_map(invariant)
kernel = toeplitz[:, 0]

left, right = plot.panels(1, 2, size=(9, 3))
plot.heat_map(toeplitz, title="S4D: one number per diagonal", axes=left)
plot.per_token(kernel, label="weight", x="lag (tokens)", title="its kernel", axes=right)
plt.show()

# %%
signal = s4d.signal()
as_filter = dsf.respond(invariant, signal, method="convolution")
as_recurrence = dsf.respond(invariant, signal, method="recurrent")
torch.testing.assert_close(as_filter, as_recurrence)
print("filter and recurrence differ by", (as_filter - as_recurrence).abs().max().item())

# %% [markdown]
# Retention has queries and keys that change from token to token, so it has no kernel. The library
# says so rather than giving a wrong number:

# %%
try:
    dsf.respond(system, retention.signal(), method="convolution")
except ValueError as error:
    print(error)

# %% [markdown]
# What exists for every map is the mean magnitude of its weights at each lag. It does not depend on
# how states are chosen, and it shows at a glance how a layer forgets: $\gamma = 0.9$ is a straight
# line on a logarithmic axis.

# %%
slow, fast = (
    dsf.mixers.Retention(query=query, key=key, value=value, decay=torch.tensor(pace)).system()
    for pace in (1.0, 0.7)
)
mass = torch.stack([measures.mass_by_lag(each) for each in (slow, system, fast)])
plot.by_lag(mass, labels=["decay 1", "decay 0.9", "decay 0.7"])
plt.show()

# %% [markdown]
# ## Chunks: the matrix inside, the state between
#
# Real implementations use the matrix inside a chunk of tokens, where it is small and fast on a GPU,
# and the state between chunks. All evaluators of `dsf` give the same numbers:

# %%
answers = {
    method.__name__: dsf.respond(system, retention.signal(), method=method)
    for method in (dsf.evaluate.recurrent, dsf.evaluate.scan, dsf.evaluate.chunkwise)
}
for name, answer in answers.items():
    print(f"{name:10}", (answer.squeeze(-2) - by_hand).abs().max().item())
    torch.testing.assert_close(answer.squeeze(-2), by_hand)

# %% [markdown]
# ## Play
#
# The same equation with sliders. It opens with retention at $\gamma = 0.9$: press *Play* and compare the
# two ways to each response. Then choose "A, B, C, D by hand" and find out what $|A| > 1$ does.

# %%
dsf.report.playground("retention", decay=0.9)

# %% [markdown]
# And the maps of a *trained* model, here a small Mamba-2 on a recall task: click a map to enlarge it,
# move the cell with the arrow keys, and press `v` for the next view.

# %%
import transformers

from dsf.models import folder, recall

transformers.logging.set_verbosity_error()
prompt = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
trained = dsf.inspect(folder("mamba2"), input_ids=prompt, tokens=[recall.spell(prompt[0])])
dsf.show(trained)

# %% [markdown]
# ## Exercises
#
# Each exercise is a function to write, followed by a cell that says what is wrong with an answer.
#
# **1.** Write the map from the coefficients, for any $A_t$ given as full matrices.

# %% [markdown] tags=["hints"]
# - Row $i$, column $j$ is what token $i$ answers to an impulse at token $j$. Follow one
#   impulse.
# - Start a column with `B[j]`. At every later token $i$ it becomes `A[i] @ column`, and `C[i] @
#   column` is the weight.
# - At $i = j$ itself nothing is multiplied by $A$: begin the product at $i = j + 1$.


# %% tags=["solution"]
def map_of(A, B, C):
    """The map of the system with A (T, N, N), B (T, N, 1), C (T, 1, N) and D = 0."""
    steps = len(A)
    weights = torch.zeros(steps, steps)
    for j in range(steps):
        column = B[j]
        for i in range(j, steps):
            if i > j:
                column = A[i] @ column
            weights[i, j] = (C[i] @ column).squeeze()
    return weights


# %% tags=["check"]
drawn = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(1), steps=7).system()
first = [part[0] for part in (drawn.A.dense(), torch.as_tensor(drawn.B), torch.as_tensor(drawn.C))]
expected = dsf.attention_map(drawn)[0]
found = map_of(*first)
assert found.shape == (7, 7), f"the map of 7 tokens is 7 x 7, yours is {tuple(found.shape)}"
assert close(found, expected), "between j and i are A_{j+1} to A_i, the later ones on the left"
print("exercise 1: right")

# %% [markdown]
# **2.** Write the kernel of a time-invariant system, and use it as a filter. Do not form the map.

# %% [markdown] tags=["hints"]
# - The kernel is the response to one impulse: $CB, CAB, CA^2B, \dots$
# - Keep a vector `state`, first `B`, then `A @ state`, and collect `C @ state` for every token.
# - At token $t$ the response is the sum of `kernel[0..t]` in reverse order times
#   `signal[0..t]`: use `flip(0)`.


# %% tags=["solution"]
def filtered(A, B, C, signal):
    """The response to ``signal`` (T,) of the system with constant A (N, N), B (N,), C (N,)."""
    kernel, state = [], B
    for _ in signal:
        kernel.append(C @ state)
        state = A @ state
    kernel = torch.stack(kernel)
    return torch.stack(
        [(kernel[: t + 1].flip(0) * signal[: t + 1]).sum() for t in range(len(signal))]
    )


# %% tags=["check"]
A, B, C = (
    torch.tensor([[0.5, 0.2], [0.0, 0.9]]),
    torch.tensor([1.0, -1.0]),
    torch.tensor([2.0, 1.0]),
)
impulse = torch.tensor([1.0, 0.0, 0.0])
got = filtered(A, B, C, impulse)
assert close(got[0], C @ B), "the response to an impulse starts with C B"
assert close(got[2], C @ A @ A @ B), "two tokens later it is C A A B"
shifted = filtered(A, B, C, impulse.roll(1))
assert close(shifted[1:], got[:-1]), "a later impulse gives the same response, later"
print("exercise 2: right")

# %% [markdown]
# **3.** Split a sequence in two. Compute the response to the second half from the state that the
# first half left, with two products instead of a loop over its tokens:
#
# $$y_i = \gamma^{i} S^\top q_i + \sum_{j \le i} \gamma^{i-j} (q_i^\top k_j)\, v_j ,$$
#
# where $i$ counts from 1 inside the half.

# %% [markdown] tags=["hints"]
# - What the first half left acts on token $i$ of the second half after $i$ decays.
# - The first part is `decay ** place[:, None] * (query @ state)`, with `place` 1, 2, 3, ...
# - The second part is the map inside the half, `decay ** lag * (query @ key.mT)` below the
#   diagonal, times `value`.


# %% tags=["solution"]
def second_half(decay, query, key, value, state):
    """Responses of retention to the tokens of the half, from ``state`` (N, P) in front of them."""
    place = torch.arange(1, len(query) + 1)
    lag = (place[:, None] - place).clamp(min=0)
    inside = (decay**lag * (query @ key.mT)).tril() @ value
    return decay ** place[:, None] * (query @ state) + inside


# %% tags=["check"]
half = T // 2
state = torch.zeros(N, P)
for k, v in zip(key[:half], value[:half], strict=True):
    state = 0.9 * state + torch.outer(k, v)
got = second_half(0.9, query[half:], key[half:], value[half:], state)
forgot = second_half(0.9, query[half:], key[half:], value[half:], torch.zeros(N, P))
assert not close(got, forgot), "your answer does not depend on the state"
assert close(got, by_hand[half:]), "not what the recurrence gives for the second half"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - A mixer is a system; the system is linear *in its signal, given its coefficients*.
# - Recurrence and map always exist, a kernel only for time-invariant layers.
# - A verdict holds for what its claim names, such as these stored numbers, and not for every run of
#   the layer.
#
# **Further reading:** Sieber et al. 2024, *Understanding the differences in foundation models:
# attention, state space models, and recurrent neural networks* (arXiv:2405.15731). Next: softmax
# attention, which has no finite kernel trick, as a system.
