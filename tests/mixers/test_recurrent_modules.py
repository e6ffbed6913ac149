"""LSTM, GRU and Elman network against the torch modules they are read from."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.mixers import GRU, LSTM, ElmanRNN
from dsf.mixers.ingredients.recurrences import RELU, TANH, with_one
from dsf.runtime.shapes import ShapeError

EXACT = {"rtol": 1e-12, "atol": 1e-13}
KINDS = [(torch.nn.LSTM, LSTM), (torch.nn.GRU, GRU), (torch.nn.RNN, ElmanRNN)]
SEVERAL = pytest.mark.parametrize(("kind", "mixer_class"), KINDS, ids=lambda k: k.__name__)
STEPS = 9


def with_drawn_weights(kind, **options):
    """A module in double precision whose gates are far from one half."""
    module = kind(3, 4, dtype=torch.float64, **options).requires_grad_(False)
    rng = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.copy_(torch.randn(weight.shape, generator=rng, dtype=torch.float64))
    return module


def inputs(width=3, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, STEPS, width, generator=rng, dtype=torch.float64)


def response(mixer):
    """Outputs as ``*batch time channel``."""
    mixed = dsf.respond(mixer.system(), mixer.signal())
    return mixed[..., 0, 0].mT if mixed.ndim == 5 else mixed.squeeze(-1)


@SEVERAL
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_the_output_of_the_module_comes_back(kind, mixer_class, bias, batch_first):
    module = with_drawn_weights(kind, bias=bias, batch_first=batch_first)
    x = inputs()
    expected = module(x)[0] if batch_first else module(x.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(response(mixer_class.from_module(module, x)), expected, **EXACT)


@SEVERAL
@pytest.mark.parametrize("reverse", [False, True])
def test_a_start_that_is_not_zero_is_carried(kind, mixer_class, reverse):
    module, x = with_drawn_weights(kind, bidirectional=True, batch_first=True), inputs()
    starts = inputs(4, seed=2)[:, :2].transpose(0, 1)
    is_lstm = kind is torch.nn.LSTM
    both = module(x, (starts, 2 * starts) if is_lstm else starts)[0]
    expected = both[..., 4:] if reverse else both[..., :4]
    own = starts[1 if reverse else 0]
    initial = (own, 2 * own) if is_lstm else own
    mixer = mixer_class.from_module(module, x, initial, reverse=reverse)
    torch.testing.assert_close(response(mixer), expected, **EXACT)
    if kind is not torch.nn.RNN:
        second = dsf.respond(mixer.second_form(), with_one(mixer.inputs)).squeeze(-1)
        torch.testing.assert_close(second, expected, **EXACT)


@SEVERAL
def test_layers_and_directions_are_read_one_by_one(kind, mixer_class):
    module, x = (
        with_drawn_weights(kind, num_layers=2, bidirectional=True, batch_first=True),
        inputs(),
    )
    for layer in range(2):
        both = [
            mixer_class.from_module(module, x, layer=layer, reverse=reverse)
            for reverse in (False, True)
        ]
        x = torch.cat([response(mixer) for mixer in both], dim=-1)
    torch.testing.assert_close(x, module(inputs())[0], **EXACT)
    ahead = dsf.attention_map(both[1].system()).unflatten(-1, (STEPS, -1))
    ahead = ahead.unflatten(-3, (STEPS, -1))
    assert torch.equal(ahead, ahead * torch.ones(STEPS, STEPS).triu()[:, None, :, None])
    assert ahead.abs().sum() > 0


@pytest.mark.parametrize("reverse", [False, True])
def test_an_lstm_with_a_projection(reverse):
    module, x = (
        with_drawn_weights(torch.nn.LSTM, proj_size=2, bidirectional=True, batch_first=True),
        inputs(),
    )
    mixer = LSTM.from_module(module, x, reverse=reverse)
    expected = module(x)[0][..., 2:] if reverse else module(x)[0][..., :2]
    torch.testing.assert_close(response(mixer), expected, **EXACT)
    second = dsf.respond(mixer.second_form(), with_one(mixer.inputs)).squeeze(-1)
    torch.testing.assert_close(second, expected, **EXACT)


def test_a_network_with_relu():
    module, x = with_drawn_weights(torch.nn.RNN, nonlinearity="relu", batch_first=True), inputs()
    torch.testing.assert_close(response(ElmanRNN.from_module(module, x)), module(x)[0], **EXACT)


@pytest.mark.parametrize("mixer_class", [LSTM, GRU])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_second_form_gives_the_same_outputs(mixer_class, reverse):
    kind = getattr(torch.nn, mixer_class.__name__)
    module, x = with_drawn_weights(kind, bidirectional=True, batch_first=True), inputs()
    mixer = mixer_class.from_module(module, x, reverse=reverse)
    second = dsf.respond(mixer.second_form(), with_one(mixer.inputs)).squeeze(-1)
    torch.testing.assert_close(second, response(mixer), **EXACT)


@pytest.mark.parametrize(
    ("kind", "mixer_class", "options"),
    [(*both, {}) for both in KINDS]
    + [(*KINDS[0], {"proj_size": 2}), (*KINDS[2], {"nonlinearity": "relu"})],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
@pytest.mark.parametrize("reverse", [False, True])
def test_the_tangent_is_the_derivative_and_another_object(kind, mixer_class, options, reverse):
    module = with_drawn_weights(kind, bidirectional=True, batch_first=True, **options)
    x, change = inputs(), inputs(seed=5)
    mixer = mixer_class.from_module(module, x, reverse=reverse)

    def outputs(given):
        return response(mixer_class.from_module(module, given, reverse=reverse))

    _, expected = torch.autograd.functional.jvp(outputs, x, change)
    moved = dsf.respond(mixer.tangent(), change.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(moved, expected, **EXACT)
    driven_by_inputs = dsf.respond(mixer.tangent(), x.unsqueeze(-1)).squeeze(-1)
    assert (driven_by_inputs - outputs(x)).abs().max() > 0.1


def test_gates_of_a_candidate_near_zero_stay_finite():
    """tanh(a) / a has the limit one; a naive quotient would be nan."""
    a = torch.tensor([0.0, 1e-300, 1e-4, 9.99e-4, 1.001e-3, 2.0, -40.0], dtype=torch.float64)
    a.requires_grad_(True)
    slope = TANH.secant(a)
    assert slope[0] == 1
    torch.testing.assert_close(slope * a, a.tanh(), rtol=1e-15, atol=0)
    slope.sum().backward()
    torch.testing.assert_close(a.grad[2:4], -2 * a[2:4].detach() / 3, rtol=1e-5, atol=0)
    assert a.grad.isfinite().all()
    assert RELU.secant(torch.tensor([-1.0, 0.0, 2.0])).tolist() == [0, 0, 1]


def test_what_the_module_lacks_is_said():
    module = torch.nn.GRU(3, 4)
    with pytest.raises(ValueError, match="layer 1"):
        GRU.from_module(module, torch.zeros(2, 5, 3), layer=1)
    with pytest.raises(ValueError, match="'reverse'"):
        GRU.from_module(module, torch.zeros(2, 5, 3), reverse=True)


@pytest.mark.usefixtures("our_own_errors")
def test_a_module_of_another_kind_is_refused():
    x = torch.zeros(2, 5, 3)
    with pytest.raises(TypeError, match="LSTM"):
        GRU.from_module(torch.nn.LSTM(3, 3), x)


@pytest.mark.usefixtures("our_own_errors")
def test_a_wrong_number_of_gates_is_refused():
    mixer = GRU.from_module(torch.nn.GRU(3, 4), torch.zeros(2, 5, 3))
    one_more = torch.cat([mixer.input_weight, mixer.input_weight[:1]])
    with pytest.raises(ShapeError, match="input_weight"):
        replace(mixer, input_weight=one_more)


@pytest.mark.usefixtures("our_own_errors")
def test_a_recurrent_weight_that_is_not_square_is_refused():
    """One axis name twice in a part: both sizes count."""
    mixer = ElmanRNN.from_module(torch.nn.RNN(3, 4), torch.zeros(2, 5, 3))
    with pytest.raises(ShapeError, match="recurrent_weight"):
        replace(mixer, recurrent_weight=torch.zeros(5, 4))
