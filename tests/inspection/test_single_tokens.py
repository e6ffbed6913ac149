"""Maps that are read off in fewer passes than there are tokens, beside one pass for every value."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv1d, conv2d, pad

from dsf.inspection.probing.driven import applied, read_off
from dsf.inspection.probing.single_tokens import EXACT, FEW

SAMPLES, SIDE, CHANNELS = 2, 12, 4
STEPS = SIDE**2
OVERHEAD = 35
"""Passes that find the form of a map, and which tokens may be driven together."""


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def image(x):
    return x.mT.unflatten(-1, (SIDE, SIDE))


def rows(found):
    return found.flatten(2).mT


def along_time(x, read, **how):
    return conv1d(x.mT, drawn(CHANNELS, read, 3), **how).mT


def over_image(x, read, **how):
    return rows(conv2d(image(x), drawn(CHANNELS, read, 3, 3), padding=1, **how))


def normed(x, groups):
    by_group = x.unflatten(-1, (groups, -1))
    return (by_group - by_group.mean(dim=(1, 3), keepdim=True)).flatten(2)


ORDER = torch.randperm(STEPS, generator=torch.Generator().manual_seed(0))
GATES = drawn(STEPS, CHANNELS)
LOCAL = {
    "a convolution of every channel": lambda x: along_time(x, 1, padding=1, groups=CHANNELS),
    "of all channels": lambda x: along_time(x, CHANNELS, padding=1),
    "causal, with holes": lambda x: along_time(pad(x, (0, 0, 6, 0)), CHANNELS, dilation=3),
    "with steps": lambda x: along_time(x, 1, stride=2, padding=1, groups=CHANNELS),
    "over an image": lambda x: over_image(x, 1, groups=CHANNELS),
    "over an image, of all channels": lambda x: over_image(x, CHANNELS),
    "a pooling": lambda x: rows(avg_pool2d(image(x), 2)),
    "another order": lambda x: x[:, ORDER],
    "every token by itself": lambda x: x * GATES,
    "sums of eight": lambda x: x.unflatten(1, (-1, 8)).cumsum(2).flatten(1, 2),
}
ALIKE = {
    "a norm over tokens": lambda x: normed(x, CHANNELS),
    "with gates": lambda x: GATES * normed(x, CHANNELS),
    "of groups of channels": lambda x: normed(x, 2),
    "of all channels": lambda x: normed(x, 1),
    "a mean": lambda x: x.mean(dim=1, keepdim=True),
    "a mean that is added": lambda x: x + GATES * x.mean(dim=1, keepdim=True),
}


def measured(function, x):
    """The map that is read off, as ``sample output input time read``, and the passes it took."""
    calls = []

    def counted(values):
        calls.append(values)
        return function(values)

    found, outputs = read_off(counted, x), function(x).shape[-1]
    weights, passes = found.weights, len(calls)
    if found.width:
        each = weights.repeat_interleave(found.width, dim=1)
        weights = each.unsqueeze(2) * torch.eye(outputs, dtype=x.dtype)[:, :, None, None]
    return weights, passes


def one_by_one(function, x):
    units = torch.eye(STEPS * CHANNELS, dtype=x.dtype).reshape(-1, 1, STEPS, CHANNELS)
    found = torch.stack([function(unit)[0] for unit in units])
    found = found.unflatten(0, (STEPS, CHANNELS)).permute(3, 1, 2, 0)  # output input time read
    return found.expand(SAMPLES, *found.shape)


CASES = {
    **{name: (function, 2 * STEPS) for name, function in LOCAL.items()},
    **{f"alike: {name}": (function, 6) for name, function in ALIKE.items()},
}


@pytest.mark.parametrize("case", CASES)
def test_maps_are_those_of_single_values_and_take_fewer_passes(case):
    function, most = CASES[case]
    x = drawn(SAMPLES, STEPS, CHANNELS)
    found, passes = measured(function, x)
    expected = one_by_one(function, x)
    torch.testing.assert_close(found, expected, atol=10 * EXACT, rtol=0)
    assert passes <= OVERHEAD + most
    assert passes < min(found.shape[2], 2) * STEPS  # in heads of all channels it were a quarter


@pytest.mark.parametrize("far", [0.25, 1e-9])
@pytest.mark.parametrize("case", [*LOCAL, *ALIKE])
def test_a_weight_where_no_token_was_tried_is_not_lost(case, far):
    """What is guessed of all tokens from a few is compared with responses to random values."""
    function = (LOCAL | ALIKE)[case]
    x = drawn(SAMPLES, STEPS, CHANNELS)

    def other(values):
        found = function(values).clone()
        found[:, -1] = found[:, -1] + far * values[:, 3, : found.shape[-1]]
        return found

    found, _ = measured(other, x)
    torch.testing.assert_close(found, one_by_one(other, x), atol=1e-2 * far, rtol=0)


def test_few_tokens_are_driven_one_by_one():
    x = drawn(SAMPLES, FEW, 1)
    calls = []

    def function(values):
        calls.append(int(values.count_nonzero(dim=1).max()))
        return conv1d(values.mT, drawn(1, 1, 3), padding=1).mT

    found = read_off(function, x)
    assert calls[-FEW:] == [1] * FEW
    torch.testing.assert_close(applied(found.weights, x, 1), function(x))
