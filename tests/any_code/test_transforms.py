"""Fourier transforms keep the order of the tokens that they are given, and hide no convolution."""

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, pad

import dsf
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


@pytest.mark.parametrize("first", [TOKENS, TOKENS - 2])
def test_an_identity_before_a_transform_is_no_map(first):
    """The last rows of a convolution are those of no token; what enters it is no response."""

    class Late(Padded):
        def forward(self, x):
            product = torch.fft.fft(pad(x.mT, (0, TOKENS))) * torch.fft.fft(self.kernel, 2 * TOKENS)
            return torch.fft.ifft(product).real[..., first : first + TOKENS].mT

    attention = Attention(width=WIDTH, heads=2)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), attention, Late())
    inspection = dsf.inspect(drawn(model), tokens(2, TOKENS, WIDTH))
    assert [layer.name for layer in inspection if layer.is_exact] == ["1"]
    assert "2" in {part.name for part in inspection.unsupported}
