"""Every layer and direction of torch's recurrent modules, and cells called token by token."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import dsf
from dsf.inspection import ReconstructionError

TOKENS, SAMPLES, WIDTH, LAYERS = 7, 2, 3, 3
MODULES = {"lstm": nn.LSTM, "gru": nn.GRU, "elman": nn.RNN}
CELLS = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "elman": nn.RNNCell}
EXACT = 1e-13
no_projection_warning = pytest.mark.filterwarnings("ignore:LSTM with projections")


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def with_drawn_weights(module):
    """Larger weights than the initial ones, so that the past matters."""
    with torch.no_grad():
        for part in module.parameters():
            part.copy_(0.6 * torch.randn_like(part))
    return module


def start_of(module, samples=SAMPLES):
    directions = module.num_layers * (2 if module.bidirectional else 1)
    state = torch.randn(directions, samples, module.proj_size or module.hidden_size)
    if isinstance(module, nn.LSTM):
        return state, torch.randn(directions, samples, module.hidden_size)
    return state


def written_out(layer):
    """The layer's output by its map alone: ``sample time channel``."""
    maps, signal = layer.map(), layer.signal
    if layer.axes == ("sample", "channel"):
        return (maps @ signal[..., 0, :]).squeeze(-1).mT
    steps = layer.system.steps
    return (maps @ signal.flatten(-3, -2)).unflatten(-2, (steps, -1)).squeeze(-1)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time first, no bias", "batch first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("family", MODULES)
def test_every_layer_and_direction(family, bidirectional, batch_first):
    module = with_drawn_weights(
        MODULES[family](
            WIDTH,
            4,
            num_layers=LAYERS,
            bias=batch_first,
            batch_first=batch_first,
            bidirectional=bidirectional,
            dropout=0.4,
        )
    )
    inputs = torch.randn(SAMPLES, TOKENS, WIDTH)
    given = inputs if batch_first else inputs.transpose(0, 1)
    inspection = dsf.inspect(module, given, start_of(module), exact=True)
    assert len(inspection) == LAYERS * (2 if bidirectional else 1)
    assert all(layer.error < EXACT for layer in inspection)
    assert all(layer.family == family for layer in inspection)
    assert inspection[0].system.batch[0] == SAMPLES
    assert inspection[0].system.steps == TOKENS


@pytest.mark.parametrize("family", MODULES)
def test_maps_alone_give_the_output_of_the_module(family):
    """Without a start, the maps of the last layer times its signals are what torch puts out."""
    module = with_drawn_weights(
        MODULES[family](WIDTH, 4, num_layers=2, batch_first=True, bidirectional=True)
    ).double()
    inputs = torch.randn(SAMPLES, TOKENS, WIDTH, dtype=torch.float64)
    _, _, forward, reverse = dsf.inspect(module, inputs)
    ours = torch.cat([written_out(forward), written_out(reverse)], dim=-1)
    torch.testing.assert_close(ours, module(inputs)[0].detach())


@pytest.mark.parametrize("family", MODULES)
def test_one_direction_looks_back_the_other_ahead(family):
    module = with_drawn_weights(MODULES[family](WIDTH, 4, bidirectional=True))
    forward, reverse = dsf.inspect(module, torch.randn(TOKENS, 1, WIDTH))
    name = type(module).__name__
    assert forward.name == f"{name}[layer 0, forward]"
    assert reverse.name == f"{name}[layer 0, reverse]"
    if family == "elman":  # several ports a token: ask the system
        assert reverse.system.runs_backward
        assert not forward.system.runs_backward
        return
    assert (forward.map().triu(1) == 0).all()
    assert (reverse.map().tril(-1) == 0).all()
    assert reverse.map().triu(1).abs().sum() > 0


@pytest.mark.parametrize("family", MODULES)
def test_a_sequence_without_a_batch(family):
    module = with_drawn_weights(MODULES[family](WIDTH, 4, num_layers=2, bidirectional=True))
    for start in ((), (start_of(module, samples=1),)):
        squeezed = [
            part.squeeze(1) if isinstance(part, torch.Tensor) else tuple(p.squeeze(1) for p in part)
            for part in start
        ]
        inspection = dsf.inspect(module, torch.randn(TOKENS, WIDTH), *squeezed, exact=True)
        assert all(layer.error < EXACT for layer in inspection)
        assert inspection[0].system.batch[0] == 1


@pytest.mark.parametrize("family", MODULES)
def test_packed_samples_are_read_one_by_one(family):
    """Every reverse run starts at the last token of its own sample, not behind the padding."""
    module = with_drawn_weights(MODULES[family](WIDTH, 4, num_layers=2, bidirectional=True))
    packed = pack_sequence([torch.randn(n, WIDTH) for n in (3, 6, 5)], enforce_sorted=False)
    inspection = dsf.inspect(module, packed, start_of(module, samples=3), exact=True)
    assert [layer.system.steps for layer in inspection] == [3] * 4 + [6] * 4 + [5] * 4
    assert all(layer.error < EXACT for layer in inspection)
    assert inspection[7].name == f"{type(module).__name__}[layer 1, reverse, sample 1]"


