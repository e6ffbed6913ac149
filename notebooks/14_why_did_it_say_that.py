# %% [markdown]
# # 14. Why did it say that?
#
# A map shows what a layer reads. It does not show what for. This notebook takes one answer of a model
# and shares its logit among tokens, layers and edges, so that the shares **sum** to the logit.
#
# The model solves recall: keys, each followed by its value; then every key is repeated, and the model
# names its value.
#
# **You will learn** to attribute a logit, to check that nothing is missing, to find the edge that
# carries an answer, and to predict what is lost without it.

# %%
import matplotlib.pyplot as plt
import torch
import transformers
from exercises import close

import dsf
from dsf.models import folder, recall
from dsf.report import plot

transformers.logging.set_verbosity_error()
drawn = recall.draw(torch.Generator().manual_seed(0), samples=1)
words = recall.spell(drawn.tokens[0])
asked = (drawn.targets[0] != recall.SILENT).nonzero()[-1].item()
answer = drawn.targets[0, asked].item()
wrong = drawn.tokens[0, 9].item()
source = drawn.tokens[0].tolist().index(answer)
print(" ".join(words))
print(f"token {asked}, {words[asked]}, asks for {words[source]}, token {source}")

# %% [markdown]
# ## The run is affine
#
# Hold what was computed from the tokens in this run: attention weights, gates, the factors of norms
# and activations. Then everything from the first residual stream to the logits is linear plus a
# constant, and `dsf.stack` has recorded it. One pass backwards gives the share of every part.
#
# A *difference* of logits asks why this and not that: the right value against a wrong one.

# %%
stack = dsf.stack(folder("llama"), input_ids=drawn.tokens)
share = stack.attribute(answer, against=wrong, position=asked)
print(share)
largest = share.tokens[0].abs().argsort(descending=True)[:4].tolist()
for at in largest:
    print(f"{at:2} {words[at]}  {share.tokens[0, at].item():+.2f}")

# %% [markdown]
# The token that holds the answer has the largest share. Nothing is missing: the shares of the tokens
# and the remainder (biases) sum to the number, and so do those of the layers.

# %% tags=["proved"]
parts = torch.cat([share.tokens[0], share.remainder])
certificate = dsf.certify.row_sums(
    torch.cat([parts, -share.value])[None], target=0.0, tolerance=1e-9
)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# ## Layers: direct and total
#
# *Direct* is what a layer adds to the logit along residual connections alone. *Total* counts what later
# layers make of it, too. The first layer says next to nothing to the logit itself, yet without what it
# passes on there is no answer: a layer can matter through another one.

# %%
for name, direct in share.layers.items():
    print(f"{name:26} direct {direct.item():+6.2f}  total {share.total[name].item():+6.2f}")
whole = share.embedding + sum(share.layers.values()) + share.remainder
torch.testing.assert_close(whole, share.value)

# %% [markdown]
# ## Edges
#
# An edge is one token read by another in one layer. Its share is its weight in the map, times how much
# the value that it reads moves the logit. A large weight with a value that says nothing has no share.

# %%
for edge in share.strongest_edges(4):
    written, read = words[edge["query"]], words[edge["key"]]
    print(f"{edge['layer']:26} {written} reads {read}: {edge['share']:+.2f}")
last = "model.layers.1.self_attn"
plot.heat_maps(
    {
        "the map, head 0": stack.inspection[last].map()[0, 0],
        "shares, both heads": share.edge_sums(last)[0],
    },
    tokens=words,
    label="share (logits)",
)
plt.show()

# %% [markdown]
# The viewer shows all of it together. *Shares* shades the tokens and draws the strongest paths; every layer
# begins with its edges. Where widgets do not run you see a picture of the edges and of the two maps.

# %%
prompt = dsf.inspect(folder("llama"), input_ids=drawn.tokens, tokens=[words], checks="none")
target = f"{words[source]} against {words[9]}"
dsf.show(prompt, attribution=share, target=target, paths=share.paths(3))

# %% [markdown]
# The map of the last layer is full; one edge carries the answer. Are all shares positive, so that they
# could be read as percentages? No: tokens also speak against the answer.

# %% tags=["refuted"]
certificate = dsf.certify.nonnegative(share.tokens)
print(certificate)
print("witness:", dict(certificate.witness))
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## A model without attention
#
# The same for Mamba-2, which has no attention weights: its map is that of a state-space model, and the
# shares sum as before.

# %%
other = dsf.stack(folder("mamba2"), input_ids=drawn.tokens)
other_share = other.attribute(answer, against=wrong, position=asked)
print(other_share)
for edge in other_share.strongest_edges(3):
    written, read = edge["query"], edge["key"]
    print(f"{edge['layer']:26} {written} {words[written]} reads {read} {words[read]}")
