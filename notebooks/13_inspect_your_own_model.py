# %% [markdown]
# # 13. Inspect your own model, end to end
#
# The last notebook takes models from files, reads their mixers, checks the reading, measures,
# decides properties, and writes a report. The models are four tiny ones inside the package;
# replace `folder(...)` by the folder of your own checkpoint, or by a module in memory.
#
# They all solve **recall**: five (key, value) pairs, then every key is repeated once among blanks,
# and the model names the value that followed it.
#
# **You will learn** to go from a checkpoint to a verdict, to compare architectures by what their
# *maps* do rather than by what they are called, to read a mixer of your own, and to notice when a
# reading is wrong.

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import transformers
from exercises import close
from torch import nn

import dsf
from dsf import measures
from dsf.models import folder, recall
from dsf.report import plot

transformers.logging.set_verbosity_error()
drawn = recall.draw(torch.Generator().manual_seed(0), samples=2)
words = [recall.spell(sample) for sample in drawn.tokens]
print(" ".join(words[0]))

# %% [markdown]
# ## Read
#
# `dsf.inspect` runs the model once, captures the input and output of every token mixer, rebuilds
# each one in float64 from its parameters, and **compares** it with its own module, run in float64
# on the same input: that is `formula`. A layer above 1e-12 is refused, so a map that does not
# reproduce its layer is never shown. `rounding` is how far the run is from that module.

# %%
names = ("llama", "mamba2", "qwen3_next")
read = {name: dsf.inspect(folder(name), input_ids=drawn.tokens, tokens=words) for name in names}
for inspection in read.values():
    print(inspection, "\n")
    assert not inspection.unsupported
    assert all(layer.formula <= layer.tolerance for layer in inspection)

# %% [markdown]
# ## Look
#
# One head of the last layer of each. Softmax attention forms its map anyway; Mamba-2 and the gated
# delta rule never do. Rows are queries (the tokens written to), columns are keys (the tokens read).

# %%
last = {name: inspection[-1].map()[0, 0] for name, inspection in read.items()}
plot.heat_maps(last, tokens=words[0])
plt.show()

# %% [markdown]
# Does a head read the value that its query asks for? Pick for each layer the head that gives the
# largest share of a query's absolute weight to the right token.


# %%
def weight_on_the_answer(maps):
    """Mean share of the weight of a query's row that lies on the value it asks for, by head."""
    shares = []
    for sample, tokens in enumerate(drawn.tokens.tolist()):
        asked = (drawn.targets[sample] != recall.SILENT).nonzero().flatten().tolist()
        for place in asked:
            row = maps[sample, :, place].abs()
            shares.append(row[:, tokens.index(tokens[place]) + 1] / row.sum(dim=-1))
    return torch.stack(shares).mean(dim=0)


labels, best = [], []
for name, inspection in read.items():
    for number, layer in enumerate(inspection):
        labels.append(f"{name} {number}")
        best.append(weight_on_the_answer(layer.map()).max().item())
plot.per_map(best, label="weight on the answer, best head", labels=labels)
plt.show()
print({label: round(share, 2) for label, share in zip(labels, best, strict=True)})
assert best[labels.index("llama 1")] > 0.9

# %% [markdown]
# In the llama the second layer attends to the answer in one step. The recurrent layers divide the
# work: a short convolution in front of them has already put a key next to its value, so the token to
# attend to is another one, and the map of the mixer *alone* is only part of the layer. For such
# layers `layer.mixer_map()` includes convolution, activation, gate and norm in one map per channel.

# %%
delta = read["qwen3_next"][-1]
whole = delta.mixer_map()
print("mixer alone:", tuple(delta.map().shape), " whole layer:", tuple(whole.shape))
plot.heat_maps(
    {"mixer alone, head 0": delta.map()[0, 0], "whole layer, channel 0": whole[0, 0]},
    tokens=words[0],
)
plt.show()

# %% [markdown]
# All maps of a model at once: the viewer of the report as a widget. Click a map, move the cell with the
# arrow keys, press `/` and look for a token.

# %%
dsf.show(read["qwen3_next"])

# %% [markdown]
# Which A, B, C and D make such maps? The gated delta rule with sliders:

# %%
dsf.report.playground("gated_delta_net", decay=0.8)

