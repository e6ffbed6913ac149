"""What predicts a text without a network: how often each byte came, alone or behind another."""

import numpy as np
from jaxtyping import Float

BYTES = 256


def unigram(train: bytes) -> Float[np.ndarray, " byte"]:
    """Probability of every byte; each counts once more than it came."""
    counts = np.bincount(np.frombuffer(train, np.uint8), minlength=BYTES) + 1.0
    return counts / counts.sum()


def bigram(train: bytes) -> Float[np.ndarray, "before byte"]:
    """Probability of every byte behind every byte; each pair counts once more than it came."""
    numbers = np.frombuffer(train, np.uint8).astype(np.int64)
    pairs = np.bincount(numbers[:-1] * BYTES + numbers[1:], minlength=BYTES**2) + 1.0
    table = pairs.reshape(BYTES, BYTES)
    return table / table.sum(axis=1, keepdims=True)


def unigram_bits(table: Float[np.ndarray, " byte"], text: bytes) -> float:
    """Bits for each byte of ``text``."""
    return float(-np.log2(table[np.frombuffer(text, np.uint8)]).mean())


def bigram_bits(table: Float[np.ndarray, "before byte"], text: bytes) -> float:
    """Bits for each byte of ``text``, which stands behind a line break, as with the models."""
    numbers = np.frombuffer(b"\n" + text, np.uint8)
    return float(-np.log2(table[numbers[:-1], numbers[1:]]).mean())
