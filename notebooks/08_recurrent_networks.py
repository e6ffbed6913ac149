# %% [markdown]
# # 8. Recurrent networks along a trajectory
#
# An LSTM is not linear: its gates and its activations depend on the state. Still, *along one run*
# all of them are numbers. Freeze them at their values on this run, and the network is a linear
# time-varying system with exactly the same outputs.
#
# "Freeze" can mean two things, and they answer different questions:
#
# | map | frozen | what it says |
# |---|---|---|
# | **quasi-linear** (secant) | the ratio $\phi(a_t)/a_t$ and the gates | how this output is *made of* the inputs |
# | **tangent** (Jacobian) | the slope $\phi'(a_t)$, gates move too | how it would *change* with them |
#
# **You will learn** to build both, to tell them apart, to see vanishing gradients as a property of
# a product of transitions, and why modern gated recurrences dropped the state from their gates.

# %%
import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.report import plot

torch.set_default_dtype(torch.float64)
_ = torch.manual_seed(0)  # torch.nn draws its weights from the global generator
rng = torch.Generator().manual_seed(0)


# %% [markdown]
# ## The secant trick
#
# Elman's network is $h_t = \tanh(a_t)$, $a_t = W x_t + b + U h_{t-1}$. Write $\tanh(a) = s(a)\,a$
# with the secant slope $s(a) = \tanh(a)/a \in (0, 1]$, $s(0) = 1$. Then
#
# $$h_t = \underbrace{\mathrm{diag}(s_t)\, U}_{A_t} h_{t-1} +
# \underbrace{\mathrm{diag}(s_t)\, [W, b]}_{B_t} \begin{pmatrix} x_t \\ 1 \end{pmatrix}$$
#
# is an identity, not an approximation.

# %%
T, M, H = 20, 3, 4
elman = torch.nn.RNN(M, H, batch_first=True).requires_grad_(False)
elman.weight_hh_l0.mul_(2.5)  # fresh weights are small and remember nothing
x = torch.randn(1, T, M, generator=rng)
mixer = dsf.mixers.ElmanRNN.from_module(elman, x)
system = mixer.system()
print(system)
ours = dsf.respond(system, mixer.signal()).squeeze(-1)
theirs = elman(x)[0]
print("difference to torch:", (ours - theirs).abs().max().item())
torch.testing.assert_close(ours, theirs)

# %% [markdown]
# `dsf.inspect` does this for whole models, and compares every rebuilt layer with its own output:

# %%
with torch.no_grad():
    lstm = torch.nn.LSTM(M, H, num_layers=2, batch_first=True)
    inspection = dsf.inspect(lstm, x)
print(inspection)
assert max(layer.error for layer in inspection) < 1e-12

# %% [markdown]
# ## A statement about this run
#
# The system was built from $x$. Drive it with another input and it does *not* say what the network
# would do: the coefficients would have been others. Two inputs, two maps. Let the library compare
# them:

# %% tags=["refuted"]
other_x = torch.randn(1, T, M, generator=rng)
other = dsf.mixers.ElmanRNN.from_module(elman, other_x)
certificate = dsf.certify.equivalent(system, other.system(), tolerance=1e-6)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

wrong = dsf.respond(system, other.signal()).squeeze(-1)
print(
    "using the map of x for another input is off by", (wrong - elman(other_x)[0]).abs().max().item()
)

# %% [markdown]
# ## Secant and tangent
#
# The Jacobian replaces $s_t$ by $\tanh'(a_t) = 1 - h_t^2$. Its map is what automatic
# differentiation computes, all tokens at once.

# %%
tangent = mixer.tangent()
jacobian = torch.autograd.functional.jacobian(lambda signal: elman(signal)[0], x)[0, :, :, 0]
by_autograd = jacobian.reshape(T * H, T * M)
map_of_change = dsf.attention_map(tangent)[0]
torch.testing.assert_close(map_of_change, by_autograd)

# unit 0 of the network, driven by input 0, token by token
unit = slice(0, None, H)
made_of = dsf.attention_map(system)[0][unit, 0 :: M + 1]
changes = map_of_change[unit, 0::M]
plot.heat_maps({"made of (secant)": made_of, "would change (tangent)": changes})
plt.show()
assert (made_of - changes).abs().max() > 1e-2

# %% [markdown]
# Which of them is "the attention map of an RNN"? The first adds up to the output; the second does
# not ($\tanh$ is not linear), but it is what training sees. Say which one you show.
#
# ## Vanishing and exploding
#
# A change of the state $t$ tokens ago arrives as $A_t \cdots A_1$. Scale the recurrent weights and
# watch the norm of that product. Its mean logarithm per token is the largest **Lyapunov exponent**.

