"""The ten results that a reader should know first: small examples, computed here, and pictures.

Every number on the page comes out of the functions below; they draw into ``images/papers``.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
import torch

import dsf
from papers import ALL
from papers.dynamical_systems.forms import separable
from papers.in_line.checks import in_line_rows, linear_rows, softmax_rows
from papers.meta_linear import checks as meta_linear
from papers.meta_linear.checks import decays_of
from papers.zero_sum.checks import weight

matplotlib.use("agg")
import matplotlib.pyplot as plt

BY_ID = {claim.id: claim for claim in ALL}
WIDTH = 100
PICTURES = Path(__file__).resolve().parent / "images" / "papers"
HEAD = """# Ten results worth knowing

Each with an example small enough for a blackboard, what fails, and what still holds. Ids
lead to [the page of the papers](papers.md).
"""


def matrix(rows: Sequence[Sequence[object]]) -> str:
    """A matrix in LaTeX; whole numbers without a point."""
    body = r" \\ ".join(" & ".join(_number(part) for part in row) for row in rows)
    return rf"\begin{{pmatrix}} {body} \end{{pmatrix}}"


def _number(part: object) -> str:
    return f"{part:.3g}" if isinstance(part, float) else str(part)


def no_queries() -> str:
    """MLA-8."""
    return rf"""## 1. A softmax map without queries

Take q = 1 and one channel per token. A channel keeps what came up to its own token and is then
erased
by a decay of 0; the key of token s in channel c (row s, column c of K) is $p_{{cs}} -
p_{{(c+1)s}}$, and one is negative:

$$P = {matrix(meta_linear.MAP)}, \qquad
K = {matrix(meta_linear.KEYS)}, \qquad
\alpha = {matrix(meta_linear.DECAYS)}$$

The weights come out exactly, in fractions (`MLA-8`). *What fails:* “{_quote("MLA-8")}”
*What holds:* {BY_ID["MLA-8"].stands}
"""


def any_row() -> str:
    """MLA-6."""
    row = [Fraction(1, 5), Fraction(3, 10), Fraction(1, 2)]
    decays = decays_of(row)
    return rf"""## 2. A decay alone makes any row of probabilities

One channel, query 1, key 1 - α, and $\alpha_s = S_{{s-1}}/S_s$ with the running sums S of the
row: the
row {_fractions(row)} needs the decays {_fractions(decays)}, since the last weight is 1 -
{decays[2]} =
{1 - decays[2]}, the one before {decays[2]}·(1 - {decays[1]}) = {decays[2] * (1 - decays[1])},
and the
first {decays[2]}·{decays[1]} = {decays[2] * decays[1]}. This is MetaLA's, and it holds
(`MLA-6`).
*What holds:* a decay for every row of a map depends on rows to come (`MLA-10`), so
this shows which maps exist and not which layers learn them. The paper does not promise the latter:
"our theory studies functions of LinAttMap, but not whether these functions will be successfully
learned" (A2.4).
"""


def softmax_states() -> str:
    """DSF-30 and DSF-6."""
    rng = np.random.default_rng(0)
    query, key = torch.from_numpy(rng.standard_normal((2, 20, 4)))
    tokens = {"query": query, "key": key, "value": key}
    figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
    for label, mixer in (
        ("softmax attention", dsf.mixers.SoftmaxAttention(**tokens, scale=2.0)),
        ("linear attention, 4 features", dsf.mixers.LinearAttention(**tokens)),
    ):
        ranks = dsf.measures.hankel_ranks(dsf.attention_map(mixer.system()), tolerance=1e-10)
        axes.plot(range(1, len(ranks) + 1), ranks, marker="o", markersize=3, label=label)
    axes.set(xlabel="token", ylabel="states needed after it")
    axes.legend(frameon=False)
    words = "States needed after each of 20 tokens: up to 10 for softmax, 4 for linear attention"
    picture = _picture(figure, "states", words)
    return f"""## 3. How many states softmax attention needs

{picture}

