# %% [markdown]
# # 12. Proofs and counter-examples
#
# A plot convinces, a measurement supports, a proof settles. Sentences about sequence models are
# often of the third kind ("is injective", "is stable", "needs infinitely many states") with
# evidence of the first. This notebook is about closing that gap with a computer, and about what a
# verdict is worth.
#
# | verdict | means | needs |
# |---|---|---|
# | `PROVED` | holds for everything the claim quantifies over | evidence that a checker accepted |
# | `REFUTED` | false | a **witness**, evaluated exactly |
# | `UNKNOWN` | no proof, no witness within the limits | says which limit was hit |
#
# (Claims of papers may also be `HOLDS_NUMERICALLY`: measured on the stated cases only.)
#
# **You will learn** to read a claim for its quantifier and its level, why floats are exact, how a
# small checker can be trusted when a large search cannot, and the ways in which published claims
# fail.

# %%
import json
import subprocess
import sys
import tempfile
from fractions import Fraction
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from exercises import close

import dsf
from dsf import measures
from dsf.certificates import checker
from dsf.report import plot

torch.set_default_dtype(torch.float64)
rng = torch.Generator().manual_seed(0)

# %% [markdown]
# ## Floats are fractions
#
# A float is not "about 0.1". It is an integer times a power of two, exactly. What rounds is the
# *arithmetic*; so do the arithmetic in fractions.

# %%
print(Fraction(0.1))
print("0.1 + 0.2 == 0.3 in floats:   ", 0.1 + 0.2 == 0.3)
print("the same sum in fractions off by", float(Fraction(0.1) + Fraction(0.2) - Fraction(0.3)))

# %% [markdown]
# Do the rows of softmax attention sum to one? As a formula, yes. As numbers that somebody stored:

# %% tags=["refuted"]
query, key, value = torch.randn(3, 24, 4, generator=rng)
map = dsf.attention_map(dsf.mixers.SoftmaxAttention(query=query, key=key, value=value).system())
exactly = dsf.certify.row_sums(map)
print(exactly)
assert exactly.verdict is dsf.certify.Verdict.REFUTED

# %% tags=["proved"]
nearly = dsf.certify.row_sums(map, tolerance=1e-15)
print(nearly)
assert nearly.verdict is dsf.certify.Verdict.PROVED

# %% [markdown]
# Both verdicts are right, they are about different sentences. Hence the **level** of a claim:
#
# | level | speaks about | rounding |
# |---|---|---|
# | `data` | the stored numbers, as exact fractions | none |
# | `real` | the real-valued map that the formulas define | enclosed, or symbols |
# | `float` | the program as it runs | its own subject |
#
# A verdict is printed with its level and never promoted to another. That the *formula* sums to one
# is shown with symbols, at level `real`, for any number of tokens. No checker reads symbols, so the
# verdict is `ARGUED`, and the argument is printed with it: `python -m papers INL-9` in a clone of the
# repository.

# %% [markdown]
# ## Large search, small trust
#
# Finding a proof may take linear algebra, random attacks, a thousand boxes: too much code to trust.
# Checking one takes little. In `dsf` every `PROVED` and `REFUTED` is written to a file, and one
# program of plain Python, which imports nothing, has to accept it first. It ignores the verdict
# that the file states and derives it anew. You can run it yourself:

# %%
run = Path(tempfile.mkdtemp())
dsf.certify.injective(key, folder=run)
[file] = run.glob("certificates/*.json")
print({name: json.loads(file.read_text())[name] for name in ("verdict", "evidence")})


