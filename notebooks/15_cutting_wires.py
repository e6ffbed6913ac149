# %% [markdown]
# # 15. Cutting wires
#
# Notebook 14 shared an answer among edges. Here the edges are cut while the model runs, and the rest
# of the model reacts: later layers compute their attention weights, decays and gates anew.
#
# **You will learn** to edit a map in a running model, to test whether an edge carries an answer
# (against cutting others), to clear and to exchange the state of a recurrent layer, and to sweep.

# %%
import torch
import transformers
from exercises import close

import dsf
from dsf.interventions.edits import Ablate, Cut, Forget, StateFrom
from dsf.loading import load_model
from dsf.models import folder, recall

transformers.logging.set_verbosity_error()
drawn = recall.draw(torch.Generator().manual_seed(0), samples=16)
ids, targets = drawn
asked = [(row != recall.SILENT).nonzero()[-1].item() for row in targets]
answers = [row[place].item() for row, place in zip(targets, asked, strict=True)]
sources = [row.tolist().index(answer) for row, answer in zip(ids, answers, strict=True)]
llama = load_model(folder("llama")).model


def right(output):
    """Share of the last queries that are answered rightly."""
    said = [output[k, place].argmax().item() for k, place in enumerate(asked)]
    return sum(a == b for a, b in zip(said, answers, strict=True)) / len(answers)


# %% [markdown]
# ## One edge
#
# In each of the 16 prompts, cut one edge of the last layer: from the token that holds the answer to the
# token that asks. Then cut another edge to the same token instead. An edit of one sample leaves the
# others alone, so one run cuts a different edge in each.

# %%
last = "model.layers.1.self_attn"
places = list(zip(asked, sources, strict=True))
carrying = [Cut(last, samples=[k], query=[i], key=[j]) for k, (i, j) in enumerate(places)]
elsewhere = [
    Cut(last, samples=[k], query=[i], key=[(j + 4) % 10]) for k, (i, j) in enumerate(places)
]
cut = dsf.intervene(llama, edits=carrying, input_ids=ids)
control = dsf.intervene(llama, edits=elsewhere, input_ids=ids)
print(f"clean {right(cut.clean):.0%}, carrying edge cut {right(cut.output):.0%}, ", end="")
print(f"another edge cut {right(control.output):.0%}")
print(carrying[0])
assert right(cut.clean) > 0.9
assert right(cut.output) < 0.1
assert right(control.output) > 0.9

# %% [markdown]
# Nothing moves before the edge: a causal model with an edge cut into token i gives the same logits at
# all earlier tokens, to the last bit.

# %% tags=["proved"]
moved = (cut.output - cut.clean)[0, : asked[0]].abs()
certificate = dsf.certify.row_sums(moved, target=0.0, tolerance=1e-12)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# The viewer switches between the two runs: *Edits* shades every token by how much the output after it moves,
# and lists the last logits, *Clean* or *Changed*. Where widgets do not run you see a picture of the maps.

# %%
first = ids[:1, : asked[0] + 1]
wired = Cut(last, query=[asked[0]], key=[sources[0]])
shown = dsf.inspect(llama, input_ids=first, tokens=[recall.spell(first[0])], checks="none")
dsf.show(shown, intervention=dsf.intervene(llama, edits=[wired], input_ids=first))

# %% [markdown]
# Does the cut only lower the right logit, so that nothing else gains? No: other logits rise.

# %% tags=["refuted"]
certificate = dsf.certify.nonnegative((cut.clean - cut.output)[0, asked[0]][None])
print(certificate)
print("witness:", dict(certificate.witness))
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## A memory
#
# Mamba-2 has no edges to hold on to: what it knows of earlier tokens is its state. `Forget` clears the
# state before a token. After the pairs (token 10) that is the end of the answers; where nothing has
# been read yet (token 0) it changes nothing.

# %%
mamba2 = load_model(folder("mamba2")).model
late = dsf.intervene(mamba2, edits=[Forget("*", token=10)], input_ids=ids)
none = dsf.intervene(mamba2, edits=[Forget("*", token=0)], input_ids=ids)
print(f"clean {right(late.clean):.0%}, forgotten at 10 {right(late.output):.0%}, ", end="")
print(f"at 0 {right(none.output):.0%}")
assert right(late.output) < 0.5 < right(none.output)