# %% [markdown]
# ## Measure
#
# One table for all layers, heads and quantities. It is a list of records, ready for pandas or a
# spreadsheet.

# %%
table = read["qwen3_next"].measure()
print("columns:", table.columns)
for quantity in ("negative_share", "half_life", "mean_row_sum"):
    for layer in read["qwen3_next"]:
        values = [record["value"] for record in table.where(layer=layer.name, quantity=quantity)]
        print(f"{quantity:15} {layer.name:28} {sum(values) / len(values):8.3f}")

# %% [markdown]
# States: how many would a layer need to make these maps, within ten per cent? (Notebook 10: the
# llama needs one for each pair.)

# %%
needed = {
    name: measures.states_needed(inspection[-1].map(), error=0.1).double().mean(dim=0)
    for name, inspection in read.items()
}
for name, states in needed.items():
    print(f"{name:11} states needed by each head: {states.tolist()}")
spectra = torch.stack(
    [
        measures.hankel_singular_values(maps, positions=[12])[0][:10] / maps.norm()
        for maps in last.values()
    ]
)
plot.spectrum(spectra, label="singular value / norm", labels=list(last), title="after token 12")
plt.show()

# %% [markdown]
# ## Decide
#
# Sentences about these layers, with evidence. Rows of the llama's heads sum to one and have no
# negative weight; the delta rule subtracts.

# %% tags=["proved"]
attention = read["llama"][-1].map()[0, 0]
for certificate in (
    dsf.certify.causal(attention),
    dsf.certify.nonnegative(attention),
    dsf.certify.row_sums(attention, tolerance=1e-6),
):
    print(certificate)
    assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% tags=["refuted"]
certificate = dsf.certify.nonnegative(delta.map()[0, 0])
print(certificate)
print("witness:", dict(certificate.witness))
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# On the command line `dsf check FOLDER --ids "..."` decides all of them for every layer, and keeps
# the evidence in a folder that a colleague can check with Python alone.
#
# ## Report
#
# The report is one HTML file with all maps, errors and measures. It works offline and loads no code
# from elsewhere.

# %%
page = Path(tempfile.mkdtemp()) / "report.html"
dsf.show(read["qwen3_next"], page)
print(f"{page.stat().st_size / 1e6:.1f} MB")
assert page.stat().st_size > 10_000

# %% [markdown]
# ## A module of your own
#
# Not from a model library? A layer that is *linear in its values* needs three lines: compute the
# coefficients, build the mixer, take its system. Here is a small layer as one would write it in a
# notebook, and its map.


# %%
class Decaying(nn.Module):
    """Linear attention with a decay of its own for each token."""

    def __init__(self, width, key):
        super().__init__()
        self.q, self.k = nn.Linear(width, key), nn.Linear(width, key)
        self.v, self.decay = nn.Linear(width, width), nn.Linear(width, 1)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], self.q.out_features, x.shape[-1])
        out = []
        for t in range(x.shape[1]):
            q, k, v = (part(x[:, t]) for part in (self.q, self.k, self.v))
            state = torch.sigmoid(self.decay(x[:, t]))[..., None] * state
            state = state + k[..., None] * v[:, None]
            out.append(torch.einsum("bk,bkc->bc", q, state))
        return torch.stack(out, dim=1)


_ = torch.manual_seed(0)
mine = Decaying(width=6, key=4).double().requires_grad_(False)
x = torch.randn(2, 20, 6, dtype=torch.float64)
mixer = dsf.mixers.ScalarGatedAttention(
    query=mine.q(x),
    key=mine.k(x),
    value=mine.v(x),
    log_decay=nn.functional.logsigmoid(mine.decay(x)).squeeze(-1),
)
response = dsf.respond(mixer.system(), mixer.signal()).squeeze(-2)
print("difference to the module:", (response - mine(x)).abs().max().item())
torch.testing.assert_close(response, mine(x))
plot.heat_map(dsf.attention_map(mixer.system())[0], title="the map of a module of my own")
plt.show()

# %% [markdown]
# That comparison is not a formality. Take every decay from the token before, one index off, and the
# picture looks just as plausible; only the numbers disagree. **No comparison, no map.**

