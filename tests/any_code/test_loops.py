"""Recurrences and long filters that no adapter knows, each against a loop in float64."""

import torch
from torch import nn

import dsf
from tests.any_code.modules import SIZE, WIDTH, Beside, drawn, tokens


class Correlated(nn.Module):
    """A padded transform, of which the last places are taken: those of a correlation."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x):
        length = 2 * WIDTH
        spectrum = torch.fft.rfft(x, n=length, dim=1)
        kernel = torch.fft.rfft(self.kernel, n=length).conj()
        found = torch.fft.irfft(spectrum * kernel[:, None], length, dim=1).roll(-1, dims=1)
        return found.index_select(1, torch.arange(WIDTH, length))

    def expected(self):
        lag = torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)
        kernel = self.kernel.detach().double().flip(0)
        return torch.where(lag >= 0, kernel[lag.clamp(min=0)], 0).expand(SIZE, 1, WIDTH, WIDTH)


class Alone(nn.Module):
    """One sample without an axis of samples."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        state, found = torch.zeros_like(x[0]), []
        for each in x.unbind(0):
            state = self.decay.sigmoid() * state + each
            found.append(state)
        return torch.stack(found)


class Vectorised(nn.Module):
    """What is called inside of a vectorising transform, with tensors that cannot be kept."""

    def __init__(self):
        super().__init__()
        self.alone = Alone()

    def forward(self, x):
        return torch.vmap(self.alone)(x)

    def expected(self):
        lag = torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)
        decay = self.alone.decay.detach().double().sigmoid()[:, None, None]
        found = torch.where(lag >= 0, decay ** lag.clamp(min=0), 0)
        return found.expand(SIZE, *found.shape)


class WithState(nn.Module):
    """A gated sum that also returns its state, past the gate of its output."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def states(self, x):
        values, keep, read = self.project(x).chunk(3, dim=-1)
        keep, values, state, found = keep.sigmoid(), values.tanh(), 0, []
        for step in range(x.shape[1]):
            state = keep[:, step] * state + (1 - keep[:, step]) * values[:, step]
            found.append(state)
        return torch.stack(found, dim=1), read.sigmoid()

    def forward(self, x):
        states, read = self.states(x)
        return states * read, states[-1]


def _other(model):
    inspection = dsf.inspect(model, tokens())
    (layer,) = [one for one in inspection if one.name.startswith("other")]
    assert inspection.unsupported == ()
    assert layer.is_exact
    return layer


def test_the_last_places_of_a_padded_transform_are_the_tokens():
    model = drawn(Beside(Correlated()))
    torch.testing.assert_close(_other(model).map(), model.other.expected(), atol=1e-6, rtol=1e-5)


def test_what_a_vectorising_transform_calls_is_read_outside_of_it():
    model = drawn(Beside(Vectorised()))
    layer = _other(model)
    assert layer.name == "other"
    torch.testing.assert_close(layer.map(), model.other.expected(), atol=1e-6, rtol=1e-5)


class First(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = WithState()

    def forward(self, x):
        return self.inner(x)[0]


def test_a_state_that_is_returned_too_is_explained_by_the_states():
    model, x = drawn(First()), tokens()
    inspection = dsf.inspect(model, x)
    (layer,) = inspection
    assert layer.is_exact
    assert inspection.unsupported == ()
    response = (layer.map() @ layer.signal.flatten(-3, -2)).squeeze(-1).mT
    with torch.no_grad():
        states, _ = model.inner.double().states(x.double())
    torch.testing.assert_close(response.double(), states, atol=1e-5, rtol=1e-5)
