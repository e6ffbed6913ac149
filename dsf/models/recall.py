"""In-context recall, the task that the embedded models were trained on.

A sequence first shows pairs, a key followed by its value. Each key then appears once more, at a
random later position, and there the model has to predict the value that followed it. All other
positions hold a blank. Keys and values are drawn anew for every sequence, so that only the sequence
itself contains the answer.

    k07 v03 k12 v15 · k12 · · k07        asks for v15 under the second k12, for v03 under k07

Source: the multi-query associative recall of Arora et al. 2023, arXiv:2312.04927, made smaller.
There the distance to a query follows a power law; here all positions are equally likely.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

__all__ = ["Recall", "accuracy", "draw", "spell"]

KEYS = 16
VALUES = 16
PAIRS = 5
LENGTH = 32

BLANK = 0
SILENT = -100
"""The target at tokens without a query, which ``torch.nn.functional.cross_entropy`` ignores."""

VOCABULARY = (
    "·",
    *(f"k{number:02d}" for number in range(KEYS)),
    *(f"v{number:02d}" for number in range(VALUES)),
)
"""Token strings in the order of their ids: the blank, the keys, the values."""


class Recall(NamedTuple):
    """Sequences, and the target at each of their tokens."""

    tokens: Int[Tensor, "samples time"]
    targets: Int[Tensor, "samples time"]


def draw(
    generator: torch.Generator, samples: int, *, pairs: int = PAIRS, length: int = LENGTH
) -> Recall:
    """Draw ``samples`` sequences of ``length`` tokens, each with ``pairs`` pairs and queries.

    No key and no value occurs in two pairs of one sequence. Targets are token ids at the queries
    and ``SILENT`` everywhere else.

    Raises:
        ValueError: if there are fewer keys or values than pairs, or pairs and queries do not fit
            into ``length``.
    """
    if not 1 <= pairs <= min(KEYS, VALUES):
        raise ValueError(
            f"draw: pairs is {pairs}, but there are {KEYS} keys and {VALUES} values and none is "
            f"used twice. Ask for 1 to {min(KEYS, VALUES)} pairs."
        )
    if length < 3 * pairs:
        raise ValueError(
            f"draw: length is {length}, but {pairs} pairs and as many queries take {3 * pairs} "
            f"tokens. Ask for a longer sequence or for fewer pairs."
        )
    keys = 1 + _choose(generator, samples, pairs, among=KEYS)
    values = 1 + KEYS + _choose(generator, samples, pairs, among=VALUES)
    queries = 2 * pairs + _choose(generator, samples, pairs, among=length - 2 * pairs)
    tokens = torch.full((samples, length), BLANK)
    tokens[:, 0 : 2 * pairs : 2] = keys
    tokens[:, 1 : 2 * pairs : 2] = values
    tokens.scatter_(1, queries, keys)
    targets = torch.full_like(tokens, SILENT).scatter_(1, queries, values)
    return Recall(tokens, targets)


def draw_long(
    generator: torch.Generator,
    samples: int,
    *,
    lag: int,
    pairs: int = PAIRS,
    distractors: int = 0,
    queries: int = 1,
    spread: int = 32,
) -> Recall:
    """Draw sequences in which every query comes at least ``lag`` tokens after the last pair.

    ``distractors`` further pairs, of keys that are never asked for, come at random places between
    the asked pairs and the end, each with a random value; a key may come again with another value.
    They write into the state that holds the asked pairs. Each asked key comes ``queries`` times in
    the last ``spread`` tokens. The length is ``2 * pairs + lag + spread``.

    Raises:
        ValueError: if ``lag`` or ``spread`` is odd, no key is left for distractors, or queries and
            distractors do not fit.
    """
    slots, first = (lag + spread) // 2, lag // 2
    if lag % 2 or spread % 2 or not 1 <= pairs < min(KEYS, VALUES):
        raise ValueError(
            f"draw_long: expected even 'lag' and 'spread' and 'pairs' from 1 to "
            f"{min(KEYS, VALUES) - 1}, got lag {lag}, spread {spread}, pairs {pairs}."
        )
    asked = pairs * queries
    if asked > slots - first or distractors + asked > slots:
        raise ValueError(
            f"draw_long: {asked} queries and {distractors} distractors do not fit into a lag of "
            f"{lag} and a spread of {spread} tokens. Draw fewer or longer."
        )
    order = 1 + _choose(generator, samples, KEYS, among=KEYS)
    keys, others = order[:, :pairs], order[:, pairs:]
    values = 1 + KEYS + _choose(generator, samples, pairs, among=VALUES)
    places = torch.rand(samples, slots, generator=generator)
    late = places.clone()
    late[:, :first] = 2  # after every number that is drawn
    query = late.argsort(dim=-1)[:, :asked]
    between = places.scatter(1, query, 2).argsort(dim=-1)[:, :distractors]
    which = torch.randint(others.shape[1], (samples, distractors), generator=generator)
    other_values = torch.randint(VALUES, (samples, distractors), generator=generator)
    tokens = torch.full((samples, 2 * (pairs + slots)), BLANK)
    tokens[:, 0 : 2 * pairs : 2] = keys
    tokens[:, 1 : 2 * pairs : 2] = values
    tokens.scatter_(1, 2 * (pairs + between), others.gather(1, which))
    tokens.scatter_(1, 2 * (pairs + between) + 1, 1 + KEYS + other_values)
    query = 2 * (pairs + query)
    tokens.scatter_(1, query, keys.repeat(1, queries))
    targets = torch.full_like(tokens, SILENT).scatter_(1, query, values.repeat(1, queries))
    return Recall(tokens, targets)


def accuracy(model: nn.Module, recall: Recall) -> float:
    """Share of the queries, 0 to 1, whose most likely next token is the right value.

    ``model`` maps token ids to an object with ``logits``, as the classes of transformers do. It
    runs in evaluation mode; its own mode is restored.
    """
    training = model.training
    model.eval()
    with torch.inference_mode():
        answers = model(recall.tokens, use_cache=False).logits.argmax(dim=-1)
    model.train(training)
    asked = recall.targets != SILENT
    return (answers == recall.targets)[asked].double().mean().item()


def spell(tokens: Int[Tensor, " time"] | Sequence[int]) -> list[str]:
    """The token strings of one sequence, such as labels for the axes of a map."""
    return [VOCABULARY[int(token)] for token in tokens]


def _choose(generator: torch.Generator, samples: int, count: int, *, among: int) -> Tensor:
    """``count`` different numbers below ``among`` for every sample, in random order."""
    return torch.rand(samples, among, generator=generator).argsort(dim=-1)[:, :count]