# %%
T_long, wide = 200, 32
drive = 0.5 * torch.randn(1, T_long, M, generator=rng)
norms, exponents, gains = [], [], (0.5, 1.0, 1.6)
start = torch.randn(wide, wide, generator=rng) / wide**0.5
for gain in gains:
    network = torch.nn.RNN(M, wide, batch_first=True)
    with torch.no_grad():
        network.weight_hh_l0.copy_(gain * start)
    moving = dsf.mixers.ElmanRNN.from_module(network, drive).tangent()
    norms.append(measures.product_norms(moving)[0].detach())
    exponents.append(measures.lyapunov_exponents(moving)[0, 0].item())
axes = plot.draw(
    measures.product_norms, torch.stack(norms), labels=[f"gain {gain}" for gain in gains]
)
axes.set_yscale("log")
plt.show()
print("largest Lyapunov exponents (nats per token):", [round(each, 3) for each in exponents])
assert exponents[0] < exponents[1] < exponents[2]

# %% [markdown]
# ## The LSTM: an additive path
#
# $c_t = f_t \odot c_{t-1} + i_t \odot \tanh(a_t)$, $h_t = o_t \odot \tanh(c_t)$. With the gates
# frozen at their values on this run, each cell is a one-state system, driven by the candidates, and
# its map can be read off:
#
# $$\Phi_{ij} = o_i\, \frac{\tanh c_i}{c_i}\; f_i f_{i-1} \cdots f_{j+1}\; i_j .$$
#
# The forget gate is the decay. Its bias sets the memory before anything is learned:

# %%
masses = []
biases = (-1.0, 1.0, 3.0)
long_x = torch.randn(1, 60, M, generator=rng)
for bias in biases:
    network = torch.nn.LSTM(M, H, batch_first=True)
    with torch.no_grad():
        network.bias_ih_l0[H : 2 * H] = bias  # torch orders the gates i, f, g, o
        network.bias_hh_l0[H : 2 * H] = 0.0
        cells = dsf.mixers.LSTM.from_module(network, long_x)
        masses.append(measures.mass_by_lag(cells.system())[0].mean(dim=0))
plot.by_lag(torch.stack(masses), labels=[f"forget bias {bias:g}" for bias in biases])
plt.show()

# %% [markdown]
# How long does that last network remember, at most? The logarithms of its stored forget gates are
# summed exactly, over every window of 16 tokens and every cell:

# %% tags=["proved"]
forget = cells.system().A.dense()[0, ..., 0, 0].detach()
certificate = dsf.certify.decay(forget.log(), width=16, most=0.75)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# ## Gates without the state
#
# An LSTM must be run token by token to know its gates. Let the gates see the *input* only, and the
# recurrence is linear before anything runs: coefficients for all tokens at once, then a scan. The
# quasi-LSTM, RG-LRU (Griffin), HGRN and minGRU are all of the form $h_t = a_t \odot h_{t-1} + b_t
# \odot x_t$; no trajectory is needed.
#
# Two details about them that are worth a proof. The paper's variant of the quasi-LSTM with Mamba's
# decay, $a = \sigma(-z)^\alpha$, is at $\alpha = 1$ the *same* layer with other signs. And
# Griffin's input scale $\sqrt{1 - a^2}$ keeps the variance of the state at one:
#
# How this is decided: `python -m papers DSF-20`.

# %% [markdown]
# ... the variance, for independent inputs. It does not keep the row sum within one, as the scale
# $1 - a$ would:
#
# How this is decided: `python -m papers MLA-15`.

# %%
steps = 40
constant = torch.full((steps, 1), 0.95)
griffin = dsf.mixers.RGLRU(
    value=torch.randn(steps, 1, generator=rng),
    decay=constant,
    input_gate=torch.ones(steps, 1),
)
averaging = dsf.mixers.HGRN(value=torch.randn(steps, 1, generator=rng), decay=constant)
sums = torch.stack([measures.row_sums(each.system())[0] for each in (griffin, averaging)])
plot.draw(measures.row_sums, sums, labels=["scale sqrt(1 - a²)", "scale 1 - a"])
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** Write the secant slope of $\tanh$, exact also near and at zero: the direct quotient is
# `nan` at 0. (Hint: for tiny $a$, $\tanh(a)/a \approx 1 - a^2/3$.)

