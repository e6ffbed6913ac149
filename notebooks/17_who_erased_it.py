# %% [markdown]
# # 17. Who erased it?
#
# A model of fixed memory forgets. Averages say how fast; for a linear time-varying system there is an
# exact account. The query i reads $C_i \Phi(i, j) B_j$ of token j. Had nothing come between, it would
# read $C_i B_j$. The difference is shared among the tokens between:
#
# $$C_i \Phi(i, j) B_j - C_i B_j = \sum_{s=j+1}^{i} C_i (A_s - I)\, \Phi(s-1, j)\, B_j .$$
#
# **You will learn** to read that account, to tell decay from overwriting, to weigh it by an answer,
# and to protect a token from what erased it.

# %%
import torch
import transformers
from exercises import close

import dsf
from dsf.interventions.edits import Protect
from dsf.loading import load_model
from dsf.measures.erasers import erasers
from dsf.mixers import DeltaNet
from dsf.models import folder, recall

transformers.logging.set_verbosity_error()
torch.set_default_dtype(torch.float64)

# %% [markdown]
# ## One association, two writes to its key
#
# Token 0 writes under a key, tokens 1 and 2 under others, tokens 3 and 4 under the first key again.

# %%
key = torch.eye(4)[[0, 1, 2, 0, 0]]
rule = DeltaNet(query=key, key=key, value=key, rate=torch.ones(5))
account = erasers(rule.system(), query=4, key=0)
for each in account:
    print(each.token, f"decay {each.decay:+.1f}, overwriting {each.overwriting:+.1f}")
assert [each.total for each in account] == [0, 0, -1, 0]

# %% [markdown]
# Token 3 took all, so that nothing was left for token 4. A delta rule overwrites and does not decay: a
# report that calls the loss "decay" would send you after the wrong cure.
#
# No step of this rule makes the state larger. That is a claim about every token:

# %% tags=["proved"]
certificate = dsf.certify.nonexpansive(rule.key, rule.rate)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# So is this state forgotten after three tokens? If every product of decays over three tokens were small,
# yes. This rule has no decay at all:

# %% tags=["refuted"]
certificate = dsf.certify.decay(torch.zeros(5), width=3, most=0.5)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.REFUTED
assert dsf.certify.horizon(rule.system(), 0.5).width is None

# %% [markdown]
# ## In a model
#
# A hybrid of softmax attention and gated delta rules recalls which value followed a key. At its last
# query, which token erased which, in any layer?

# %%
model = load_model(folder("qwen3_next")).model
ids, targets = recall.draw(torch.Generator().manual_seed(0), samples=1)
asked = (targets[0] != recall.SILENT).nonzero()[-1].item()
answer = targets[0, asked].item()
ids = ids[:, : asked + 1]
found = dsf.inspect(model, input_ids=ids, tokens=[recall.spell(ids[0])])
print(found.erasers(query=-1, count=5))

# %% [markdown]
# Most of these losses are good riddance. Weighed by the gradient of the right logit, `forgotten` says
# what the *answer* lacks; `Protect` lets the trace of the key pass its eraser unchanged.

# %%
share = dsf.stack(model, input_ids=ids).attribute(answer, position=asked)
first = next(pair for pair in share.forgotten(20) if pair["share"] > 0)
spared = Protect(first["layer"], key=first["key"], from_=first["token"])
result = dsf.intervene(model, edits=[spared], input_ids=ids)
gained = result.effect(answer, position=asked).item()
print(spared)
print(f"predicted {first['share']:+.3f}, measured {gained:+.3f}")
assert abs(gained - first["share"]) < 0.3 * abs(gained)

# %% [markdown]
# ## Exercises
#
# **1.** Write the account yourself, from the matrices of a system with one input and one output.

# %% [markdown] tags=["hints"]
# - Follow the trace of the key, a vector: at token s it becomes `A[s] @ trace`.
# - The share of token s is what the query reads of the trace after s, less what it reads before.


# %% tags=["solution"]
def shares(A, B, C, i, j):
    """The shares of the tokens j+1 ... i, a list of numbers. A, B, C have a time axis first."""
    trace, found = B[j], []
    for s in range(j + 1, i + 1):
        after = A[s] @ trace
        found.append((C[i] @ (after - trace)).item())
        trace = after
    return found


# %% tags=["check"]
system = rule.system()
written = shares(system.A.dense(), system.B, system.C, 4, 0)
assert close(written, [each.total for each in account])
print("exercise 1: right")

# %% [markdown]
# **2.** Split the share of one token: the part by the decays, and the rest.

# %% [markdown] tags=["hints"]
# - The decays are a diagonal: alone they make `decay * trace` of the trace.
# - Overwriting is what `A @ trace` has beyond that, read by the query.


# %% tags=["solution"]
def split(A, decay, trace, query):
    """Decay and overwriting, two numbers, of one token with the matrix A = diag(decay) + ..."""
    kept = decay * trace
    return (query @ (kept - trace)).item(), (query @ (A @ trace - kept)).item()


# %% tags=["check"]
half = 0.5 * (torch.eye(4) - torch.outer(key[0], key[0]))
parts = split(half, torch.full((4,), 0.5), key[0] + key[1], key[0] + key[1])
assert close(parts, (-1.0, -0.5))
print("exercise 2: right")

# %% [markdown]
# **3.** Return the edit that protects a key from *all* tokens up to, not including, a place.

# %% [markdown] tags=["hints"]
# - The first token that can erase a key is the one after it.
# - `until=` is the first token that acts on the trace again.


# %% tags=["solution"]
def sheltered(layer, key, place):
    """The edit after which the trace of ``key`` reaches ``place`` unchanged."""
    return Protect(layer, key=key, from_=key + 1, until=place)


# %% tags=["check"]
edit = sheltered(first["layer"], first["key"], asked)
assert (edit.from_, edit.until) == (first["key"] + 1, asked), "it should be spared all the way"
whole = dsf.intervene(model, edits=[edit], input_ids=ids).effect(answer, position=asked).item()
print(f"exercise 3: right; spared from one token {gained:+.2f}, from all {whole:+.2f}")

# %% [markdown]
# ## Summary
#
# - Every later token has an exact share in what a query no longer reads, split into decay and overwriting.
# - The account follows the order of the tokens. Of two tokens that write to one key the first has the share,
#   and neither gives the key back alone: effects of single protections do not add up.
# - `forgotten` weighs the pairs by an answer, to first order; `Protect` measures one.
#
# **Further reading:** the page *Who erased a token?* of the documentation; Yang et al. 2025, *Gated Delta
# Networks* (arXiv:2412.06464), on decay and overwriting in one rule.
