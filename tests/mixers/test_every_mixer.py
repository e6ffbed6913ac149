"""Laws that every architecture keeps: evaluators, maps, causality, number types, gradients."""

from dataclasses import fields, replace
from functools import cache, partial
from importlib import import_module

import pytest
import torch
from torch import Tensor

import dsf
from dsf.evaluate.chunks import varying
from tests.mixers.mixer_fields import axes_of, draw, snake, tensors

METHODS = {
    "default": None,
    "recurrent": dsf.evaluate.recurrent,
    "scan": dsf.evaluate.scan,
    "chunks of 1": partial(dsf.evaluate.chunkwise, size=1),
    "chunks of 4": partial(dsf.evaluate.chunkwise, size=4),
    "chunks of 64": partial(dsf.evaluate.chunkwise, size=64),
}
LENGTHS = [1, 2, 9, 65]
# Double precision: a few hundred additions of numbers of one size.
EXACT = 1e-12
# Single precision, seven digits, two of them lost to nine lively steps.
SINGLE = 1e-5


def reference_for(cls):
    return import_module(f"tests.references.{snake(cls.__name__)}").reference


def floating(mixer):
    return {
        name: part
        for name, part in tensors(mixer).items()
        if part.is_floating_point() or part.is_complex()
    }


@cache
def drawn_and_expected(cls, steps):
    """A random instance and what its paper says, worked out once."""
    mixer = draw(cls, steps)
    return mixer, reference_for(cls)(mixer)


def respond(mixer, method=None):
    return dsf.respond(mixer.system(), mixer.signal(), method=method)


def as_tokens(response, expected):
    """A response in the axes of the reference, ``*batch time channel``."""
    if response.shape[-2:] == (1, 1) and response.ndim > expected.ndim:
        return response[..., 0, 0].mT
    return response.squeeze(-1 if response.shape[-1] == 1 else -2)


def assert_close(ours, expected, tolerance):
    """Relative to the largest number that is expected."""
    assert ours.shape == expected.shape
    error = (ours - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.1e}"


def single(part):
    return part.to(torch.complex64 if part.is_complex() else torch.float32)


@pytest.mark.sampled("mixer_class", "steps")
@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_gives_what_the_paper_says(mixer_class, method, steps):
    mixer, expected = drawn_and_expected(mixer_class, steps)
    ours = as_tokens(respond(mixer, method), expected)
    assert ours.dtype == expected.dtype
    assert_close(ours, expected, EXACT)


@pytest.mark.parametrize("steps", LENGTHS)
def test_a_convolution_gives_it_too_or_says_what_changes_with_time(mixer_class, steps):
    mixer, expected = drawn_and_expected(mixer_class, steps)
    part = varying(mixer.system())
    if part is None:
        assert_close(as_tokens(respond(mixer, dsf.evaluate.convolution), expected), expected, EXACT)
    else:
        with pytest.raises(ValueError, match=f"{part} changes"):
            respond(mixer, dsf.evaluate.convolution)


@pytest.mark.sampled("mixer_class", count=3)
@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("size", [1, 4, 64])
def test_the_map_times_the_signal_is_the_response(mixer_class, steps, size):
    mixer, expected = drawn_and_expected(mixer_class, steps)
    system, signal = mixer.system(), mixer.signal()
    blocks = list(dsf.evaluate.row_blocks(system, size=size))
    weights = torch.cat([block.weights for block in blocks], dim=-2)
    assert_close(weights, dsf.attention_map(system), EXACT)
    mixed = weights @ signal.flatten(-3, -2).to(weights.dtype)
    response = mixed.unflatten(-2, (steps, system.output_size))
    if getattr(system, "initial", None) is not None:
        response = response + dsf.respond(system, torch.zeros_like(signal))
    assert_close(as_tokens(response, expected), expected, EXACT)


def test_all_tensors_are_moved_and_nothing_else(mixer):
    """To a device without numbers, which refuses any tensor of another."""
    there = mixer.to("meta")
    for field in fields(mixer):
        before, after = getattr(mixer, field.name), getattr(there, field.name)
        if isinstance(before, Tensor):
            assert after.is_meta
            assert (after.shape, after.dtype) == (before.shape, before.dtype)
        else:
            assert after is before


