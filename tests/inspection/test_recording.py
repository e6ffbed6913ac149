"""A recorded call is its module: replayed with other numbers it gives what the module gives."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from dsf.inspection.errors import UnreadableError
from dsf.inspection.recording import Exchanged, recorded, values_in
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models

STEPS, WIDTH = 6, 8


def drawn(*size, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=rng, dtype=torch.float64)


class Does(nn.Module):
    """A module that is a function of its input and of a buffer."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("kept", torch.zeros(2, WIDTH, dtype=torch.float64))

    def forward(self, x):
        return self.function(self, x)


def writes_in_place(_, x):
    y = x.clone()
    later = y[:, 1:]
    later.add_(y[:, :-1].clone())
    y.mul_(2)[..., 0] = x.sum(-1)
    flat = y.view(2, -1)
    flat[:, ::3] -= 1
    return y, later


def writes_a_buffer(module, x):
    module.kept.copy_(x[:, 0])
    x = x * 1
    x.unbind(1)[3].copy_(module.kept)
    return x + module.kept[:, None]


def fills_in_a_loop(_, x):
    out, state = torch.empty_like(x), x.new_zeros(2, WIDTH)
    for t in range(x.shape[1]):
        state = 0.9 * state + x[:, t]
        out[:, t] = state
    return out


def by_fourier_transforms(_, x):
    spectra = torch.fft.rfft(x, 2 * STEPS, dim=1)
    return torch.fft.irfft(spectra.conj() * spectra, 2 * STEPS, dim=1)[:, :STEPS]


def by_views_of_complex_numbers(_, x):
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs.cumsum(1) * 1j).flatten(-2)


def through_shared_memory(_, x):
    return 2 * torch.from_numpy((2 * x).numpy()) + torch.from_dlpack(x + 1)


def drawing(_, x):
    return x * torch.rand_like(x) + nn.functional.dropout(x, 0.5)


FUNCTIONS = [
    *(writes_in_place, writes_a_buffer, fills_in_a_loop, by_fourier_transforms),
    *(by_views_of_complex_numbers, through_shared_memory, drawing),
]
MODULES = {
    **{function.__name__: Does(function) for function in FUNCTIONS},
    "vmap": Does(lambda _, x: torch.vmap(lambda row: row.cumsum(0))(x)),
    "sparse": Does(lambda _, x: torch.sparse.mm(torch.eye(2 * STEPS).double().to_sparse(), x[0])),
    "gru": nn.GRU(WIDTH, 4, batch_first=True).double(),
    "lstm": nn.LSTM(WIDTH, 4, 2, batch_first=True, bidirectional=True).double(),
}


def numbers_of(module, x):
    with torch.no_grad():
        return [part for part in tree_leaves(module(x)) if isinstance(part, torch.Tensor)]


@pytest.mark.parametrize("name", MODULES)
def test_a_replay_is_the_module(name):
    module, rows = MODULES[name].eval(), 2 * STEPS if name == "sparse" else STEPS
    x, other = drawn(2, rows, WIDTH), drawn(2, rows, WIDTH, seed=1)
    torch.manual_seed(0)
    recording = recorded(module, (x,), {})
    (given,), outputs = recording.given, values_in(recording.output)
    for numbers in (x, other):
        found = recording.replay([Exchanged(given, lambda _, new=numbers: new)], outputs)
        torch.manual_seed(0)
        for value, expected in zip(outputs, numbers_of(module, numbers), strict=True):
            torch.testing.assert_close(found[value], expected, rtol=0, atol=0)
    if name not in {"through_shared_memory"}:
        assert recording.is_all


@pytest.mark.parametrize("name", ["llama", "mamba", "mamba2", "qwen3_next"])
def test_a_replay_is_the_mixer_of_a_library(name):
    is_softmax = name == "llama"
    model = softmax_models.build(name) if is_softmax else tiny_models.build(name)
    given = softmax_models.inputs(name) if is_softmax else tiny_models.inputs(STEPS)
    kinds = ("Attention", "Mixer", "DeltaNet")
    mixer = next(part for part in model.modules() if type(part).__name__.endswith(kinds)).double()
    calls = []
    with (
        torch.no_grad(),
        mixer.register_forward_pre_hook(
            lambda _module, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        ),
    ):
        model.double()(**given, use_cache=False)
    args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.clone, calls[0])
    recording = recorded(mixer, args, kwargs)
    replaced = next(one for one in recording.given if one.dtype.is_floating_point)
    old, new = recording.tensor(replaced), drawn(*replaced.shape)
    found = recording.replay([Exchanged(replaced, lambda _: new)], [recording.first_output])
    args, kwargs = tree_map_only(
        torch.Tensor, lambda one: new if torch.equal(one, old) else one, (args, kwargs)
    )
    with torch.no_grad():
        (expected, *_) = tree_leaves(mixer(*args, **kwargs))
    torch.testing.assert_close(found[recording.first_output], expected, rtol=0, atol=0)


def by_item(_, x):
    return x / x.abs().max().item()


def by_branch(_, x):
    return 2 * x if x.sum() > 0 else -x


def by_list(_, x):
    return x + torch.tensor(x[..., 0].tolist()).double()[..., None]


def by_array(_, x):
    return x + torch.from_numpy(np.cumsum(x.numpy(), axis=1))


def by_written_array(_, x):
    y = 2 * x
    y.numpy()[:, 1:] += y.numpy()[:, :-1]
    return y + 1


@pytest.mark.parametrize("function", [by_item, by_branch, by_list, by_array, by_written_array])
def test_numbers_that_leave_torch_are_told_of(function):
    module, x = Does(function), drawn(2, STEPS, WIDTH)
    recording = recorded(module, (x,), {})
    (given,), output = recording.given, recording.first_output
    assert not recording.is_all
    if function is not by_written_array:  # what is written past torch is not replayed
        found = recording.replay([Exchanged(given, lambda old: old)], [output])[output]
        torch.testing.assert_close(found, module(x), rtol=0, atol=0)


def test_what_has_another_shape_for_other_numbers_is_refused():
    module, x = Does(lambda _, x: x[x[..., 0] > 0]), drawn(2, STEPS, WIDTH)
    recording = recorded(module, (x,), {})
    exchanged = [Exchanged(recording.given[0], torch.ones_like)]
    with pytest.raises(UnreadableError):
        recording.replay(exchanged, [recording.first_output])


def test_only_what_lies_between_is_computed():
    module, x = Does(lambda _, x: (x.exp() * x.sin()).cumsum(1)), drawn(2, STEPS, WIDTH)
    recording = recorded(module, (x,), {})
    (sine,) = (one.outs[0] for one in recording.operations if one.name == "sin")
    (exp,) = (one.outs[0] for one in recording.operations if one.name == "exp")
    found = recording.replay([Exchanged(sine, torch.ones_like)], [recording.first_output, exp])
    torch.testing.assert_close(found[exp], x.exp())
    torch.testing.assert_close(found[recording.first_output], x.exp().cumsum(1))


def test_operations_may_be_given_the_numbers_from_before():
    module, x = Does(lambda _, x: x.exp() * x), drawn(2, STEPS, WIDTH)
    recording = recorded(module, (x,), {})
    (given,), output = recording.given, recording.first_output
    exponent = frozenset(k for k, one in enumerate(recording.operations) if one.name == "exp")
    found = recording.replay([Exchanged(given, torch.zeros_like, exponent)], [output])
    assert not found[output].any()
    product = frozenset(recording.readers(given)) - exponent
    found = recording.replay([Exchanged(given, torch.zeros_like, product)], [output])
    torch.testing.assert_close(found[output], x)
