# %% [markdown]
# # 16. A real language model
#
# The models of the other notebooks are small enough to be trained on a desk. This one is not:
# **SmolLM2-135M-Instruct** has 30 layers of 9 heads and 135 million weights. It fits in a file of
# 98 MB, most weights rounded to 16 levels in blocks of 32 (GGUF, Q4_1), with its tokenizer inside.
#
# **You will learn** to read a GGUF file, to ask why a model said something and what it says without
# that, to find attention sinks and heads that look one token back, and to find heads that continue
# what they have read before: *induction heads*.
#
# The file is not part of the package. In a checkout, `make pretrained` fetches it together with other
# trained models (250 MB), and `python tests/pretrained/fetch.py smollm2` fetches it alone. Without it
# the notebook runs on a small model of the package, and says so.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import transformers
from exercises import close

import dsf
from dsf import measures
from dsf.loading import load_model, token_texts
from dsf.models import folder
from dsf.report import plot

transformers.logging.set_verbosity_error()
here = Path.cwd()
kept = [Path(os.environ.get("DSF_PRETRAINED", here / ".pretrained"))]
kept += [parent / ".pretrained" for parent in here.parents]
found = [place / "smollm2" for place in kept if (place / "smollm2").is_dir()]
real = bool(found)
if not real:
    print(
        "SmolLM2 is not here, so a small model of the package takes its place, and says less: what is "
        "written below about sinks and induction is not true of it.\n"
        "For the real one (98 MB): 'python tests/pretrained/fetch.py smollm2' in the checkout of dsf, "
        "then Run All again."
    )

# %% [markdown]
# ## Read
#
# The header of a GGUF file is checked against the file before anything else happens; then the weights
# are expanded to float32. The model has been rounded, but it still knows where it is:

# %%
loaded = load_model(found[0] if real else folder("text_llama"))
print(*loaded.notes, sep="\n")
prompt = loaded.tokenizer("The capital of France is", return_tensors="pt")
with torch.no_grad():
    scores = loaded.model(**prompt).logits[0, -1]
shares, likeliest = scores.softmax(dim=-1).topk(4)
for token, share in zip(token_texts(loaded.tokenizer, likeliest.tolist()), shares, strict=True):
    print(f"{token!r:10} {share:.0%}")
assert not real or loaded.tokenizer.decode(likeliest[0]) == " Paris"

# %% [markdown]
# ## Why did it say that, and what if it could not?
#
# The model writes twenty tokens. The seventh is shared among the edges of all layers: what one token
# reads from another. The strongest edge is cut, and the model writes again. The cut holds in every
# step, also for the tokens that come later. The same ten lines serve a hybrid of softmax attention
# and gated delta rules, where softmax attention is one layer of three.

# %%
twenty = {"max_new_tokens": 20, "min_new_tokens": 20, "do_sample": False, "use_cache": True}
hybrid = load_model(folder("text_qwen3_next"))
for each, text in ((loaded, "The capital of France is"), (hybrid, "To-morrow, and to-morrow")):
    ids = each.tokenizer(text, return_tensors="pt").input_ids
    with dsf.attentions(each.model) as seen:
        said = each.model.generate(ids, **twenty)
    before = said[:, : ids.shape[1] + 6]
    edge = dsf.attribute(each.model, input_ids=before).strongest_edges(1)[0]
    cut = dsf.edits.Cut(edge["layer"], query=edge["query"], key=edge["key"])
    with dsf.edits.applied(each.model, cut):
        logits, now = each.model(input_ids=before).logits, each.model.generate(ids, **twenty)
    assert logits.equal(dsf.intervene(each.model, input_ids=before, edits=cut).output)
    print(each.tokenizer.batch_decode([said[0], now[0]]), edge)

    whole = dsf.inspect(each.model, input_ids=said[:, :-1], checks="none")
    apart = max((seen.maps[layer.name] - layer.map()).abs().max().item() for layer in whole)
    print(f"the maps of {len(whole)} layers, prompt and steps joined: {apart:.0e} from one run's\n")
    assert apart < 1e-5

# %% [markdown]
# Logits under the cut are those of `dsf.intervene`, bit for bit. The maps that were seen while the
# model wrote differ from those of one run over the whole text by the rounding of the run itself:
# single precision adds up one query in another order than twenty.

# %% [markdown]
# Now a text that says everything twice. All 30 layers are rebuilt, and each is compared with its own
# module in float64.

# %%
once = (
    " The ferry to the island leaves at seven, carries eleven goats, two priests and a piano,"
    " and nobody on board has ever asked why."
)
ids = torch.tensor([loaded.tokenizer("Twice:" + once + once)["input_ids"]])
words = token_texts(loaded.tokenizer, ids[0].tolist())
inspection = dsf.inspect(loaded.model, input_ids=ids, tokens=[words])
print(inspection)
print("formula :", max(layer.formula for layer in inspection))
print("rounding:", max(layer.rounding for layer in inspection))
assert max(layer.formula for layer in inspection) <= 1e-12
maps = torch.stack([layer.map()[0] for layer in inspection])  # layer, head, query, key
print("maps:", tuple(maps.shape))

# %% [markdown]
# ## Sinks
#
# Rows of softmax sum to one, so a head that has nothing to say must put its weight somewhere. Trained
# models put it on the first token, whatever that token is.

# %%
sinks = torch.stack([measures.sink_mass(layer.system)[0] for layer in inspection])
plot.heat_map(
    sinks, title="share of the weight on the first token", label="share", x="head", y="layer"
)
plt.show()
print(f"{(sinks > 0.3).double().mean():.0%} of all heads rest on the first token")
print("in the first two layers:", f"{(sinks[:2] > 0.3).double().mean():.0%}")
assert not real or (sinks[:2] < 0.3).all()
assert not real or (sinks > 0.3).double().mean() > 0.4