def checked(file):
    command = [sys.executable, "-I", "-S", checker.__file__, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split(str(run))[0] + done.stdout.split(".json")[-1]


status, answer = checked(file)
print(answer.strip())
assert status == 0

# %% [markdown]
# Forge it. Somebody invents a witness, or cites keys that prove nothing, and even fixes the
# fingerprint of the file:


# %%
def forged(**changes):
    """The file with other content and a fingerprint that fits it."""
    content = json.loads(file.read_text()) | changes
    content["identity"] = checker.identity(content)
    other = file.with_name("forged.json")
    other.write_text(checker.canonical(content))
    return other


invented = {"row": 4, "null": [1, 0, 0, 0, 0]}
dependent = {"rows": [0, 1, 2, 3, 3]}
for changes in (
    {"verdict": "REFUTED", "witness": invented, "evidence": {}},
    {"evidence": dependent},
):
    status, answer = checked(forged(**changes))
    print(answer.strip())
    assert status == 1

# %% [markdown]
# ## For all queries of a box
#
# "The head is local" usually means: on this input. Ask instead about *every* query within $\pm
# \varepsilon$ of a given one: does the window keep at least the share $p$ of the row?
#
# $$\text{share}(q) = \frac{1}{1 + \exp(\mathrm{LSE}_{\text{out}}(q) - \mathrm{LSE}_{\text{in}}(q))} .$$
#
# Infinitely many queries; so bound the log-odds on a box, split the box where the bound is too
# loose, and attack with the worst corner. As the box grows the verdict turns:

# %%
keys, centre = torch.randn(64, 4, generator=rng), 1.6 * torch.randn(4, generator=rng)
scores = keys @ centre
keys = keys[scores.argsort()]  # the last keys are the ones this query likes
inside = torch.softmax(keys @ centre / 2, dim=0)[-16:].sum().item()
print(f"share of the window at the centre: {inside:.3f}")

widths, shares, verdicts = (0.05, 0.2, 0.5, 1.0), [], []
for width in widths:
    certificate = dsf.certify.locality(
        keys, (centre - width, centre + width), window=(48, 64), share=0.6, boxes=200
    )
    verdicts.append(certificate.verdict)
    shares.append(certificate.observed)
    print(
        f"+-{width}: {certificate.verdict.value:8} smallest share found {certificate.observed:.3f}"
    )
plot.curves(
    widths,
    {"smallest share found by attack": shares, "share claimed": [0.6] * len(widths)},
    x_label="half-width of the box",
    y_label="share of the window",
)
plt.show()

# %% tags=["proved"]
small = dsf.certify.locality(keys, (centre - 0.05, centre + 0.05), window=(48, 64), share=0.6)
print(small)
assert small.verdict is dsf.certify.Verdict.PROVED
assert verdicts[-1] is dsf.certify.Verdict.REFUTED

# %% [markdown]
# With too few boxes the honest answer is `UNKNOWN`, with the limit that was hit. A time-out proves
# nothing, in either direction.

# %%
tight = dsf.certify.locality(
    keys, (centre - 0.2, centre + 0.2), window=(48, 64), share=shares[1] - 1e-4, boxes=1
)
print(tight)
assert tight.verdict is dsf.certify.Verdict.UNKNOWN

# %% [markdown]
# ## How published statements fail
#
# The folder `papers` of the repository has statements of six papers, their misprints, what their
# released code does, and results about them. Every statement has a check that does not see the
# expected verdict, and only a sentence that a paper was seen to state is ever refuted. Those that are
# fail in few ways, and every one of these is easy to overlook:
#
# | statement | how it fails |
# |---|---|
# | MLA-8 | a sign: keys may be negative |
# | ZER-8 | a hull: convex, or affine? |
# | ZER-17 | a product of two centred things |
#
# `python -m papers MLA-8 ZER-8 ZER-17` prints each with its sentence, the case that anybody can
# recompute, and what still holds.
#
# A refuted sentence rarely refutes its paper. These are close to true ones: for keys that are not
# negative, for the convex hull, without the cosine. A witness shows how to correct the sentence.
#
# ### A measurement that misleads
#
# The numerical rank of a matrix depends on a threshold, its exact rank on the last bit. Here a
# matrix of rank two is stored with rounding. Which of the three numbers is "the rank"?

# %%
thin = torch.randn(30, 2, generator=rng) @ torch.randn(2, 6, generator=rng)
exact = dsf.certify.injective(thin, first_row=29)
numerical = measures.key_rank(thin)
margin = dsf.certify.margin(thin, first_row=29)
print("exact:    ", exact.verdict.value, "of full rank 7")
print("numerical:", numerical.rank.item(), "of 7, smallest singular value", numerical.margin.item())
print("certified:", margin)
assert exact.verdict is dsf.certify.Verdict.PROVED
assert numerical.rank == 3
assert margin.verdict is dsf.certify.Verdict.UNKNOWN

# %% [markdown]
# ## Exercises
#
# **1.** Sum a row exactly.

# %% [markdown] tags=["hints"]
# - Every float is a fraction: `Fraction(0.1)` is exact.
# - `row.tolist()` gives Python floats; start the sum with `Fraction(0)`.


# %% tags=["solution"]
def exact_sum(row):
    """The sum of a row (a tensor of floats) as a Fraction, without rounding."""
    return sum((Fraction(weight) for weight in row.tolist()), Fraction(0))


# %% tags=["check"]
hard = torch.tensor([1e16, 1.0, -1e16, 1e-16])
found = exact_sum(hard)
assert isinstance(found, Fraction), f"a Fraction is wanted, not {type(found).__name__}"
assert found == 1 + Fraction(1e-16), f"a float sum gives {hard.sum().item()}, you {float(found)}"
off = max(abs(float(exact_sum(row) - 1)) for row in map)
assert abs(off - exactly.observed) < 2e-16, "the worst row of the map is another one"
print("exercise 1: right, the worst row is off by", off)

# %% [markdown]
# **2.** Attack: find a query in a box whose window share is below what is claimed. Trying the
# corners is enough here.

# %% [markdown] tags=["hints"]
# - A box of four dimensions has 16 corners: `itertools.product` of the pairs of bounds.
# - For each corner compute the softmax, add up the window, and keep the smallest.


# %% tags=["solution"]
def attack(keys, lower, upper, window):
    """(query, share): the corner of the box with the smallest share of the window."""
    best = None
    for corner in product(*zip(lower.tolist(), upper.tolist(), strict=True)):
        q = torch.tensor(corner)
        share = torch.softmax(keys @ q / keys.shape[-1] ** 0.5, dim=0)[slice(*window)].sum().item()
        if best is None or share < best[1]:
            best = (q, share)
    return best


# %% tags=["check"]
lower, upper = centre - 1.0, centre + 1.0
witness, share = attack(keys, lower, upper, (48, 64))
witness = torch.as_tensor(witness)
slack = 1e-6  # a corner in float32 is not a corner in float64
assert ((witness >= lower - slack) & (witness <= upper + slack)).all(), (
    "your query is outside the box"
)
really = torch.softmax(keys @ witness.to(keys) / 2, dim=0)[48:64].sum().item()
assert close(share, really), "the share of your query is another one"
assert share < 0.6, f"{share:.3f} does not refute a share of 0.6"
print(f"exercise 2: right, share {share:.3f}")

# %% [markdown]
# **3.** Prove: bound the share from below for *all* queries within $\pm\varepsilon$ of the centre.
# Each score $z_j = k_j^\top q/2$ moves by at most $r_j = \varepsilon \lVert k_j \rVert_1 / 2$; let
# those outside rise and those inside fall.

# %% [markdown] tags=["hints"]
# - The share of the window is $\sigma(\mathrm{LSE}_{\mathrm{in}} -
#   \mathrm{LSE}_{\mathrm{out}})$. Make it as small as it can get.
# - Scores inside fall by $r_j$, scores outside rise by $r_j$, with $r_j = \varepsilon \lVert
#   k_j \rVert_1 / 2$.
# - `(scores - radius)[near].logsumexp(dim=0)` and `(scores + radius)[~near].logsumexp(dim=0)`.


# %% tags=["solution"]
def certified_share(keys, centre, width, window):
    """A lower bound on the window's share for every query of the box."""
    scores = keys @ centre / keys.shape[-1] ** 0.5
    radius = width * keys.abs().sum(dim=-1) / keys.shape[-1] ** 0.5
    token = torch.arange(len(keys))
    near = (token >= window[0]) & (token < window[1])
    outside = (scores + radius)[~near].logsumexp(dim=0)
    within = (scores - radius)[near].logsumexp(dim=0)
    return torch.sigmoid(within - outside).item()


# %% tags=["check"]
for width in (0.0, 0.05, 0.3):
    bound = certified_share(keys, centre, width, (48, 64))
    drawn = centre + width * (2 * torch.rand(2000, 4, generator=rng) - 1)
    seen = torch.softmax(drawn @ keys.mT / 2, dim=-1)[:, 48:64].sum(dim=-1).min().item()
    assert bound <= seen + 1e-6, f"width {width}: {bound:.3f} is not a bound, {seen:.3f} was found"
    assert width > 0 or close(bound, inside), "a box of one point has nothing to lose"
assert certified_share(keys, centre, 0.05, (48, 64)) > 0.9 * inside, "that is far too careful"
print("exercise 3: right; the library's tangent bound is tighter, and encloses its rounding")

# %% [markdown]
# ## Summary
#
# - Read the quantifier ("for which inputs?") and the level ("of which numbers?") before the
#   verdict.
# - Trust the checker, not the search. A certificate is data that others can check.
# - `UNKNOWN` is an answer, and a counter-example shows how a claim has to be corrected.
#
# **Further reading:** Jia & Rinard 2021, *Exploiting verified neural networks via floating point
# numerical error*; Xu et al. 2020, *Automatic perturbation analysis* (arXiv:2002.12920).
