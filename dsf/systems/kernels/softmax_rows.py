"""Softmax of scores into rows of a map, each taken while it is in the cache."""

import math
from typing import no_type_check

import numpy as np

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.exponential_rows import LEAST, LOG_TWO
from dsf.systems.kernels.exponentials import chosen, two_to
from dsf.systems.kernels.orders import number_of, order_of

OF_MINUS_INFINITY = order_of(-np.inf)


@kernel(reorders=True)
@no_type_check
def soften_rows(scores: np.ndarray, unread: np.ndarray, whole: np.ndarray) -> None:
    """Fill ``whole``, ``map row column``, whose columns behind those of the scores become zero.

    ``scores`` are in nats, and ``unread`` holds for every map the logarithm of a term in the
    denominator that belongs to no key. A row without a score above minus infinity becomes zero.
    """
    maps, rows, keys = scores.shape
    number = scores.dtype.type
    least, to_two = number(LEAST), number(1 / LOG_TWO)
    for m in range(maps):
        for i in range(rows):
            row, into = scores[m, i], whole[m, i]
            into[keys:] = 0
            top = number(max(_peak(row), unread[m]))
            if top == -np.inf:
                into[:keys] = 0
                continue
            total = 0.0
            for j in range(keys):
                below = (row[j] - top) * to_two
                below = chosen(below < least, least, below)
                weight = two_to(below)
                into[j] = weight
                total += weight
            scale = number(1 / (total + math.exp(unread[m] - top)))
            for j in range(keys):
                into[j] *= scale


@kernel(inlined=True)
@no_type_check
def _peak(row):
    peak = OF_MINUS_INFINITY
    for j in range(len(row)):
        order = order_of(row[j])
        peak = chosen(order > peak, order, peak)
    return number_of(peak)
