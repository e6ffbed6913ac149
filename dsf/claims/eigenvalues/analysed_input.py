"""At which place of a network the released analyses take queries and keys.

One random block, written down from the lines of the released model: the spectrum of its softmax
attention at the input that the attention gets, and at the place where the analysis looks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d, layer_norm, pad, rms_norm

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import shown
from dsf.claims.eigenvalues.spectra import defined, spectrum

TOKENS, WIDTH, TAPS, WINDOW = 48, 16, 4, 8
APART = 1e-3
SMALL = 0.5
Tokens = Float[Tensor, "time model"]


@dataclass(frozen=True)
class Block:
    """A residual block with a norm in front of one head of softmax attention.

    Attributes:
        filter: a causal convolution of queries, keys and values, or None.
    """

    to_query: Float[Tensor, "model key"]
    to_key: Float[Tensor, "model key"]
    to_value: Float[Tensor, "model channel"]
    out: Float[Tensor, "channel model"]
    filter: Float[Tensor, "channel taps"] | None = None

    def scores(self, x: Tokens, *, convolved: bool = True) -> Float[Tensor, "time time"]:
        """q.k/√d of the attention at the input ``x``."""
        query, key = x @ self.to_query, x @ self.to_key
        if self.filter is not None and convolved:
            query, key = (_convolved(part, self.filter) for part in (query, key))
        return query @ key.mT / WIDTH**0.5

    def attention(self, x: Tokens) -> Tokens:
        """What the attention puts out at the input ``x``."""
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        weights = self.scores(x).masked_fill(future, -torch.inf).softmax(dim=-1)
        return weights @ (x @ self.to_value) @ self.out


def drawn(*, convolution: bool = False) -> tuple[Block, Tokens]:
    """A block with normal weights, and its input."""
    rng = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64)

    to_query, to_key, to_value, out = normal(4, WIDTH, WIDTH) / WIDTH**0.5
    taps = normal(WIDTH, TAPS) / TAPS**0.5 if convolution else None
    return Block(to_query, to_key, to_value, out, taps), 2 * normal(TOKENS, WIDTH) + 1


def _convolved(x: Tokens, taps: Float[Tensor, "channel taps"]) -> Tokens:
    padded = pad(x.mT, (taps.shape[-1] - 1, 0))
    return conv1d(padded.unsqueeze(0), taps.unsqueeze(1), groups=len(taps))[0].mT


def _normed(x: Tokens) -> Tokens:
    return layer_norm(x, (WIDTH,))


def at_the_output(block: Block, x: Tokens) -> Tokens:
    """Where the released analysis projects: at the layer's output, without the norm."""
    return x + block.attention(_normed(x))


def taken_at_the_output(place: Callable[[Block, Tokens], Tokens] = at_the_output) -> Certificate:
    """The spectrum at norm(x), which the attention sees, and at the place of the analysis."""
    block, x = drawn()
    return _different(
        "the spectrum at the layer's output without its norm is not that of the layer",
        block.scores(_normed(x)),
        block.scores(place(block, x)),
    )


def without_the_convolution(*, convolved: bool = False) -> Certificate:
    """The spectrum with the convolution of queries and keys, and as the analysis takes it."""
    block, x = drawn(convolution=True)
    return _different(
        "without its convolution the spectrum is not that of the layer",
        block.scores(_normed(x)),
        block.scores(_normed(x), convolved=convolved),
    )


def as_hooked(query: Tokens, key: Tokens) -> Float[Tensor, "time time"]:
    """Scores of queries and keys at the output of the projections."""
    return query @ key.mT / WIDTH**0.5


def as_attended(query: Tokens, key: Tokens) -> Float[Tensor, "time time"]:
    """Scores after the norm and the rotation; out of the window there is no weight."""
    turned = [_rotated(rms_norm(part, (WIDTH,))) for part in (query, key)]
    scores = turned[0] @ turned[1].mT / WIDTH**0.5
    lag = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
    return scores.masked_fill(lag >= WINDOW, -torch.inf)


def before_norm_and_rotation(
    hooked: Callable[[Tokens, Tokens], Tensor] = as_hooked,
) -> Certificate:
    """The spectrum before and after the norm, the rotation and the window of a layer."""
    block, x = drawn()
    query, key = x @ block.to_query, x @ block.to_key
    return _different(
        "the spectrum before norm, rotation and window is not that of the layer",
        as_attended(query, key),
        hooked(query, key),
    )


def _rotated(x: Tokens) -> Tokens:
    speed = 10_000.0 ** (-torch.arange(0, WIDTH, 2, dtype=x.dtype) / WIDTH)
    angle = (torch.arange(len(x), dtype=x.dtype)[:, None] * speed).repeat(1, 2)
    first, second = x.chunk(2, dim=-1)
    return x * angle.cos() + torch.cat([-second, first], dim=-1) * angle.sin()


def _different(claim: str, layer: Tensor, analysed: Tensor) -> Certificate:
    true, found = spectrum(defined(layer)), spectrum(defined(analysed))
    error = (found - true).abs() / true
    return shown(
        claim,
        float(error.median()),
        beyond=APART,
        case={
            "median relative error": float(error.median()),
            "largest relative error": float(error.max()),
            f"share below {SMALL}, layer and analysis": [
                float((part < SMALL).double().mean()) for part in (true, found)
            ],
        },
        method=f"one random block, {TOKENS} tokens, width {WIDTH}, normal weights, float64",
    )


CLAIMS = (
    Claim(
        id="EIG-7",
        table=Table.CODE,
        statement=(
            "The released analysis takes the spectrum of a layer at the layer's output and "
            "without its norm, where it is another one."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=taken_at_the_output,
        place=(
            "IntelligentControlSystems/"
            "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254: "
            "analysis/eval_eig.py 532-534, 545-546, 557-558 and 586-591 against "
            "models/transformer.py 90-97"
        ),
        note=(
            "The released lines are written down again for one random block; how far published "
            "spectra move is not known here."
        ),
    ),
    Claim(
        id="EIG-8",
        table=Table.CODE,
        statement=(
            "The released analysis skips the convolution of softmax and linear attention, and "
            "the spectrum depends on it."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=without_the_convolution,
        place=(
            "IntelligentControlSystems/"
            "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254: "
            "analysis/eval_eig.py 46 and 99 against models/attention.py 151-161; used by "
            "cifar-sm-attention-conv and cifar-lin-attention-conv"
        ),
    ),
    Claim(
        id="EIG-9",
        table=Table.CODE,
        statement=(
            "The released notebook for the 7B model takes queries and keys before their norm, "
            "rotation and window, where the spectrum is another one."
        ),
        standing=Standing.CODE,
        expected=Verdict.ARGUED,
        check=before_norm_and_rotation,
        place=(
            "IntelligentControlSystems/"
            "Task-Level-Insights-from-Eigenvalues-across-Sequence-Models@67d8254: "
            "notebooks/lm_eigvals.ipynb, hooks on q_proj and k_proj, against modeling_olmo3 of "
            "transformers"
        ),
        note=(
            "OLMo-3 normalises and rotates queries and keys after the projections and attends in "
            "windows in three of four layers."
        ),
    ),
)