# %% tags=["refuted"]
slip = replace(mixer, log_decay=mixer.log_decay.roll(1, dims=-1))
certificate = dsf.certify.equivalent(mixer.system(), slip.system(), tolerance=1e-6)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## Exercises
#
# **1.** Which head attends most *locally*? Return layer number and head number of the head in an
# inspection whose rows put the largest mean share of their absolute weight on their last four
# tokens (over samples and rows).

# %% [markdown] tags=["hints"]
# - `measures.window_mass(layer.map(), width=4)` has the axes sample, head, row.
# - Average over rows and samples, then take the head with the largest number over all layers.


# %% tags=["solution"]
def most_local(inspection):
    """(layer, head) with the largest mean mass on the last four tokens."""
    found = {}
    for number, layer in enumerate(inspection):
        mass = measures.window_mass(layer.map(), width=4).mean(dim=-1).mean(dim=0)
        for head, share in enumerate(mass.tolist()):
            found[number, head] = share
    return max(found, key=found.get)


# %% tags=["check"]
number, head = most_local(read["llama"])
shares = torch.stack(
    [measures.window_mass(layer.map(), width=4).mean(dim=(0, -1)) for layer in read["llama"]]
)
top = shares.max().item()
assert shares[number, head] == top, (
    f"layer {number}, head {head} has {shares[number, head]:.3f}, the largest is {top:.3f}"
)
print(f"exercise 1: right, layer {number}, head {head}: {top:.0%} on four tokens")

# %% [markdown]
# **2.** Knock out a token. Given a map and the values of a head, what is the response of the head
# if token `j` had written nothing? (A question about the system with its coefficients frozen; the
# model itself might react otherwise.)

# %% [markdown] tags=["hints"]
# - A value of zero adds nothing. Do not change the tensor that you were given.
# - `clone()` it, set row `j` to zero, multiply by the map.


# %% tags=["solution"]
def without_token(map, value, j):
    """The response (T, P) of a map (T, T) when the value (T, P) of token ``j`` is left out."""
    kept = value.clone()
    kept[j] = 0
    return map @ kept


# %% tags=["check"]
reader = read["llama"][1]
one, values = reader.map()[0, 0], reader.signal[0, 0].squeeze(-2)
full = one @ values
changed = torch.as_tensor(without_token(one, values, 3))
assert torch.equal(values, reader.signal[0, 0].squeeze(-2)), "you changed the values themselves"
assert changed.shape == full.shape, f"needs {tuple(full.shape)}, not {tuple(changed.shape)}"
assert close(changed[:3], full[:3]), "tokens before token 3 cannot notice"
assert close(full - changed, one[:, 3:4] * values[3]), "what is missing is column j times v_j"
print("exercise 2: right")

# %% [markdown]
# **3.** Read a module of your own. Write the mixer of `Decaying` for an input, as a function, so
# that its response is the module's output for *any* weights and input.

# %% [markdown] tags=["hints"]
# - The four coefficients are in `forward`: which line computes query, key, value, decay?
# - The decay of the module is a sigmoid; `log_decay` is its logarithm,
#   `nn.functional.logsigmoid`.
# - It needs one axis less than the projection has: `squeeze(-1)`.


# %% tags=["solution"]
def mixer_of(module, x):
    """The coefficients of ``module`` (a ``Decaying``) on the input ``x``."""
    return dsf.mixers.ScalarGatedAttention(
        query=module.q(x),
        key=module.k(x),
        value=module.v(x),
        log_decay=nn.functional.logsigmoid(module.decay(x)).squeeze(-1),
    )


# %% tags=["check"]
for seed in range(3):
    _ = torch.manual_seed(seed)
    module = Decaying(width=5, key=3).double().requires_grad_(False)
    given = torch.randn(1, 9, 5, dtype=torch.float64)
    yours = mixer_of(module, given)
    answer = dsf.respond(yours.system(), yours.signal()).squeeze(-2)
    assert close(answer, module(given)), f"the response of your mixer, seed {seed}"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - Inspect, *compare*, look, measure, decide, report: in this order.
# - A map is a statement about one run of a layer, linear in its values with its coefficients fixed.
# - Compare architectures by what no choice of states can change.
#
# **Further reading:** the README of this package for the command line and for longer sequences;
# Arora et al. 2023, *Zoology* (arXiv:2312.04927), on recall.