With features of one token each, infinitely many. The paper says so, it holds, and two tokens
are
enough to see it (`DSF-5`, `DSF-30`). *What holds:* where coefficients may see the
prefix, half the length is enough at one length, 10 states for 20 tokens in the picture, and no
finite number serves every length (`DSF-6`, `DSF-5`).
"""


def spectrum() -> str:
    """DSF-17."""
    ones, eta = torch.ones(3, 1).double(), torch.tensor([1.0, 4.0, 2.0]).double()
    system = separable(ones, ones, eta)
    same = dsf.systems.algebra.change_of_basis(
        system, torch.cat([eta[:1], eta])[:, None, None].clone()
    )
    map = dsf.attention_map(system)
    assert torch.equal(map, dsf.attention_map(same))
    first, second = (each.A.dense().flatten().tolist() for each in (system, same))
    return rf"""## 4. The spectrum depends on the basis, the map does not

Separable attention with one state and the normalisers 1, 4, 2 has the map

$${matrix(map.tolist())}$$

with the transitions {_list(first)}, and also with {_list(second)}: the state is measured in
other units
(`DSF-17`). *What holds:* everything computed from the map, such as Hankel singular
values;
and the paper's own remark that attention gets its stability from the normaliser and not from its
eigenvalues (`DSF-19`).
"""


def rank() -> str:
    """DSF-21."""
    ones = torch.ones(3, 1).double()
    map = dsf.attention_map(separable(ones, ones, ones[:, 0]))
    needed = int(dsf.measures.hankel_ranks(map).max())
    return rf"""## 5. The rank of a causal map is not its state

$${matrix([[int(part) for part in row] for row in map.tolist()])}$$

has rank {int(torch.linalg.matrix_rank(map))} and needs {needed} state, a running sum (`DSF-21`):
the mask
alone makes the rank. *What holds:* the ranks of the blocks below the diagonal count states.
"""


def injective() -> str:
    """INL-1 and INL-8."""
    key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()
    asked = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()
    rows = {n: softmax_rows(asked, key[:n]).tolist() for n in (2, 3)}
    return rf"""## 6. When a softmax row tells queries apart

Keys (1, 0), (0, 1), (1, 1); the queries (0, 0) and (1, 1), one row each:

$$\text{{two keys in reach: }} {matrix(rows[2])}, \qquad
\text{{all three: }} {matrix(rows[3])}$$

Two keys in the plane cannot tell the two queries apart, three can. The paper's theorem, known
here by a restatement, needs keys with rank [K, 1] = d + 1, and holds (`INL-1`). *What else holds
it:* in a decoder row t reads t keys, so the first d rows are not injective (`INL-8`).
"""


def lengths() -> str:
    """INL-3 and INL-4."""
    key = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]]).double()
    asked = torch.tensor([[1.0, 2.0], [2.0, 4.0]]).double()
    linear = linear_rows(asked, key, feature_map=dsf.mixers.ingredients.relu)
    centred = in_line_rows(asked, key, feature_map=dsf.mixers.ingredients.relu, scale=1 / 12)
    return rf"""## 7. Linear attention does not see how long a query is

Queries (1, 2) and (2, 4), ReLU features, keys (1, 0), (0, 1), (1, 2):

$$\text{{linear: }} {matrix(linear.tolist())}, \qquad
\text{{InLine: }} {matrix(centred.tolist())}$$

Proportional features give one row; InLine attention subtracts instead of dividing and tells the
two
apart. The paper proves it for d features (`INL-3`). *What holds:* with more features
than
d, such as [e^x, e^-x], linear attention can be injective (`INL-4`), and InLine attention with
ReLU is
not, since ReLU forgets negative entries (`INL-25`).
"""


def subtraction() -> str:
    """ZER-27 and ZER-9."""
    gaps = np.linspace(0, 6, 61)
    figure, axes = plt.subplots(figsize=(5, 2.6), layout="constrained")
    axes.plot(gaps, [weight(gap, 0.9, 0.1) for gap in gaps], label="ZeroS, gates 0.9 and 0.1")
    axes.plot(gaps, 1 / (1 + np.exp(-gaps)) - 0.5, label="softmax less 1/2")
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="gap of the two logits", ylabel="weight on v₁ - v₂")
    axes.legend(frameon=False)
    words = "Weight on v1 - v2 over the gap of the logits: softmax below one half, ZeroS beyond one"
    picture = _picture(figure, "gains", words)
    return f"""## 8. What zero-sum attention gains, and from what

