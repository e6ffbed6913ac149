# %% [markdown]
# # 10. Memory: Hankel ranks, Gramians, and the reduction of a trained head
#
# How much does a layer *remember* at token $t$? Everything the future can still learn about the
# past passes through the state $h_t$. Control theory has measured states for sixty years; its tools
# apply to trained layers as they are.
#
# **You will learn** what the two Gramians say, how they give the Hankel singular values without a
# map, how to take away states with a guaranteed error, and, on a trained model, that a head which
# has to recall five values keeps five numbers per channel.

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
# ## What goes in, what comes out
#
# Which states can unit signals reach by token $t$, and which states will be seen after it?
#
# $$P_t = A_t P_{t-1} A_t^\top + B_t B_t^\top, \qquad
# Q_{t-1} = A_t^\top (Q_t + C_t^\top C_t) A_t .$$
#
# $P_t$ (controllability) is large in directions that are easily written, $Q_t$ (observability) in
# directions that are read later. A state matters if it is **both**.

# %%
T, N = 40, 5
decay = torch.tensor([0.98, 0.9, 0.9, 0.6, 0.3])
write = torch.tensor([0.3, 1.0, 0.02, 1.0, 1.0])  # the third state is hardly written
read = torch.tensor([0.3, 1.0, 1.0, 1.0, 0.02])  # the fifth is hardly read
system = dsf.System.from_write_and_read(
    dsf.systems.transition.Diagonal(decay.expand(T, N)),
    write * (1 + 0.3 * torch.randn(T, N, generator=rng)),
    read * (1 + 0.3 * torch.randn(T, N, generator=rng)),
)
P = measures.controllability_gramians(system)
Q = measures.observability_gramians(system)
t = 20
left, right = plot.panels(1, 2, size=(8, 3))
plot.draw(measures.controllability_gramians, P[t], title="what was written", axes=left)
plot.draw(measures.observability_gramians, Q[t], title="what will be read", axes=right)
plt.show()

# %% [markdown]
# Both matrices depend on the choice of states: $h \to T h$ sends $P \to T P T^\top$ and $Q \to
# T^{-\top} Q T^{-1}$. Their *product* only changes to $T P Q T^{-1}$, so its eigenvalues are safe,
# and
#
# $$\sigma_k(H_t) = \sqrt{\lambda_k(P_t Q_t)} .$$
#
# Left: a block of the map, up to $T/2 \times T/2$ numbers. Right: two $N \times N$ matrices,
# carried along by a recurrence. That is how Hankel singular values are found at lengths where no
# map fits.

# %%
product = torch.linalg.eigvals(P[t] @ Q[t]).real.clamp(min=0).sqrt().sort(descending=True).values
values = measures.hankel_singular_values(system, positions=[t])[0]
from_map = torch.linalg.svdvals(dsf.attention_map(system)[t + 1 :, : t + 1])[:N]
print("from the Gramians:", product.tolist())
print("by the library:   ", values.tolist())
torch.testing.assert_close(values, from_map)
torch.testing.assert_close(product, values, rtol=1e-6, atol=1e-9)

gauge = torch.randn(N, N, generator=rng)
turned = dsf.systems.algebra.change_of_basis(system, gauge)
torch.testing.assert_close(
    measures.hankel_singular_values(turned, positions=[t])[0], values, rtol=1e-8, atol=1e-10
)

# %% [markdown]
# Five states, but two of them hardly matter: one is not written, one is not read. Neither the
# decays nor the Gramians alone would have said so.
#
# ## Taking states away
#
# `dsf.evaluate.reduce` goes through the tokens once and keeps, after each, the directions of the state that
# contribute most to later responses. What it drops at different tokens is orthogonal, so the
# squared errors add up exactly: the error is known before the maps are compared (`dropped`). The
# bound is proven after that, with everything that rounding may have done.

# %%
orders = [1, 2, 3, 4, 5]
found = [dsf.evaluate.reduce(system, order=order) for order in orders]
for order, each in zip(orders, found, strict=True):
    error, bound = (float(part / each.size) for part in (each.error, each.bound))
    print(f"{order} states: error {error:.2e}, proven to be at most {bound:.2e}")
    assert error <= bound
assert found[2].error / found[2].size < 0.02

# %% [markdown]
# ## A trained model
#
# `dsf` comes with small models that solve *recall*: five (key, value) pairs, then each key appears
# back and the model has to name its value. The answer is nowhere but in the sequence, so something
# in the model has to remember it. We read the two softmax layers of the tiny llama.

