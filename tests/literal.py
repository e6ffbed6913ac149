"""The two equations and the structures, written with loops over plain arrays: nothing of ours."""

import numpy as np


def response(A, B, C, D, signal, initial, *, before=False, backward=False):
    """One batch entry: ``h_t = A_t h_{t-1} + B_t u_t``, ``y_t = C_t h_t + D_t u_t``."""
    steps = len(signal)
    state = initial
    out = [None] * steps
    for t in reversed(range(steps)) if backward else range(steps):
        after = A[t] @ state + B[t] @ signal[t]
        out[t] = C[t] @ (state if before else after) + D[t] @ signal[t]
        state = after
    return np.stack(out), state


def weights(A, B, C, D, *, before=False, backward=False):
    """One batch entry: the map, one product of matrices for every pair of tokens."""
    steps, outputs, inputs = D.shape
    map = np.zeros((steps * outputs, steps * inputs), dtype=np.result_type(A, B, C, D))
    for i in range(steps):
        for j in range(steps):
            block = D[i] * (i == j)
            ahead = j - i if backward else i - j
            if ahead > 0 or (ahead == 0 and not before):
                between = range(j - 1, i - 1, -1) if backward else range(j + 1, i + 1)
                passed = np.eye(A.shape[-1])
                for s in list(between)[: len(between) - before]:
                    passed = A[s] @ passed
                block = block + C[i] @ passed @ B[j]
            map[i * outputs : (i + 1) * outputs, j * inputs : (j + 1) * inputs] = block
    return map


def scaled_identity(decay, size):
    return np.stack([np.diag([each] * size) for each in decay])


def diagonal(decay):
    return np.stack([np.diag(each) for each in decay])


def sampled_diagonal(step, pole):
    return np.stack([np.diag(np.exp(each * pole)) for each in step])


def low_rank(decay, left, right):
    maps = []
    for d, x, y in zip(decay, left, right, strict=True):
        map = np.diag(d).astype(np.result_type(d, x, y))
        for row in range(len(d)):
            for column in range(len(d)):
                map[row, column] += sum(x[row, r] * y[column, r] for r in range(x.shape[1]))
        maps.append(map)
    return np.stack(maps)


def shift(places, size):
    maps = np.zeros((len(places), size, size))
    for t, moved in enumerate(places):
        for state in range(size):
            if 0 <= state + moved < size:
                maps[t, state + moved, state] = 1
    return maps
