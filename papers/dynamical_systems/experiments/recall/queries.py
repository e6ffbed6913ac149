"""Multi-query associative recall: pairs of key and value first, then each key once more.

    k3 v7 k9 v1 · · k9 · k3 ·        asks for v1 under the second k9, for v7 under the second k3

The distance from the pairs to a key's return follows a power law, so most queries come soon.

Source: Arora et al. 2023, arXiv:2312.04927, as Sieber et al. 2024, arXiv:2405.15731, set it up with
8192 tokens; here with 64.
"""

import torch

from experiments.training.examples import SILENT, Examples

VOCABULARY = 64
LENGTH = 32
PAIRS = 4
POWER = 0.01
"""Returns are drawn with probability proportional to ``(gap + 1) ** (POWER - 1)``."""


def draw(
    generator: torch.Generator,
    samples: int,
    *,
    pairs: int = PAIRS,
    length: int = LENGTH,
    vocabulary: int = VOCABULARY,
) -> Examples:
    """Draw ``samples`` sequences of ``length`` tokens, of shape (samples, length).

    Token 0 is blank, keys are the rest of the lower half of the vocabulary, values the upper half.
    No key and no value occurs in two pairs of one sequence. A key returns at
    ``2 pairs + 2 gap``, no two at one place; its value is the target there.

    Raises:
        ValueError: if the pairs outnumber the keys, or pairs and returns do not fit.
    """
    half = vocabulary // 2
    if not 1 <= pairs < half:
        raise ValueError(
            f"draw: pairs is {pairs}, but a vocabulary of {vocabulary} has {half - 1} keys and "
            f"none is used twice. Ask for 1 to {half - 1} pairs."
        )
    if length < 4 * pairs:
        raise ValueError(
            f"draw: length is {length}, but {pairs} pairs and as many returns, a blank after "
            f"each, take {4 * pairs} tokens. Ask for a longer sequence or for fewer pairs."
        )
    start = 2 * pairs
    keys = 1 + _choose(generator, samples, pairs, torch.ones(half - 1))
    values = half + _choose(generator, samples, pairs, torch.ones(vocabulary - half))
    nearness = torch.arange(1.0, (length - start) // 2 + 1) ** (POWER - 1)
    returns = start + 2 * _choose(generator, samples, pairs, nearness)
    tokens = torch.zeros(samples, length, dtype=torch.long)
    tokens[:, 0:start:2] = keys
    tokens[:, 1:start:2] = values
    tokens.scatter_(1, returns, keys)
    return Examples(tokens, torch.full_like(tokens, SILENT).scatter_(1, returns, values))


def _choose(
    generator: torch.Generator, samples: int, count: int, weight: torch.Tensor
) -> torch.Tensor:
    """``count`` different places in ``weight`` for every sample, one after the other by weight."""
    return torch.multinomial(weight.expand(samples, -1), count, generator=generator)
