"""Fourier transforms keep the order of the tokens that they are given, and hide no convolution."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, pad

import dsf
from dsf.inspection.errors import NothingCapturedError
from tests.any_code.modules import Attention, drawn, tokens

WIDTH, TOKENS = 6, 12


class Padded(nn.Module):
    """A convolution as long as the sequence, behind as many zeros."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(WIDTH, TOKENS))

    def forward(self, x):
        size = 2 * x.shape[1]
        product = torch.fft.rfft(x.mT, size) * torch.fft.rfft(self.kernel, size)
        return torch.fft.irfft(product, size)[..., : x.shape[1]].mT


class Circular(Padded):
    """The same around a circle: fewer frequencies than tokens."""

    def forward(self, x):
        product = torch.fft.rfft(x, dim=1) * torch.fft.rfft(self.kernel.mT, dim=0)
        return torch.fft.irfft(product, x.shape[1], dim=1)


class Turned(Padded):
    """Its frequencies lie along another axis than its tokens."""

    def forward(self, x):
        size = 2 * x.shape[1]
        product = torch.fft.rfft(x, size, dim=1).mT * torch.fft.rfft(self.kernel, size)
        return torch.fft.irfft(product, size)[..., : x.shape[1]].mT


class Plane(nn.Module):
    """A global filter of an image, the places of which are one axis (GFNet)."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.zeros(3, 3, WIDTH, 2))

    def forward(self, x):
        product = torch.fft.rfft2(x.unflatten(1, (3, 4)), dim=(1, 2))
        product = product * torch.view_as_complex(self.filter)
        return torch.fft.irfft2(product, s=(3, 4), dim=(1, 2)).flatten(1, 2)


class Windows(nn.Module):
    """Products of the frequencies of two projections in every window of an image (FFTformer)."""

    def __init__(self, rows, columns):
        super().__init__()
        self.rows, self.columns = rows, columns
        self.two = nn.Conv2d(WIDTH, 2 * WIDTH, 1)

    def windows(self, x):
        return x.unflatten(-1, (-1, self.columns)).unflatten(-3, (-1, self.rows)).transpose(-3, -2)

    def forward(self, x):
        query, key = (torch.fft.rfft2(self.windows(one)) for one in self.two(x).chunk(2, dim=1))
        found = torch.fft.irfft2(query * key, s=(self.rows, self.columns))
        return found.transpose(-3, -2).reshape(x.shape) * x


@pytest.mark.parametrize(("rows", "columns"), [(2, 6), (2, 3), (4, 4)])
def test_frequencies_of_windows_are_followed(rows, columns):
    """Along one axis of a window there are as many as tokens, along the other fewer."""
    model = drawn(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), Windows(rows, columns)))
    with pytest.raises(NothingCapturedError, match=r"it mixes tokens \(a Fourier transform over"):
        dsf.inspect(model, tokens(2, WIDTH, 8, 12))


class Model(nn.Module):
    """A mixer of tokens in another order, and factors in their own."""

    def __init__(self, mixer, order):
        super().__init__()
        self.inp, self.mixer, self.out = nn.Linear(WIDTH, WIDTH), mixer, nn.Linear(WIDTH, WIDTH)
        self.order = order

    def forward(self, x):
        x = gelu(self.inp(x))
        return self.out(self.mixer(x[:, self.order])[:, self.order.argsort()] * x)


PLACES = torch.arange(TOKENS)
ORDERS = {"plain": PLACES, "backwards": PLACES.flip(0), "permuted": PLACES * 5 % TOKENS}


@pytest.mark.parametrize("kind", [Padded, Circular, Turned, Plane])
@pytest.mark.parametrize("order", ORDERS)
def test_a_transform_keeps_the_order_of_its_tokens(kind, order):
    model = drawn(Model(kind(), ORDERS[order]))
    inspection = dsf.inspect(model, tokens(2, TOKENS, WIDTH))
    assert [layer.name for layer in inspection] == ["mixer"]
    assert inspection.unsupported == ()
    (layer,) = inspection
    assert layer.is_exact
    torch.testing.assert_close(layer.row_tokens, layer.column_tokens)
    place = ORDERS[order].argsort()[layer.row_tokens[0, 0]]  # where each token lies in the mixer
    unit = torch.eye(TOKENS, dtype=torch.float64)[..., None].expand(-1, -1, WIDTH)
    with torch.no_grad():
        columns = model.mixer.double()(unit)  # token read, token written, channel
    torch.testing.assert_close(layer.map()[0], columns.permute(2, 1, 0)[:, place][:, :, place])


class Late(Padded):
    """The rows of a convolution from one place on, of which those behind all tokens are of none."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def forward(self, x):
        product = torch.fft.fft(pad(x.mT, (0, TOKENS))) * torch.fft.fft(self.kernel, 2 * TOKENS)
        return torch.fft.ifft(product).real[..., self.first : self.first + TOKENS].mT