{picture}

With two tokens a softmax row less its mean stays within ±1/2, and zero-sum weights pass any
multiple of v₁ - v₂: “{_quote("ZER-27")}” holds (`ZER-27`) where the gates of the first and of the
higher orders differ (`ZER-9`). *What the proof leaves out:* the subtraction alone enlarges nothing,
since Σ(α_i - 1/t)v_i is Σα_i v_i - v_avg.
"""


def hulls() -> str:
    """ZER-8."""
    figure, axes = plt.subplots(figsize=(5, 2.2), layout="constrained")
    values = np.eye(2)
    ends = np.array([3.2, -1.2])
    axes.plot(ends, 1 - ends, color="grey", linewidth=0.8, linestyle=":", label="affine hull")
    axes.plot(*values.T, marker="o", label="convex hull: softmax")
    axes.plot(2, -1, marker="x", linestyle="", label="2 v₁ - v₂")
    axes.set(aspect="equal", xlim=(-1.5, 6.5), ylim=(-1.6, 1.6))
    axes.legend(frameon=False, loc="right")
    words = "Two values, the segment between them, and 2 v1 - v2 on their line beyond v1"
    picture = _picture(figure, "hulls", words)
    return f"""## 9. Convex hull or affine hull

{picture}

*What fails:* “{_quote("ZER-8")}” The weights of a softmax row are not negative, so 2 v₁ - v₂ is
out
of reach (`ZER-8`). *What holds:* {BY_ID["ZER-8"].stands}
"""


def cosines() -> str:
    """ZER-17."""
    r, cosine = [Fraction(3, 10), Fraction(-1, 10), Fraction(-1, 5)], [1, Fraction(1, 2), -1]
    parts = [a * b for a, b in zip(r, cosine, strict=True)]
    return f"""## 10. A product of centred things need not be centred

| vector | token 1 | token 2 | token 3 | sum |
|---|---|---|---|---|
| r | {" | ".join(map(str, r))} | {sum(r)} |
| cos θ | {" | ".join(map(str, cosine))} | |
| r cos θ | {" | ".join(map(str, parts))} | {sum(parts)} |

*What fails:* “{_quote("ZER-17")}” (`ZER-17`). *What holds:* {BY_ID["ZER-17"].stands}
"""


RESULTS: tuple[Callable[[], str], ...] = (
    no_queries,
    any_row,
    softmax_states,
    spectrum,
    rank,
    injective,
    lengths,
    subtraction,
    hulls,
    cosines,
)


def ten_results() -> str:
    """Return the page as Markdown."""
    text = "\n\n".join(_filled([HEAD, *(result() for result in RESULTS)])) + "\n"
    return re.sub(r"`([A-Z]{3}-\d+)`", r'<a href="papers.html#\1">\1</a>', text)


def _filled(parts: Sequence[str]) -> Iterator[str]:
    """Paragraphs at one width; tables, formulas, pictures and headings as they are."""
    for block in "\n\n".join(part.strip() for part in parts).split("\n\n"):
        as_it_is = block.startswith(("#", "|", "$$", "!"))
        yield block if as_it_is else fill(block, WIDTH, break_on_hyphens=False)


def _picture(figure: plt.Figure, name: str, words: str) -> str:
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return f"![{words}](images/papers/{name}.png)"


def _quote(id: str) -> str:
    return BY_ID[id].quote.replace("_", chr(92) + "_")


def _fractions(parts: Sequence[Fraction]) -> str:
    return f"({', '.join(map(str, parts))})"


def _list(parts: Sequence[float]) -> str:
    return ", ".join(f"{part:.3g}" for part in parts)