# %% [markdown]
# A state can be exchanged, too. The state of a run that is put back into the same run changes nothing.

# %%
own = dsf.inspect(mamba2, input_ids=ids)
same = dsf.intervene(mamba2, edits=[StateFrom("*", 10, own)], input_ids=ids)
print(f"its own state: logits move by {(same.output - same.clean).abs().max().item():.0e}")
assert (same.output - same.clean).abs().max() < 1e-3

# %% [markdown]
# ## A sweep
#
# Many edits, one after the other, and the effect of each on one number. Here every head of the llama is
# ablated.

# %%
heads = [Ablate(layer, heads=[head]) for layer in (0, 1) for head in (0, 1)]
effects = dsf.sweep(llama, edits=heads, target=answers[0], position=asked[0], input_ids=ids[:1])
for edit, effect in zip(heads, effects[:, 0].tolist(), strict=True):
    print(edit, f"{effect:+.2f}")

# %% [markdown]
# ## Exercises
#
# **1.** Write the edit after which token `place` reads nothing but itself in every layer.

# %% [markdown] tags=["hints"]
# - An edit for all layers names them `"*"`.
# - `Cut` takes the tokens that are written and those that are read: every token before `place`.


# %% tags=["solution"]
def blind(place):
    """The edit that cuts every edge from an earlier token into ``place``, in all layers."""
    return Cut("*", query=[place], key=slice(0, place))


# %% tags=["check"]
result = dsf.intervene(llama, edits=[blind(asked[0])], input_ids=ids[:1])
assert torch.equal(result.output[:, : asked[0]], result.clean[:, : asked[0]]), (
    "tokens before it should not notice"
)
assert not close(result.output[0, asked[0]], result.clean[0, asked[0]]), "nothing is cut"
assert result.output[0, asked[0]].argmax() != answers[0], "it still knows the answer"
print("exercise 1: right")

# %% [markdown]
# **2.** Share against effect. For one edit, return the effect on the logit of `target` at `place`.

# %% [markdown] tags=["hints"]
# - `dsf.intervene` runs the model with and without the edits.
# - Its result has `effect(target, position=...)`; one number comes out with `.item()`.


# %% tags=["solution"]
def effect_of(edit, target, place):
    """The logit with the edit less the logit without, on the first prompt (a number)."""
    result = dsf.intervene(llama, edits=[edit], input_ids=ids[:1])
    return result.effect(target, position=place).item()


# %% tags=["check"]
wire = Cut(last, query=[asked[0]], key=[sources[0]])
found = effect_of(wire, answers[0], asked[0])
expected = (cut.output - cut.clean)[0, asked[0], answers[0]].item()
assert abs(found - expected) < 1e-3, f"the effect is {expected:.3f}, not {found:.3f}"
share = dsf.stack(llama, input_ids=ids[:1]).attribute(answers[0], position=asked[0])
edge = share.edge_sums(last)[0, asked[0], sources[0]].item()
print(f"exercise 2: right; the edge's share is {edge:.2f}, the effect of cutting it {found:.2f}")

# %% [markdown]
# **3.** Edits are data. Return an edit as text that a file can hold, and the edit from such a text.

# %% [markdown] tags=["hints"]
# - Edits have `to_json()`, and `dsf.edits.from_json` makes them again.
# - `json.dumps` and `json.loads` are between those and a string.


# %% tags=["solution"]
def stored(edit):
    """The edit as a string of JSON."""
    import json

    return json.dumps(edit.to_json())


def loaded(text):
    """The edit that ``stored`` wrote."""
    import json

    return dsf.edits.from_json(json.loads(text))


# %% tags=["check"]
for edit in (wire, heads[0], Forget("*", token=3), blind(4)):
    text = stored(edit)
    assert isinstance(text, str), f"a string is wanted, not {type(text).__name__}"
    assert loaded(text) == edit, f"{edit} came back as {loaded(text)}"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - An edit changes one mixer; the rest of the model reacts.
# - A cut needs a control: other edges, other heads, other places.
# - Share and effect answer different questions. Show both.
#
# **Further reading:** the page *Which tokens and layers made the model say this?* of the documentation;
# Wang et al. 2022, *Interpretability in the wild* (arXiv:2211.00593), on circuits and ablations.