torch.testing.assert_close(other_share.tokens.sum(-1) + other_share.remainder, other_share.value)

# %% [markdown]
# ## Predict what a cut does
#
# A share does not say what the model would answer *without* an edge, since what was held would then
# change. For that question count edges by their **gradient**: one backward pass through the whole model,
# norms, gates and softmax included, times what the edge adds. It is what cutting the edge loses, to
# first order.
#
# `agreement` cuts edges one by one, the strongest and some at random, and measures what is lost.

# %%
agreed = stack.attribute(answer, position=asked).agreement(edits=40)
print(agreed)
lost = [edge["measured"] for edge in agreed.edges]
_, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for panel, way in zip(axes, ("held", "gradient"), strict=True):
    panel.axline((0, 0), slope=1, color="0.8", zorder=0)
    panel.scatter([edge[way] for edge in agreed.edges], lost, s=14)
    panel.set(xlabel=f"share of the edge, by {way} (logits)")
    panel.set_title(f"rank correlation {agreed.spearman(way):.2f}")
axes[0].set_ylabel("lost when it is cut (logits)")
plt.show()

# %% [markdown]
# The gradient ranks the cuts better. It underestimates the largest of them, which change the factors
# most: for these `strongest_edges(by="gradient")` averages it along the way from the cut to the whole
# edge. Shares with held factors still have what the gradient has not: they sum to the logit.
#
# Look at the agreement before you trust a ranking. Notebook 15 cuts the wire and looks.

# %%
for edge in share.strongest_edges(3, by="gradient"):
    read = f"{words[edge['query']]} reads {words[edge['key']]}"
    print(f"{edge['layer']:26} {read}  {edge['share']:+.1f}, averaged {edge['integrated']:+.1f}")
assert agreed.spearman("gradient") > agreed.spearman("held")

# %% [markdown]
# ## Exercises
#
# **1.** Complete or not? Return by how much an attribution's layers miss its value, relative to the
# value.

# %% [markdown] tags=["hints"]
# - The cell above on layers has the sum already.
# - Divide the size of the difference by the size of `share.value`; `[0].item()` makes it a
#   number.


# %% tags=["solution"]
def missing(share):
    """|embedding + layers + remainder - value| / |value| of the first sample."""
    whole = share.embedding + sum(share.layers.values()) + share.remainder
    return ((whole - share.value).abs() / share.value.abs())[0].item()


# %% tags=["check"]
for each in (share, other_share):
    found = missing(each)
    assert 0 <= found < 1e-5, f"the layers of {each} sum to the value, but you find {found:.1e}"
assert missing(stack.attribute(answer, position=asked)) < 1e-5, "another target has another sum"
print("exercise 1: right")

# %% [markdown]
# **2.** Which token does the answer come from? Return the token that the last layer's strongest edge
# reads, for an attribution and the name of a layer.

# %% [markdown] tags=["hints"]
# - `share.edge_sums(layer)[0]` has queries as rows and keys as columns.
# - The place of the largest magnitude in the flattened table is row times columns plus column:
#   take the remainder.


# %% tags=["solution"]
def read_most(share, layer):
    """The number of the token read by the edge of ``layer`` with the largest absolute share."""
    edges = share.edge_sums(layer)[0]
    return edges.abs().flatten().argmax().item() % edges.shape[1]


# %% tags=["check"]
queries = (drawn.targets[0] != recall.SILENT).nonzero().flatten().tolist()
for place in queries:
    right = drawn.targets[0, place].item()
    found = read_most(stack.attribute(right, position=place), last)
    expected = drawn.tokens[0].tolist().index(right)
    assert close(found, expected), f"the token that the answer at token {place} comes from"
print("exercise 2: right")

# %% [markdown]
# **3.** Why this *and not that*? The difference of two logits is one number. Return the shares of the
# tokens in it from two attributions of single logits.

# %% [markdown] tags=["hints"]
# - Attribution is linear in its target.
# - Then the shares of a difference are the difference of the shares.


# %% tags=["solution"]
def shares_of_a_difference(first, second):
    """Token shares of (first target's logit - second target's logit), from the two apart."""
    return first.tokens - second.tokens


# %% tags=["check"]
apart = shares_of_a_difference(
    stack.attribute(answer, position=asked), stack.attribute(wrong, position=asked)
)
assert close(apart, share.tokens), "attribution is linear in its target"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - With the coefficients of a run held, a logit is a sum over tokens, and a sum over layers, exactly.
# - Direct shares miss what a layer does through later ones; total shares overlap.
# - Shares have signs. They are of this run; what a cut loses is predicted by the gradient instead.
#
# **Further reading:** the page *Which tokens and layers made the model say this?* of the documentation;
# Elhage et al. 2021, *A mathematical framework for transformer circuits*.