def behind_attention(first):
    attention = Attention(width=WIDTH, heads=2)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), attention, Late(first))
    return dsf.inspect(drawn(model), tokens(2, TOKENS, WIDTH)), model[2].kernel.double()


def test_rows_of_no_token_are_numbers_of_their_sample():
    inspection, kernel = behind_attention(TOKENS)
    assert [layer.name for layer in inspection if layer.is_exact] == ["1", "2"]
    lags = TOKENS + PLACES[:, None] - PLACES
    filters = kernel.detach()[:, lags.clamp(max=TOKENS - 1)] * (lags < TOKENS)
    by_row = torch.diag_embed(filters.movedim(0, -1)).movedim(1, -1)  # row output input token
    found = inspection["2"].map().squeeze(-2)
    torch.testing.assert_close(found, by_row.flatten(0, 1).expand_as(found))


@pytest.mark.parametrize("first", [TOKENS - 1, TOKENS - 2])
def test_an_identity_before_a_transform_is_no_map(first):
    """Where some of the rows are those of no token, what enters it is no response."""
    inspection, _ = behind_attention(first)
    assert [layer.name for layer in inspection if layer.is_exact] == ["1"]
    assert "2" in {part.name for part in inspection.unsupported}


class Modes(nn.Module):
    """A filter of few frequencies, turned and laid into zeros (FNO)."""

    def __init__(self, dims):
        super().__init__()
        self.dims = dims
        self.weights = nn.Parameter(torch.zeros(WIDTH, WIDTH, *[2] * len(dims), 2))

    def turned(self, x):
        return torch.fft.fftshift(x, dim=self.dims[:-1]) if len(self.dims) > 1 else x

    def forward(self, x):
        found = self.turned(torch.fft.rfftn(x, dim=self.dims))
        places = (..., *[slice(1, 3)] * (len(self.dims) - 1), slice(2))
        made, weights = torch.zeros_like(found), torch.view_as_complex(self.weights)
        made[places] = torch.einsum("si...,io...->so...", found[places], weights)
        sizes = [x.shape[dim] for dim in self.dims]
        return torch.fft.irfftn(self.turned(made), s=sizes, dim=self.dims)


class Operator(nn.Module):
    """Such a filter of numbers on a grid, whose places come first among their features."""

    def __init__(self, dims):
        super().__init__()
        self.inp = nn.Conv1d(2, WIDTH, 1) if len(dims) == 1 else nn.Conv2d(2, WIDTH, 1)
        self.filter, self.out = Modes(dims), nn.Linear(WIDTH, 2)

    def forward(self, x):
        grid = torch.linspace(0, 1, x.shape[-1]).expand(x.shape)
        x = self.filter(self.inp(torch.cat([grid, x], dim=1)))
        return self.out(torch.tanh(x).movedim(1, -1))


@pytest.mark.parametrize("sizes", [(TOKENS,), (4, 4), (4, 6)])
def test_few_frequencies_among_zeros_are_read(sizes):
    model = drawn(Operator(tuple(range(-len(sizes), 0))))
    inspection = dsf.inspect(model, tokens(2, 1, *sizes))
    assert inspection.unsupported == ()
    (layer,) = inspection
    assert layer.name == "filter"
    assert layer.is_exact
    count = math.prod(sizes)
    units = torch.eye(count, dtype=torch.float64).view(count, 1, 1, *sizes)
    units = units * torch.eye(WIDTH, dtype=torch.float64).view(WIDTH, WIDTH, *[1] * len(sizes))
    with torch.no_grad():
        found = model.filter.double()(units.flatten(0, 1)).reshape(count, WIDTH, WIDTH, count)
    torch.testing.assert_close(layer.map()[0], found.permute(2, 1, 3, 0))