def test_no_token_reads_the_future(mixer_class):
    """A changed future leaves earlier outputs equal to the last bit."""
    mixer, other = draw(mixer_class, 9), draw(mixer_class, 9, seed=1)
    changed = {}
    for field in fields(mixer):
        part, new = getattr(mixer, field.name), getattr(other, field.name)
        axes = axes_of(field.type)
        if isinstance(part, Tensor) and "time" in axes:
            axis = axes.index("time") - len(axes)
            past, future = part.narrow(axis, 0, 5), new.narrow(axis, 5, 4)
            changed[field.name] = torch.cat([past, future], dim=axis)
    before, after = respond(mixer), respond(replace(mixer, **changed))
    assert torch.equal(before[..., :5, :, :], after[..., :5, :, :])
    assert not torch.equal(before[..., 5:, :, :], after[..., 5:, :, :])
    ahead = dsf.attention_map(mixer.system())
    outputs, inputs = mixer.system().output_size, mixer.system().input_size
    blocks = ahead.unflatten(-1, (9, inputs)).unflatten(-3, (9, outputs))
    assert torch.equal(blocks, blocks * torch.ones(9, 9).tril()[:, None, :, None])


def test_a_shorter_sequence_is_the_beginning_of_a_longer_one(mixer):
    """What is appended changes nothing before it."""
    short = {}
    for field in fields(mixer):
        part = getattr(mixer, field.name)
        for place, axis in enumerate(reversed(axes_of(field.type)), start=1):
            if isinstance(part, Tensor) and axis in {"time", "read"}:
                part = part.narrow(-place, 0, 5)
        short[field.name] = part
    assert_close(respond(replace(mixer, **short)), respond(mixer)[..., :5, :, :], EXACT)


def test_a_stream_of_tokens_gives_the_same(mixer):
    system, signal, whole = mixer.system(), mixer.signal(), respond(mixer)
    dtype = torch.promote_types(system.dtype, signal.dtype)
    state = torch.zeros(*system.batch, system.state_size, signal.shape[-1], dtype=dtype)
    state = state if system.initial is None else system.initial
    for t in range(system.steps):
        response, state = dsf.evaluate.step(system, t, state, signal[..., t, :, :])
        assert_close(response, whole[..., t, :, :], 1e-11)


def test_strides_do_not_matter(mixer):
    """Every part as every second number of a larger tensor."""
    spread = {
        name: torch.stack([part, torch.zeros_like(part)], dim=-1)[..., 0]
        for name, part in tensors(mixer).items()
    }
    assert_close(respond(replace(mixer, **spread)), respond(mixer), EXACT)


def test_a_mixer_is_shown_by_its_sizes(mixer):
    shown = repr(mixer)
    assert shown.startswith(f"{type(mixer).__name__}(")
    assert len(shown) < 400
    for name, part in tensors(mixer).items():
        assert f"{name} {tuple(part.shape)}" in shown


def test_every_part_is_used(mixer):
    """Nothing that is drawn is nearly zero, and the map is not nearly diagonal."""
    weights = dsf.attention_map(mixer.system())
    outputs, inputs = mixer.system().output_size, mixer.system().input_size
    blocks = weights.unflatten(-1, (9, inputs)).unflatten(-3, (9, outputs))
    own = blocks.diagonal(dim1=-4, dim2=-2).abs().sum()
    assert own > 0
    assert blocks.abs().sum() > 1.25 * own
    for name, part in floating(mixer).items():
        assert part.abs().max() > 0.01, name


def test_single_precision_stays_single(mixer):
    expected = reference_for(type(mixer))(mixer)
    small = replace(mixer, **{name: single(part) for name, part in floating(mixer).items()})
    response = respond(small)
    assert response.dtype == single(expected).dtype
    assert_close(as_tokens(response, expected).to(expected.dtype), expected, SINGLE)


def test_gradients_reach_every_part_and_are_right(mixer_class):
    mixer = draw(mixer_class, 3)
    parts = {name: part.clone().requires_grad_(True) for name, part in floating(mixer).items()}

    def response(*values):
        return respond(replace(mixer, **dict(zip(parts, values, strict=True))))

    response(*parts.values()).abs().square().sum().backward()
    for name, part in parts.items():
        assert part.grad is not None, name
        assert part.grad.isfinite().all(), name
        assert part.grad.abs().max() > 0, name
    assert torch.autograd.gradcheck(response, tuple(parts.values()), fast_mode=True)


def test_the_response_is_linear_in_the_signal(mixer):
    system, first = mixer.system(), mixer.signal()
    second = torch.randn(first.shape, generator=torch.Generator().manual_seed(3)).to(first)
    free = dsf.respond(system, torch.zeros_like(first))
    one, two = dsf.respond(system, first) - free, dsf.respond(system, second) - free
    both = dsf.respond(system, 2 * first - 3 * second) - free
    assert_close(both, 2 * one - 3 * two, EXACT)


def test_a_stack_of_sequences_is_each_of_them(mixer):
    """The leading axis of a drawn mixer counts sequences, which know nothing of each other."""
    batched = {
        field.name for field in fields(mixer) if axes_of(field.type)[:1] == ["*batch"]
    } & set(tensors(mixer))
    alone = replace(mixer, **{name: getattr(mixer, name)[1] for name in batched})
    assert_close(respond(alone), respond(mixer)[1], EXACT)