# %%
from dsf.models import folder, recall

drawn = recall.draw(torch.Generator().manual_seed(0), samples=4)
words = recall.spell(drawn.tokens[0])
inspection = dsf.inspect(folder("llama"), input_ids=drawn.tokens, tokens=[words] * 4)
print(inspection)
reader = inspection[1]
maps = reader.map()
plot.heat_map(maps[0, 0], tokens=words, title="layer 1, head 0: reads the values")
plt.show()


# %%
def asked(sample):
    """Places of the queries of a sample, and of the values they ask for."""
    tokens = drawn.tokens[sample].tolist()
    queries = (drawn.targets[sample] != recall.SILENT).nonzero().flatten().tolist()
    return [(place, tokens.index(tokens[place]) + 1) for place in queries]


def recalled(maps):
    """Share of queries at which a head looks most at the right value."""
    hits = [
        int(maps[sample, head, place].argmax()) == value
        for sample in range(len(maps))
        for head in range(maps.shape[1])
        for place, value in asked(sample)
    ]
    return sum(hits) / len(hits)


print("heads of layer 1 look at the right value:", f"{recalled(maps):.0%}")
assert recalled(maps) > 0.95

# %% [markdown]
# ### How many states does that head need?
#
# As a cache it has 32, one for each token. The Hankel singular values in the middle of the sequence
# say how many matter:

# %%
middle = measures.hankel_singular_values(maps[:, 0], positions=[12])[:, 0]
plot.spectrum(middle, labels=[f"sample {k}" for k in range(4)], title="head 0, after token 12")
plt.show()
needed = measures.states_needed(maps, error=0.1)
print("states needed for 10 % error, by sample and head:", needed.tolist())
assert (needed == recall.PAIRS).all()

# %% [markdown]
# Five. One number (per channel of the value) for each of the five pairs that may still be asked
# for: the singular values form a step, and the step has the height of the task. Reduce the head and
# watch recall fail one pair at a time:

# %%
sizes = [1, 2, 3, 4, 5, 6, 8]
scores, errors = [], []
for size in sizes:
    reduction = dsf.evaluate.reduce(maps, order=size)
    scores.append(recalled(dsf.attention_map(reduction.system)))
    errors.append(float((reduction.error / reduction.size).max()))
plot.curves(
    sizes,
    {"recalled": scores, "relative error of the map": errors},
    x_label="states of the reduced head",
    y_label="share",
)
plt.show()
assert scores[sizes.index(5)] > 0.95
assert scores[sizes.index(4)] < 0.9

# %% [markdown]
# With $n < 5$ states about $n$ of five questions are answered. This is not a property of softmax:
# it is the information that the task needs, and a layer with a *fixed* state has to be at least
# that wide. More pairs need more states; the head's cache supplies them without being asked.

# %%
by_pairs = {}
for pairs in (3, 4, 6):
    other = recall.draw(torch.Generator().manual_seed(1), samples=4, pairs=pairs)
    head = dsf.inspect(folder("llama"), input_ids=other.tokens)[1]
    by_pairs[pairs] = measures.states_needed(head.map(), error=0.1).double().median().item()
by_pairs[recall.PAIRS] = needed.double().median().item()
print("pairs and states needed:", dict(sorted(by_pairs.items())))
assert all(abs(states - pairs) <= 1 for pairs, states in by_pairs.items())

# %% [markdown]
# ### With evidence
#
# The bound on the reduction to five states holds for the stored numbers, decided in exact
# arithmetic:

# %% tags=["proved"]
certificate = dsf.certify.reduction_error(maps[0, 0], order=5)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# "Four states would do as well, within five per cent" is refuted by the exact distance. Moreover
# *no* system with four states would: the Hankel block forbids it (exercise 3).

# %% tags=["refuted"]
four = dsf.attention_map(dsf.evaluate.reduce(maps[0, 0], order=4).system)
certificate = dsf.certify.same_map(maps[0, 0], four, tolerance=0.05 * maps[0, 0].norm().item())
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## Play
#
# The view *State* of the trained heads (press `v` until it appears) has the same Hankel singular values.
# In the playground, count the numbers of state while you raise the order of the expansion: 1, 3, 6,
# 10, ... for queries of two entries, and compare how far the map still is from softmax.

# %%
dsf.show(inspection)

# %%
dsf.report.playground("taylor", order=2)

