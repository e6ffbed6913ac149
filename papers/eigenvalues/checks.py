"""Checks of Task-Level Insights from Eigenvalues (arXiv:2510.09379) and of its released analysis.

The spectrum of softmax attention is η_i / η_{i+1}: how its normaliser changes from token to token.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d, layer_norm, pad, rms_norm

from dsf.certificates import Certificate
from papers.drawn import apart, causal_softmax
from papers.verdicts import argued, check, shown

Normaliser = Callable[[Tensor], Tensor]
"""Scores, rows read columns: the logarithm of every row's normaliser."""
WIDTH = 16


def _future(scores: Tensor) -> Tensor:
    return torch.ones_like(scores, dtype=torch.bool).triu(1)


def defined(scores: Float[Tensor, "time time"]) -> Float[Tensor, " time"]:
    """log of the sum of exp(score) over the past and the token itself."""
    return scores.masked_fill(_future(scores), -torch.inf).logsumexp(dim=-1)


def released(scores: Float[Tensor, "time time"]) -> Float[Tensor, " time"]:
    """The same in the released analysis: future scores are 0, before the maximum and after it.

    The row maximum m is taken over a row whose future is already 0, so it is at least 0 except in
    the last row; after the shift by m the future is set to 0 again, so that every future token adds
    e^m to the normaliser.
    """
    filled = scores.masked_fill(_future(scores), 0)
    largest = filled.amax(dim=-1, keepdim=True)
    shifted = (filled - largest).masked_fill(_future(scores), 0)
    return largest.squeeze(-1) + shifted.exp().sum(dim=-1).log()


def spectrum(log_normaliser: Float[Tensor, " time"]) -> Float[Tensor, " rest"]:
    """η_i / η_{i+1}, one for every token but the last."""
    return (log_normaliser[:-1] - log_normaliser[1:]).exp()


def drawn_scores(seed: int = 0) -> Float[Tensor, "time time"]:
    """q.k without a scale: 64 standard normal queries and keys of width 16."""
    rng = torch.Generator().manual_seed(seed)
    query, key = (torch.randn(64, WIDTH, generator=rng).double() for _ in range(2))
    return query @ key.mT


i, j, L = sympy.symbols("i j L", integer=True, positive=True)
AT_ZERO = sympy.Sum(sympy.exp(0), (j, 1, i))
"""The normaliser of row i of L when every score is zero."""


@check("EIG-1")
def spectrum_at_zero(symbolic=AT_ZERO, normaliser=defined):
    """The ratio with symbols, and the first ones as they are computed."""
    eta = symbolic.doit()
    found = spectrum(normaliser(torch.zeros(5, 5, dtype=torch.float64)))
    off = apart(found, torch.tensor([1 / 2, 2 / 3, 3 / 4, 4 / 5], dtype=torch.float64))
    ratio = sympy.simplify(eta / eta.subs(i, i + 1) - i / (i + 1))
    met = {"the symbolic ratio is i/(i+1)": ratio == 0, "computed ratios agree": off <= 1e-15}
    return argued(met, observed=off)


@check("EIG-2")
def released_formula_is_another(normaliser=released):
    """Relative errors of the spectrum on five draws of scores; two tokens by hand."""
    medians = []
    for seed in range(5):
        true, found = (spectrum(each(drawn_scores(seed))) for each in (defined, normaliser))
        medians.append(float(((found - true).abs() / true).median()))
    by_hand = float(spectrum(normaliser(torch.zeros(2, 2, dtype=torch.float64)))[0])
    case = {"two tokens, zero scores": {"released": by_hand, "defined": 0.5}}
    return shown(min(medians), beyond=1e-6, case=case | {"median relative errors": medians})


@check("EIG-3")
def scale_changes_the_histogram(scale=1.0):
    """Share of small eigenvalues with and without 1/sqrt(16)."""
    without, kept = (
        float((spectrum(defined(factor * drawn_scores())) < 0.1).double().mean())
        for factor in (scale, WIDTH**-0.5)
    )
    case = {"share_below_0.1": {"with_scale": kept, "without": without}}
    return shown(abs(without - kept), beyond=0.01, case=case)


EDGES = (0.0, 0.1, 0.5, 0.9, 1.0, 10.0, 100.0)


