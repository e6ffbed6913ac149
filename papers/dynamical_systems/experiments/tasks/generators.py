"""Four small tasks: three of MAD, and list operations, which is one of the Long Range Arena.

    in-context recall     k1 v4 k3 v2 k1 ?         a key that came before asks for its value
    noisy recall          k1 v4 · k3 v2 · · k1 ?   tokens without a meaning between the pairs
    selective copying     · a · · b c · > > >      the letters, in their order, after the blanks
    list operations       [max 3 [min 4 7 ] 1 ]    the value of the expression, at its last token

Sources: Poli et al. 2024, arXiv:2403.17844 (MAD); Tay et al. 2021, arXiv:2011.04006 (Long Range
Arena), after Nangia and Bowman 2018, arXiv:1804.06028. Sizes are ours.
"""

from collections.abc import Callable
from statistics import median_low

import torch
from torch import Generator, Tensor

from experiments.training.examples import SILENT, Examples

LENGTH = 48
KEYS = VALUES = NOISE = 12
NOISY = 0.3
"""Share of the pairs that a meaningless token follows."""
LETTERS = 6
BLANK, COPY = 0, 1
"""The two tokens of selective copying that are no letters."""

DIGITS = 10
OPERATORS: dict[str, Callable[[list[int]], int]] = {
    "max": max,
    "min": min,
    "med": median_low,
    "sum": lambda values: sum(values) % DIGITS,
}
CLOSE, PADDING = DIGITS + len(OPERATORS), DIGITS + len(OPERATORS) + 1
MOST_ARGUMENTS, DEEPEST = 4, 3

VOCABULARY = KEYS + VALUES + NOISE


def recall(generator: Generator, samples: int, *, noise: float = 0.0) -> Examples:
    """Pairs of a key and the value that it has in this sequence; keys return.

    Keys are the tokens 0 to ``KEYS - 1``, then come the values, then the meaningless tokens.
    """
    rows = [_recalled(generator, noise) for _ in range(samples)]
    return Examples(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))


def _recalled(generator: Generator, noise: float) -> tuple[Tensor, Tensor]:
    values = KEYS + torch.randint(VALUES, (KEYS,), generator=generator)
    keys = torch.randint(KEYS, (LENGTH // 2,), generator=generator).tolist()
    meaningless = KEYS + VALUES + torch.randint(NOISE, (LENGTH,), generator=generator)
    followed = torch.rand(LENGTH // 2, generator=generator) < noise
    tokens, targets, seen = [], [], set()
    for pair, key in enumerate(keys):
        value = int(values[key])
        tokens += [key, value]
        targets += [value if key in seen else SILENT, SILENT]
        seen.add(key)
        if followed[pair]:
            tokens.append(int(meaningless[pair]))
            targets.append(SILENT)
    return torch.tensor(tokens[:LENGTH]), torch.tensor(targets[:LENGTH])


def selective_copying(generator: Generator, samples: int) -> Examples:
    """``LETTERS`` letters among blanks, then as many signs to write the next letter."""
    room = LENGTH - LETTERS
    places = torch.rand(samples, room, generator=generator).topk(LETTERS).indices.sort().values
    letters = 2 + torch.randint(VOCABULARY - 2, (samples, LETTERS), generator=generator)
    tokens = torch.full((samples, LENGTH), BLANK).scatter_(1, places, letters)
    tokens[:, room:] = COPY
    targets = torch.full_like(tokens, SILENT)
    targets[:, room:] = letters
    return Examples(tokens, targets)


def list_operations(generator: Generator, samples: int) -> Examples:
    """Nested expressions of at most ``LENGTH`` tokens, padded on the left; the value at the end."""
    tokens = torch.full((samples, LENGTH), PADDING)
    targets = torch.full((samples, LENGTH), SILENT)
    for row in range(samples):
        written: list[int] = []
        while not written or len(written) > LENGTH:
            written, value = _expression(generator, DEEPEST)
        tokens[row, LENGTH - len(written) :] = torch.tensor(written)
        targets[row, -1] = value
    return Examples(tokens, targets)


def _expression(generator: Generator, depth: int) -> tuple[list[int], int]:
    """An operator and its arguments, half of which are expressions down to ``depth``."""

    def drawn(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    operator = drawn(len(OPERATORS))
    written, values = [DIGITS + operator], []
    for _ in range(2 + drawn(MOST_ARGUMENTS - 1)):
        if depth > 1 and drawn(2):
            part, value = _expression(generator, depth - 1)
        else:
            value = drawn(DIGITS)
            part = [value]
        written += part
        values.append(value)
    return [*written, CLOSE], list(OPERATORS.values())[operator](values)


TASKS: dict[str, Callable[[Generator, int], Examples]] = {
    "in-context recall": recall,
    "noisy recall": lambda generator, samples: recall(generator, samples, noise=NOISY),
    "selective copying": selective_copying,
    "list operations": list_operations,
}
