"""Every architecture on an accelerator: nothing made elsewhere, copied away or widened unasked."""

from functools import partial

import pytest
import torch

import dsf
from dsf import measures
from dsf.evaluate.chunks import varying
from dsf.systems.composite import ExplicitMap
from tests.devices.conftest import moved
from tests.devices.emulated import SINGLE_ONLY, traffic
from tests.measures.test_every_fold import FOLDS, SIGNED

METHODS = (
    None,
    dsf.evaluate.recurrent,
    dsf.evaluate.scan,
    dsf.evaluate.chunkwise,
    partial(dsf.evaluate.chunkwise, size=4),
)
# Of some hundred operations, relative to the largest number.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


def assert_alike(ours, expected, there):
    """On the device, and in its number type what the processor finds in double precision."""
    assert ours.device == there
    assert ours.dtype == moved(expected, there).dtype
    dtype = torch.float32 if there.index == SINGLE_ONLY else torch.float64
    known = expected.isfinite()
    assert torch.equal(ours.cpu().isfinite(), known)
    apart = (ours.cpu().to(expected.dtype) - expected)[known].abs()
    scale = expected[known].abs()
    if apart.numel():
        assert apart.max() <= TOLERANCE[dtype] * scale.max().clamp(min=1.0)


def alone(work):
    """What ``work`` gives, with nothing sent to the device and nothing fetched from it."""
    with traffic() as seen:
        found = work()
    assert (seen.sent, seen.fetched) == ([], [])
    return found


def methods_for(system):
    if isinstance(system, ExplicitMap):
        return METHODS[:1]
    fits = isinstance(system, dsf.System) and varying(system) is None
    return (*METHODS, dsf.evaluate.convolution) if fits else METHODS


@pytest.mark.sampled("mixer_class")
def test_evaluators(here, gone, there):
    system, signal = here.system(), here.signal()
    for method in methods_for(system):
        ours = alone(lambda how=method: dsf.respond(gone.system(), gone.signal(), method=how))
        assert_alike(ours, dsf.respond(system, signal), there)


@pytest.mark.sampled("mixer_class")
def test_maps_and_rows(here, gone, there):
    expected = dsf.attention_map(here.system())
    assert_alike(alone(lambda: dsf.attention_map(gone.system())), expected, there)
    rows = slice(2, 5)
    some = alone(lambda: dsf.attention_map(gone.system(), rows))
    assert_alike(some, dsf.attention_map(here.system(), rows), there)
    blocks = alone(
        lambda: [rows.weights.clone() for rows in dsf.evaluate.row_blocks(gone.system(), size=4)]
    )
    assert_alike(torch.cat(blocks, dim=-2), expected, there)


def keywords(measure):
    """What a measure of the list is given beside the map."""
    return getattr(measure, "keywords", {})


def arguments_there(part, there):
    return moved(part, there) if isinstance(part, torch.Tensor) else part


@pytest.mark.sampled("mixer_class")
def test_folds(here, gone, there):
    real = not dsf.attention_map(here.system()).is_complex()
    for measure in FOLDS + (SIGNED if real else []):
        given = {name: arguments_there(part, there) for name, part in keywords(measure).items()}
        ours = alone(lambda fold=measure, given=given: fold(gone.system(), **given))
        assert ours.device == there, measure
        if there.index != SINGLE_ONLY:
            torch.testing.assert_close(ours.cpu(), measure(here.system()), equal_nan=True)
    asked = (measures.row_entropy, measures.absolute_gain, measures.mean_distance)
    for ours in alone(lambda: measures.streamed(gone.system(), *asked)).values:
        assert ours.device == there


@pytest.mark.sampled("mixer_class")
def test_gradients(here, gone, there):
    def gradient(mixer):
        signal = mixer.signal().detach().requires_grad_()
        response = dsf.respond(mixer.system(), signal)
        return torch.autograd.grad(response.abs().square().sum(), signal)[0]

    assert_alike(alone(lambda: gradient(gone)), gradient(here), there)
