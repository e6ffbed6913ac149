"""The 1797 handwritten digits of scikit-learn, every pixel a token."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from sklearn.datasets import load_digits
from torch import Tensor

from experiments.training.examples import Examples

GRID = (8, 8)
CLASSES = 10
BRIGHTEST = 16
TRAINED, CHECKED = 1097, 200
SPLIT_SEED = 0


class Digits(NamedTuple):
    """Images to train on, to watch the training with, and to report on: 1097, 200 and 500."""

    trained: Examples
    checked: Examples
    tested: Examples


def digits() -> Digits:
    """The same three parts on every call, in random order."""
    bunch = load_digits()
    inputs = torch.from_numpy(bunch.data).float() / BRIGHTEST
    targets = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(SPLIT_SEED))
    parts = order.tensor_split([TRAINED, TRAINED + CHECKED])
    return Digits(*(Examples(_tokens(inputs[part]), targets[part]) for part in parts))


def _tokens(images: Float[Tensor, "images pixels"]) -> Float[Tensor, "images tokens 1"]:
    """Row by row, as the grid of ``dsf.measures.neighbourhood_mass`` counts."""
    return images.unsqueeze(-1)
