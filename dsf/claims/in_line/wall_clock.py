"""Seconds of softmax and of InLine attention, one head, as the number of tokens grows."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held, out_of_reach
from dsf.claims.in_line.weights import in_line_rows
from dsf.runtime.threads import one_thread

WIDTH = 64
SIZES = (64, 256, 1024, 2048)
ROUNDS = 3
"""At least; shorter runs are repeated more often, since one interruption outlasts many of them."""
NEAR = 1e-5
MARGIN = 3.0
"""Far below what is seen: a gain of 20 and more at 32 d."""

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def softmax(
    query: Float[Tensor, "tokens key"],
    key: Float[Tensor, "tokens key"],
    value: Float[Tensor, "tokens channel"],
) -> Float[Tensor, "tokens channel"]:
    """Softmax attention by the fused kernel."""
    return scaled_dot_product_attention(query[None], key[None], value[None])[0]


def in_line(
    query: Float[Tensor, "tokens key"],
    key: Float[Tensor, "tokens key"],
    value: Float[Tensor, "tokens channel"],
) -> Float[Tensor, "tokens channel"]:
    """InLine attention in linear time, scaled as the released code does."""
    scale = query.shape[-1] ** -0.5
    kept = key.mT @ value * (scale / len(key))
    share = 1 - scale * (query @ key.mean(dim=0)).unsqueeze(-1)
    return query @ kept + share * value.mean(dim=0)


def faster_beyond_width(quick: Form = in_line, slow: Form = softmax) -> Certificate:
    """Seconds of both forms, timed in turns; the fastest run, since a busy machine only adds."""
    with one_thread():
        seconds = [_fastest(tokens, quick, slow) for tokens in SIZES]
    gains = [second / first for first, second in seconds]
    return held(
        "InLine attention is faster than softmax attention from some N of the order of d on",
        {
            "what is timed is the InLine map times the values": _off(quick) <= NEAR,
            "faster at 16 d": gains[2] > 1,
            "faster by a margin at 32 d": gains[-1] > MARGIN,
            "and the gain grows from d to 32 d": gains[-1] > MARGIN * gains[0],
        },
        method=f"float32, d = {WIDTH}, one thread, the fastest of {ROUNDS} or more runs in turns",
        observed=gains[-1],
        figures={
            "tokens": list(SIZES),
            "seconds, InLine": [first for first, _ in seconds],
            "seconds, softmax": [second for _, second in seconds],
            "first size at which InLine is faster": next(
                (size for size, gain in zip(SIZES, gains, strict=True) if gain > 1), None
            ),
        },
    )


def whole_models() -> Certificate:
    """Whole vision models on an accelerator are not timed here."""
    return out_of_reach(
        "models with InLine attention infer much faster than models with softmax attention, above "
        "all at high resolution",
        "the published models on an accelerator at their resolutions",
    )


def _fastest(tokens: int, *forms: Form) -> tuple[float, ...]:
    parts = _drawn(tokens)
    taken: list[list[float]] = [[] for _ in forms]
    for form in forms:
        form(*parts)
    for _ in range(max(ROUNDS, SIZES[-1] // tokens)):
        for form, times in zip(forms, taken, strict=True):
            begun = time.perf_counter()
            form(*parts)
            times.append(time.perf_counter() - begun)
    return tuple(map(min, taken))


def _off(form: Form) -> float:
    query, key, value = _drawn(SIZES[0])
    rows = in_line_rows(query, key, scale=WIDTH**-0.5 / len(key))
    return (form(query, key, value) - rows @ value).abs().max().item()


def _drawn(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, tokens, WIDTH, generator=generator).unbind(0)
    return query, key, value


CLAIMS = (
    Claim(
        id="INL-22",
        table=Table.OWN,
        statement=(
            "One head of InLine attention is faster than softmax attention once the number of "
            "tokens exceeds the order of the head width."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=faster_beyond_width,
        note=(
            "Products are equal in number at N = d. On a processor the crossover lies between d "
            "and a few d; the verdict asks for a gain at 16 d and for a large one at 32 d."
        ),
    ),
    Claim(
        id="INL-26",
        table=Table.PAPER,
        statement=(
            "Models with InLine attention infer much faster than models with softmax attention, "
            "above all at high resolution."
        ),
        standing=Standing.AUTHORS,
        expected=Verdict.UNKNOWN,
        check=whole_models,
        quote=(
            "… our InLine attention delivers much higher inference speed than Softmax attention, "
            "especially in high-resolution scenarios."
        ),
        place="README of LeapLabTHU/InLine@e463a6f",
        hypotheses=("whole models on a GPU",),
        note="For one head see INL-22.",
    ),
)