def closed_bins(sizes: np.ndarray) -> np.ndarray:
    """How many fall between two neighbouring edges, both of them included."""
    return np.array([((sizes >= low) & (sizes <= high)).sum() for low, high in pairwise(EDGES)])


@check("EIG-4")
def bins_share_edges(count=closed_bins):
    """Three values, one of them 1.0, which is an edge and can be hit exactly."""
    sizes = np.array([0.3, 0.95, 1.0])
    counts = count(sizes)
    case = {"sizes": sizes.tolist(), "edges": list(EDGES), "counts": counts.tolist()}
    return shown(float(abs(counts.sum() - len(sizes))), beyond=0.5, case=case)


TOKENS, TAPS, WINDOW = 48, 4, 8
Tokens = Float[Tensor, "time model"]


class Block:
    """A residual block with a norm in front of one head of softmax attention, normal weights.

    Written down from the lines of the released model.
    """

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=rng, dtype=torch.float64)

        self.to_query, self.to_key, self.to_value, self.out = normal(4, WIDTH, WIDTH) / WIDTH**0.5
        self.x = 2 * normal(TOKENS, WIDTH) + 1
        self.taps = normal(WIDTH, 1, TAPS) / TAPS**0.5

    def scores(self, x: Tokens, *, convolved: bool = False) -> Float[Tensor, "time time"]:
        """q.k/√d of the attention at the input ``x``, after a causal convolution of q and k."""
        query, key = x @ self.to_query, x @ self.to_key
        if convolved:
            query, key = (
                conv1d(pad(part.mT, (TAPS - 1, 0))[None], self.taps, groups=WIDTH)[0].mT
                for part in (query, key)
            )
        return query @ key.mT / WIDTH**0.5


def normed(x: Tokens) -> Tokens:
    return layer_norm(x, (WIDTH,))


def at_the_output(block: Block) -> Tokens:
    """Where the released analysis projects: at the layer's output, without the norm."""
    x = normed(block.x)
    return block.x + causal_softmax(block.scores(x)) @ (x @ block.to_value) @ block.out


@check("EIG-7")
def taken_at_the_output(place=at_the_output):
    """The spectrum at norm(x), which the attention sees, and at the place of the analysis."""
    block = Block()
    return _different(block.scores(normed(block.x)), block.scores(place(block)))


@check("EIG-8")
def without_the_convolution(*, convolved=False):
    """The spectrum with the convolution of queries and keys, and as the analysis takes it."""
    block, x = Block(), normed(Block().x)
    return _different(block.scores(x, convolved=True), block.scores(x, convolved=convolved))


def as_hooked(query: Tokens, key: Tokens) -> Float[Tensor, "time time"]:
    """Scores of queries and keys at the output of the projections."""
    return query @ key.mT / WIDTH**0.5


def as_attended(query: Tokens, key: Tokens) -> Float[Tensor, "time time"]:
    """Scores after the norm and the rotation; out of the window there is no weight."""
    turned = [_rotated(rms_norm(part, (WIDTH,))) for part in (query, key)]
    scores = turned[0] @ turned[1].mT / WIDTH**0.5
    lag = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
    return scores.masked_fill(lag >= WINDOW, -torch.inf)


@check("EIG-9")
def before_norm_and_rotation(hooked=as_hooked):
    """The spectrum before and after the norm, the rotation and the window of a layer."""
    block = Block()
    query, key = block.x @ block.to_query, block.x @ block.to_key
    return _different(as_attended(query, key), hooked(query, key))


def _rotated(x: Tokens) -> Tokens:
    speed = 10_000.0 ** (-torch.arange(0, WIDTH, 2, dtype=x.dtype) / WIDTH)
    angle = (torch.arange(len(x), dtype=x.dtype)[:, None] * speed).repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def _different(layer: Tensor, analysed: Tensor) -> Certificate:
    """How far the spectrum of the analysis is from the one of the layer."""
    true, found = spectrum(defined(layer)), spectrum(defined(analysed))
    error = (found - true).abs() / true
    return shown(
        float(error.median()),
        beyond=1e-3,
        case={"median relative error": float(error.median()), "largest": float(error.max())},
    )
