# %% [markdown]
# # 18. Which layer made the run differ?
#
# A model says something else in bfloat16, with a cache, on another engine. Which layer did that? Going
# through the layers by hand finds where two runs are apart, and not where they *parted*: an error is
# passed on. An audit separates what each stage **adds by itself** from what it only passes on.
#
# **You will learn** to read a ledger, to tell rounding from a fault, to find the token at which a fault
# begins, and to measure what storing the state with few bits does.

# %%
import copy

import torch
import transformers
from exercises import close

import dsf
from dsf.loading import load_model
from dsf.models import folder, recall

transformers.logging.set_verbosity_error()
model = load_model(folder("mamba2")).model
ids = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens[:, :20]

# %% [markdown]
# ## Rounding
#
# The reference is the model in float64. The run under suspicion has its weights and values in bfloat16.
# Every row is a stage of a layer: `own` is what it adds by itself, relative to its result, and `share`
# what that moves the number, here the margin between the two top logits.

# %%
half = dsf.audit(model, input_ids=ids, dtype="bfloat16")
print(half)
assert half.is_healthy

# %% [markdown]
# Nobody is accused: number type and length explain every own. The shares sum to the change, because
# each is an own times the derivative of the number on the way between the two runs.

# %% tags=["proved"]
shares = torch.tensor([row.share for row in half.rows], dtype=torch.float64)
change = torch.tensor([-half.actual], dtype=torch.float64)
certificate = dsf.certify.row_sums(
    torch.cat([shares, change])[None], target=0.0, tolerance=0.01 * abs(half.actual)
)
print(certificate)
assert certificate.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# Do the errors add up, all in one direction? No: rounding has no direction.

# %% tags=["refuted"]
certificate = dsf.certify.nonnegative(shares[None])
print(certificate)
print("witness:", dict(certificate.witness))
assert certificate.verdict is dsf.certify.Verdict.REFUTED

# %% [markdown]
# ## A fault
#
# A port of this model forgot the feedthrough D of one mixer. Its outputs are wrong from there on, in all
# later layers too. The ledger has one culprit, and its stage.

# %%
port = copy.deepcopy(model)
mixers = [name for name, module in port.named_modules() if name.endswith("mixer")]
port.get_submodule(mixers[-1]).D.data.zero_()
broken = dsf.audit(model, input_ids=ids, suspect=port)
print(broken.sentence)
assert (broken.rows[0].layer, broken.rows[0].stage) == (mixers[-1], "read-out")
assert len(broken.accused) == 1

# %% [markdown]
# ## A state with few bits
#
# Engines store the recurrent state in fewer bits than they compute with. `state_dtype` rounds the states
# after every token, and nothing else.

# %%
stored = dsf.audit(model, input_ids=ids, state_dtype="int8")
for row in stored.accused:
    print(
        f"{row.layer} {row.stage}: own {row.own:.0e}, share {row.share:+.1e} of {stored.actual:+.1e}"
    )
assert {row.stage for row in stored.accused} == {"state"}

# %% [markdown]
# ## Exercises
#
# **1.** What did a layer add by itself? Return its own, relative, from what it returned in the run under
# suspicion and what the reference makes of the *same input*.

# %% [markdown] tags=["hints"]
# - The difference of the two tensors, and the size of the second.
# - Sizes are norms: roots of sums of squares. `.item()` makes a number of a tensor.


# %% tags=["solution"]
def own_of(returned, exact):
    """|returned - exact| / |exact|."""
    return ((returned - exact).norm() / exact.norm()).item()


# %% tags=["check"]
exact = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
assert close(own_of(exact * 1.5, exact), 0.5)
assert close(own_of(exact, exact), 0.0)
print("exercise 1: right")

# %% [markdown]
# **2.** What does that move? Return the share of a layer from its own (a tensor, as it is, not relative)
# and from the derivative of the number by what the layer returned.

# %% [markdown] tags=["hints"]
# - A small change of a tensor moves a number by the inner product of change and derivative.
# - Multiply entry by entry and sum; `.item()` makes a number of it.


# %% tags=["solution"]
def share_of(own, derivative):
    """<own, derivative>."""
    return (own * derivative).sum().item()


# %% tags=["check"]
weights = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
x = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64)
own = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
assert close(share_of(own, weights), ((x + own) @ weights - x @ weights).item())
middle = 2 * (x + own / 2)  # the derivative of the sum of squares half way: exact for squares
assert close(share_of(own, middle), ((x + own).square().sum() - x.square().sum()).item())
print("exercise 2: right")

# %% [markdown]
# **3.** Where does it begin? Return the first token whose own exceeds a limit; None without one.

# %% [markdown] tags=["hints"]
# - Compare token by token, from the first on.
# - `enumerate` counts them; return as soon as one exceeds the limit.


# %% tags=["solution"]
def first_token(owns, limit):
    """The first place of a list of numbers with more than the limit."""
    return next((place for place, own in enumerate(owns) if own > limit), None)


# %% tags=["check"]
assert close(first_token([0.1, 0.0, 0.4, 0.5], 0.3), 2)
assert first_token([0.1, 0.2], 0.3) is None, "no token exceeds the limit"
print("exercise 3: right")

# %% [markdown]
# ## Summary
#
# - What a stage adds by itself, times what that moves a number, is its share; the shares sum to the change.
# - An own is judged by what its number type, or a healthy run of the same type, explains.
# - Where rounding is all there is, the audit accuses nobody, however much the logit moved.
#
# **Further reading:** the pages *Find out why two runs differ* and *Prefill and decode* of the
# documentation; Higham 2002, *Accuracy and Stability of Numerical Algorithms*, on backward errors.