# %% [markdown]
# ## Exercises
#
# **1.** Compute the controllability Gramian after the last token, from the equation (not as a
# limit: the coefficients change).

# %% [markdown] tags=["hints"]
# - The equation is at the top of the notebook: decay what is there, then add what is
#   written.
# - With a diagonal $A$, $A P A^\top$ is `a[:, None] * P * a`; the write adds `torch.outer(b,
#   b)`.


# %% tags=["solution"]
def controllability(decay, write):
    """P_T (N, N) of a diagonal system from decays and write vectors, both (T, N)."""
    gramian = torch.zeros(decay.shape[-1], decay.shape[-1])
    for a, b in zip(decay, write, strict=True):
        gramian = a[:, None] * gramian * a + torch.outer(b, b)
    return gramian


# %% tags=["check"]
decays = torch.rand(9, 3, generator=rng)
writes = torch.randn(9, 3, generator=rng)
tested = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(decays), writes, writes)
expected = measures.controllability_gramians(tested)[-1]
found_ = torch.as_tensor(controllability(decays, writes))
assert found_.shape == expected.shape, f"needs {tuple(expected.shape)}, not {tuple(found_.shape)}"
assert close(found_, found_.mT), "a Gramian is symmetric"
assert close(found_, expected), "does the last write follow the last decay?"
print("exercise 1: right")

# %% [markdown]
# **2.** Choose the order of a reduction from the singular values alone. The squared error is at
# most the sum, over all tokens, of the squares of what is left out there. Return the smallest order
# whose error is within `error` times the size of the map.

# %% [markdown] tags=["hints"]
# - Sum the squares over tokens first: one number for each place in the spectrum.
# - What order $n$ leaves out is the sum of the places after $n$: a cumulative sum from the end.
# - Count the orders, 0 included, whose left-out energy has a root above `error * size`.


# %% tags=["solution"]
def order_for(values, size, error):
    """The order, from Hankel singular values (T - 1, K) and the Frobenius norm of the map."""
    energy = values.square().sum(dim=0)
    left = torch.cat([energy.flip(0).cumsum(dim=0).flip(0), torch.zeros(1)])
    return int((left.sqrt() > error * size).sum())


# %% tags=["check"]
for head, error in ((0, 0.1), (1, 0.1), (0, 0.01)):
    one = maps[2, head]
    answer = order_for(measures.hankel_singular_values(one), one.norm(), error)
    expected = measures.states_needed(one, error=error).item()
    assert close(answer, expected), f"the states of head {head} for the error {error}"
print("exercise 2: right")

# %% [markdown]
# **3.** Prove that four states are too few. For any system with $n$ states and map $\Phi'$, the
# block at $t$ has rank at most $n$, so $\lVert \Phi - \Phi' \rVert_F^2 \ge \sum_{k > n}
# \sigma_k(H_t)^2$ for every $t$ (Eckart-Young). Return the best of these lower bounds.

# %% [markdown] tags=["hints"]
# - For every token the bound is the root of the sum of the squares after the first $n$ values.
# - `measures.hankel_singular_values(map)` has a row for every token; take the largest bound.


# %% tags=["solution"]
def lower_bound(map, order):
    """No system with ``order`` states has a map nearer than this (Frobenius norm)."""
    values = measures.hankel_singular_values(map)
    return values[:, order:].square().sum(dim=-1).sqrt().max().item()


# %% tags=["check"]
head = maps[0, 0]
bound = lower_bound(head, 4)
best = float(dsf.evaluate.reduce(head, order=4).error)
assert bound <= best, f"your bound {bound:.3f} is above an error that is reached, {best:.3f}"
assert bound > 0.05 * head.norm(), f"{bound:.3f} does not exclude five per cent"
assert close(lower_bound(head, 31), 0), "with as many states as tokens nothing is excluded"
print(f"exercise 3: right, every four-state system is off by at least {bound / head.norm():.0%}")

# %% [markdown]
# ## Summary
#
# - Reachable *and* observable: $\sqrt{\lambda(P_t Q_t)}$ are the Hankel singular values, free of
#   gauge.
# - What a reduction drops is known before the maps are compared, its error and a bound after.
# - The states that a trained head needs count what its task makes it remember.
#
# **Further reading:** Moore 1981, *Principal component analysis in linear systems*; Dewilde & van
# der Veen 1998, *Time-varying systems and computations*; Arora et al. 2023, *Zoology*
# (arXiv:2312.04927).