# %% [markdown]
# The text was read from left to right with weights that cannot be negative and sum to one:

# %% tags=["proved"]
layer, head = divmod(int(sinks.argmax()), sinks.shape[1])
resting = maps[layer, head]
for certificate in (
    dsf.certify.causal(resting),
    dsf.certify.nonnegative(resting),
    dsf.certify.row_sums(resting, tolerance=1e-6),
):
    print(certificate)
    assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# Without the first token hardly anything is left of this head. How little it says about the text is
# seen once the sink is taken away:

# %% tags=["refuted"]
certificate = dsf.certify.row_sums(resting[1:, 1:], tolerance=0.5)
print(certificate)
print("witness:", dict(certificate.witness or {}))
assert not real or certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## One token back, and once before
#
# Two kinds of heads work together when a text repeats itself. A *previous-token head* writes into
# each token what came before it. An *induction head* in a later layer looks for the place where the
# present token came before, and reads what followed.

# %%
before = maps.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=-1)
layer, head = divmod(int(before.argmax()), before.shape[1])
print(f"layer {layer}, head {head}: {before[layer, head]:.0%} of its weight on the token before")
plot.heat_map(maps[layer, head], tokens=words, title=f"one token back: layer {layer}, head {head}")
plt.show()
assert not real or before.max() > 0.6

# %% [markdown]
# ## Exercises
#
# **1.** The second time around starts at token `start`; each of its tokens has a twin `period` tokens
# earlier. Give `period`, from the tokens of the text.

# %% [markdown] tags=["hints"]
# - Try every period and count how far back from the end tokens agree with those so many places
#   earlier.
# - Compare `tokens[-1 - same]` with `tokens[-1 - same - period]` and go back while they agree.
# - The period with the longest stretch is the answer.


# %% tags=["solution"]
def repeated_after(tokens):
    """After how many tokens the end of ``tokens`` repeats itself for the longest stretch."""
    longest = {}
    for period in range(1, len(tokens)):
        same = 0
        while same < len(tokens) - period and tokens[-1 - same] == tokens[-1 - same - period]:
            same += 1
        longest[period] = same
    return max(longest, key=longest.get)


# %% tags=["check"]
period = repeated_after(ids[0].tolist())
assert ids[0, -period:].tolist() == ids[0, -2 * period : -period].tolist(), (
    f"the last {period} tokens are not those before them"
)
assert close(repeated_after([7, 1, 2, 3, 1, 2, 3]), 3), "the period of 7 1 2 3 1 2 3"
print(f"exercise 1: right, after {period} tokens")

# %% [markdown]
# **2.** For every head, the mean weight that the queries of the second time put on the token *after*
# their twin. The twin of query `i` is `i - period`, and the last token has one too.

# %% [markdown] tags=["hints"]
# - Which queries? The last `period` tokens. Which key does query $i$ ask for?
# - The token after the twin is `i - period + 1`.
# - Index rows and columns with two tensors of the same length, then take the mean over the last
#   axis.


# %% tags=["solution"]
def induction(maps, period):
    """The mean weight on the token after the twin, over the queries that have one: layer, head."""
    queries = torch.arange(maps.shape[-1] - period, maps.shape[-1])
    return maps[..., queries, queries - period + 1].mean(dim=-1)


# %% tags=["check"]
tiny = torch.zeros(2, 3, 4, 4)
tiny[1, 2, 2, 1], tiny[1, 2, 3, 2] = 0.5, 0.25
mean = torch.zeros(2, 3)
mean[1, 2] = 0.375
assert close(induction(tiny, 2), mean), "for every layer and head, on the token after the twin"
score = torch.as_tensor(induction(maps, period))
layer, head = divmod(int(score.argmax()), score.shape[1])
assert not real or score.max() > 0.4, (
    f"a head of this model has more than 0.4, your largest is {score.max():.2f}"
)
print(f"exercise 2: right, layer {layer}, head {head}: {score.max():.0%}")
plot.heat_map(maps[layer, head], tokens=words, title=f"induction: layer {layer}, head {head}")
plt.show()

# %% [markdown]
# **3.** Nothing follows from a high score alone: a head that always looks `period - 1` tokens back
# would have it too, on any text. Compare with a text that does not repeat itself: the same tokens in
# another order, `order`, the same for all. Return the score there of the head that won.

# %% [markdown] tags=["hints"]
# - Run `dsf.inspect` on `ids[:, order]`, for one layer only: `layers=[layer]`.
# - Take the head with `map()[:, head]` and the score of exercise 2.


# %% tags=["solution"]
def control(model, ids, order, layer, head, period):
    """The induction score of a head when the tokens come in another order."""
    shuffled = dsf.inspect(model, input_ids=ids[:, order], layers=[layer])
    return induction(shuffled[0].map()[:, head], period)[0].item()


# %% tags=["check"]
order = torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))
apart = control(loaded.model, ids, order, layer, head, period)
assert not real or apart < 0.2 * score.max(), (
    f"{apart:.3f} without repetition: were the tokens reordered?"
)
print(f"exercise 3: right, {score.max():.0%} with repetition, {apart:.1%} without")

# %% [markdown]
# ## Summary
#
# - A quantised file is a model like any other: expanded, inspected, and compared with itself.
# - Much of a trained model's attention rests on the first token; look past it before you read a map.
# - A score needs a control. Heads are named by what they do on a text made for the question.
#
# **Further reading:** Xiao et al. 2023 (arXiv:2309.17453) on attention sinks; Olsson et al. 2022
# (arXiv:2209.11895) on induction heads; Allal et al. 2025 (arXiv:2502.02737) on SmolLM2.