# %% [markdown] tags=["hints"]
# - Where $a$ is tiny, use the series; elsewhere the quotient.
# - `torch.where` computes both branches, so keep a zero out of the quotient: replace tiny
#   entries by 1 first.


# %% tags=["solution"]
def secant(a):
    """``tanh(a) / a`` for a tensor ``a``, with the limit 1 at zero."""
    tiny = a.abs() < 1e-4
    safe = torch.where(tiny, torch.ones_like(a), a)
    return torch.where(tiny, 1 - a**2 / 3, safe.tanh() / safe)


# %% tags=["check"]
at = torch.tensor([0.0, 1e-9, 5e-5, 1e-3, -0.5, 4.0])
found = secant(at)
assert not found.isnan().any(), f"nan at a = {at[found.isnan()].tolist()}"
assert found[0] == 1, f"the limit at zero is 1, not {found[0].item()}"
away = torch.where(at == 0, 1.0, at)
assert close(found, torch.where(at == 0, 1.0, away.tanh() / away)), "s(a) a has to be tanh(a)"
print("exercise 1: right")

# %% [markdown]
# **2.** Write the map of one LSTM cell from its gates and its read-out factor
# $r_i = o_i \tanh(c_i) / c_i$.

# %% [markdown] tags=["hints"]
# - Token $j$ writes `write[j]`, is kept by every later forget gate, and is read at $i$.
# - The factor from $j$ to $i$ is the product of `forget[j + 1 : i + 1]`; for a whole column use
#   `cumprod`.
# - Put a one in front: at $i = j$ nothing has been forgotten.


# %% tags=["solution"]
def cell_map(forget, write, read):
    """The map (T, T) from forget gate, input gate and read-out factor, each (T,)."""
    steps = len(forget)
    weights = torch.zeros(steps, steps)
    for j in range(steps):
        kept = torch.cat([torch.ones(1), forget[j + 1 :]]).cumprod(dim=0)
        weights[j:, j] = read[j:] * kept * write[j]
    return weights


# %% tags=["check"]
cell = cells.system()
parts = [part.dense() if hasattr(part, "dense") else part for part in (cell.A, cell.B, cell.C)]
forget_, write_, read_ = (torch.as_tensor(part)[0, 1, :, 0, 0].detach() for part in parts)
found, wanted = cell_map(forget_, write_, read_), dsf.attention_map(cell)[0, 1].detach()
assert found.shape == wanted.shape, f"needs {tuple(wanted.shape)}, not {tuple(found.shape)}"
assert close(found.diagonal(), wanted.diagonal()), "the diagonal is r_i i_i, no forgetting"
assert close(found, wanted), "token j is forgotten from token j + 1 on, not earlier"
print("exercise 2: right")

# %% [markdown]
# **3.** Compute the Jacobian of the last state of Elman's network by its first state, $\partial h_T
# / \partial h_0$, from the states alone (backpropagation through time as one product).

# %% [markdown] tags=["hints"]
# - One step is $h_t = \tanh(W x_t + U h_{t-1} + b)$. What is its derivative by $h_{t-1}$?
# - $\operatorname{diag}(1 - h_t^2)\, U$, from the state itself.
# - Multiply later tokens from the left, beginning with the identity.


# %% tags=["solution"]
def state_jacobian(states, recurrent):
    """d h_T / d h_0 (H, H) from h_1 ... h_T (T, H) and the recurrent weight U (H, H)."""
    product = torch.eye(states.shape[-1])
    for state in states:
        product = (1 - state**2)[:, None] * recurrent @ product
    return product


# %% tags=["check"]
def last_state(first):
    return elman(x, first[None, None])[0][0, -1]


zero = torch.zeros(H)
wanted = torch.autograd.functional.jacobian(last_state, zero)
found = state_jacobian(elman(x)[0][0], elman.weight_hh_l0)
assert found.shape == (H, H), f"needs {(H, H)}, not {tuple(found.shape)}"
assert close(found, wanted), "the order: later tokens on the left"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - Along its own trajectory a nonlinear network is exactly a linear system. That system is a
#   statement about this run.
# - The secant map adds up to the output, the tangent map is the gradient. They differ.
# - Products of transitions decide about memory; gates that do not see the state make them known in
#   advance.
#
# **Further reading:** Hochreiter & Schmidhuber 1997; De et al. 2024, *Griffin* (arXiv:2402.19427);
# Feng et al. 2024, *Were RNNs all we needed?* (arXiv:2410.01201).
