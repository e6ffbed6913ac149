"""Lines of single numbers, such as a series of one variable: tokens, or the features of a sample.

Weights that sum over a line take it for features, unless its numbers met in their order before.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional

import dsf
from dsf.inspection.errors import NothingCapturedError
from tests.any_code.test_promise import answered, drawn, inspected

STEPS, TAPS = 12, torch.tensor([0.2, 0.5, -0.3])


def _smoothed(x):
    found = [x[:, 0]]
    for t in range(1, x.shape[1]):
        found.append(0.9 * found[-1] + 0.1 * x[:, t])
    return torch.stack(found, dim=1)


def _filtered(x):
    return torch.fft.irfft(torch.fft.rfft(x) * torch.linspace(1, 0, STEPS // 2 + 1), n=STEPS)


IN_ORDER = {
    "convolution": lambda x: functional.conv1d(x[:, None], TAPS[None, None], padding=1)[:, 0],
    "moving average": lambda x: functional.avg_pool1d(x[:, None], 3, 1, 1)[:, 0],
    "average of one sample": lambda x: functional.avg_pool2d(x[None], (1, 3), 1, (0, 1))[0],
    "windows": lambda x: functional.pad(x, (1, 1)).unfold(1, 3, 1) @ TAPS,
    "differences": lambda x: functional.pad(x.diff(dim=1), (1, 0)),
    "neighbour": lambda x: x + 0.5 * x.roll(1, 1),
    "total": lambda x: x.cumsum(1),
    "loop": _smoothed,
    "filter": _filtered,
}
LINES = [(2, STEPS), (1, STEPS), (2, 1, STEPS), (2, STEPS, 1)]


class Headed(nn.Module):
    """Something on a line of numbers, and weights that sum over the whole line."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, nn.Linear(STEPS, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x.flatten(1))))


@pytest.mark.parametrize("shape", LINES)
@pytest.mark.parametrize("way", IN_ORDER)
def test_numbers_that_met_in_their_order_are_tokens(way, shape):
    found = answered(inspected(Headed(IN_ORDER[way]), drawn(*shape)))
    assert {"Headed", "head"} <= found


@pytest.mark.parametrize("shape", LINES)
def test_numbers_that_get_features_by_a_convolution_are_tokens(shape):
    class Featured(nn.Module):
        def __init__(self):
            super().__init__()
            self.feature, self.mix = nn.Conv1d(1, 4, 1), nn.Linear(STEPS, STEPS)

        def forward(self, x):
            return self.mix(torch.tanh(self.feature(x.flatten(1)[:, None])))

    assert "mix" in answered(inspected(Featured(), drawn(*shape)))


def _normed(x):
    return (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)


FEATURES = {
    "nothing": nn.Identity(),
    "norm": nn.LayerNorm(STEPS),
    "norm by hand": _normed,
    "length one": lambda x: functional.normalize(x, dim=1),
    "softmax": lambda x: x.softmax(1),
    "weights": nn.Sequential(nn.Linear(STEPS, STEPS), nn.Unflatten(1, (1, -1)), nn.AvgPool1d(1)),
}


@pytest.mark.parametrize("way", FEATURES)
def test_numbers_of_a_table_stay_features(way):
    inner = FEATURES[way]
    model = Headed(lambda x: inner(x).flatten(1)).eval()
    with pytest.raises(NothingCapturedError, match="channels are counted there"):
        dsf.inspect(model, drawn(3, STEPS))


def test_a_pool_over_one_sample_is_its_band():
    pool = nn.AvgPool2d((1, 3), stride=1, padding=(0, 1))

    class Series(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.head = pool, nn.Linear(STEPS, 5)

        def forward(self, x):
            return self.head(torch.tanh(self.pool(x[None])[0]))

    layer = inspected(Series(), drawn(2, STEPS))["pool"]
    band = torch.ones(STEPS, STEPS).tril(1).triu(-1) / 3
    torch.testing.assert_close(layer.map().squeeze().float(), band.expand(2, -1, -1))