def test_packed_samples_of_one_length_stay_a_batch():
    module = with_drawn_weights(nn.GRU(WIDTH, 4))
    packed = pack_sequence([torch.randn(5, WIDTH) for _ in range(3)])
    (layer,) = dsf.inspect(module.double(), packed.double())
    assert tuple(layer.system.batch) == (3, 4)
    expected, _ = pad_packed_sequence(module(packed.double())[0], batch_first=True)
    torch.testing.assert_close(written_out(layer), expected.detach())


@no_projection_warning
def test_projections():
    module = with_drawn_weights(nn.LSTM(WIDTH, 5, num_layers=2, proj_size=2, bidirectional=True))
    inspection = dsf.inspect(module, torch.randn(TOKENS, SAMPLES, WIDTH), start_of(module))
    assert all(layer.error < 1e-6 for layer in inspection)
    assert inspection[0].axes == ("sample",)
    assert (inspection[0].system.input_size, inspection[0].system.output_size) == (5, 2)


def test_relu():
    module = with_drawn_weights(nn.RNN(WIDTH, 5, num_layers=2, nonlinearity="relu"))
    inspection = dsf.inspect(module, torch.randn(TOKENS, SAMPLES, WIDTH), exact=True)
    assert all(layer.error < EXACT for layer in inspection)


def test_weights_behind_a_parametrisation():
    module = with_drawn_weights(nn.LSTM(WIDTH, 4))
    nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    assert dsf.inspect(module, torch.randn(TOKENS, 1, WIDTH), exact=True)[0].error < EXACT


class Stepping(nn.Module):
    """A cell called once a token, from a start or from nothing, ``runs`` times."""

    def __init__(self, cell, runs=1, start=True):
        super().__init__()
        self.cell, self.runs, self.start = cell, runs, start

    def forward(self, inputs):
        samples = inputs.shape[1:-1]
        for _ in range(self.runs):
            state = None
            if self.start:
                state = torch.randn(*samples, 4)
                state = (state, torch.randn(*samples, 4)) if self.is_lstm else state
            for token in inputs:
                state = self.cell(token, state)
        return state

    @property
    def is_lstm(self):
        return isinstance(self.cell, nn.LSTMCell)


@pytest.mark.parametrize("start", [False, True], ids=["from rest", "from a state"])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("family", CELLS)
def test_a_cell_called_token_by_token_is_one_layer(family, bias, start):
    model = Stepping(with_drawn_weights(CELLS[family](WIDTH, 4, bias=bias)), start=start)
    (layer,) = dsf.inspect(model, torch.randn(TOKENS, SAMPLES, WIDTH), exact=True)
    assert (layer.name, layer.family, layer.system.steps) == ("cell", family, TOKENS)
    assert layer.system.batch[0] == SAMPLES
    assert layer.error < EXACT


def test_a_cell_that_starts_again_is_another_sequence():
    model = Stepping(with_drawn_weights(nn.LSTMCell(WIDTH, 4)), runs=3)
    inspection = dsf.inspect(model, torch.randn(TOKENS, SAMPLES, WIDTH))
    assert [layer.name for layer in inspection] == ["cell", "cell (call 2)", "cell (call 3)"]
    assert all(layer.system.steps == TOKENS for layer in inspection)
    assert not torch.equal(inspection[0].map(), inspection[1].map())


def test_a_cell_without_a_batch():
    (layer,) = dsf.inspect(
        Stepping(with_drawn_weights(nn.GRUCell(WIDTH, 4))), torch.randn(TOKENS, WIDTH)
    )
    assert tuple(layer.system.batch) == (1, 4)
    assert layer.error < 1e-6


def test_sequences_that_take_turns_are_told_apart():
    class Turns(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = with_drawn_weights(nn.GRUCell(WIDTH, 4))

        def forward(self, inputs):
            states = [None, None]
            for token in inputs:
                states = [self.cell(token, states[0]), self.cell(-token, states[1])]

    inspection = dsf.inspect(Turns(), torch.randn(TOKENS, SAMPLES, WIDTH))
    assert [layer.system.steps for layer in inspection] == [TOKENS, TOKENS]
    first, second = (layer.mixer.inputs for layer in inspection)
    assert torch.equal(first, -second)


@pytest.mark.parametrize("family", MODULES)
def test_a_module_that_was_altered_is_refused(family):
    """A subclass that computes something else does not pass for the class it comes from."""

    class Altered(MODULES[family]):
        def forward(self, input, hx=None):
            output, state = super().forward(input, hx)
            return output * 1.001, state

    module = with_drawn_weights(Altered(WIDTH, 4))
    with pytest.raises(ReconstructionError, match=f"read as '{family}'.*differs by 1"):
        dsf.inspect(module, torch.randn(TOKENS, 1, WIDTH))
