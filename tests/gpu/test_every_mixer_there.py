"""Every architecture on a CUDA device: evaluators, maps, measures, gradients as on a processor."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf import measures
from dsf.evaluate import compiled as cuda
from dsf.systems.composite import ExplicitMap
from tests.measures.test_every_fold import FOLDS, SIGNED
from tests.mixers.mixer_fields import draw, tensors

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
THERE = "cuda"
STEPS = 70
METHODS = (
    None,
    dsf.evaluate.recurrent,
    dsf.evaluate.scan,
    dsf.evaluate.chunkwise,
    partial(dsf.evaluate.chunkwise, size=4),
)
EXACT = {"rtol": 1e-9, "atol": 1e-10}
# Of single precision, relative to the largest number: what rounding does to the plain path as well.
SINGLE = 1e-5


@pytest.fixture
def mixer(mixer_class):
    return draw(mixer_class, STEPS)


def moved(mixer, dtype=None):
    """On the device, numbers in ``dtype``."""

    def there(part):
        if dtype is None or not part.dtype.is_floating_point:
            return part.to(THERE)
        return part.to(THERE, dtype)

    return replace(mixer, **{name: there(part) for name, part in tensors(mixer).items()})


def test_responses(mixer):
    system, signal = mixer.system(), mixer.signal()
    there, moved_signal = moved(mixer).system(), moved(mixer).signal()
    for method in METHODS[:1] if isinstance(system, ExplicitMap) else METHODS:
        ours = dsf.respond(there, moved_signal, method=method)
        assert ours.device.type == THERE
        assert_close(ours.cpu(), dsf.respond(system, signal, method=method), **EXACT)


def test_maps_and_rows(mixer):
    system, there = mixer.system(), moved(mixer).system()
    expected = dsf.attention_map(system)
    found = dsf.attention_map(there)
    assert_close(found.cpu(), expected, **EXACT)
    assert_close(dsf.attention_map(there, out=torch.full_like(found, 7.0)), found, **EXACT)
    rows = slice(5, 69)
    assert_close(dsf.attention_map(there, rows).cpu(), dsf.attention_map(system, rows), **EXACT)
    blocks = [
        rows.weights.clone() for rows in dsf.evaluate.row_blocks(there, size=33, overwrites=True)
    ]
    assert_close(torch.cat(blocks, dim=-2).cpu(), expected, **EXACT)


def test_measures(mixer):
    system, there = mixer.system(), moved(mixer).system()
    real = not dsf.attention_map(system).is_complex()
    for measure in FOLDS + (SIGNED if real else []):
        ours = measure(there)
        assert ours.device.type == THERE
        assert_close(ours.cpu(), measure(system), rtol=1e-6, atol=1e-8, equal_nan=True)
    asked = (measures.row_entropy, measures.absolute_gain, measures.mean_distance)
    ours, here = measures.streamed(there, *asked), measures.streamed(system, *asked)
    for one, other in zip(ours.values, here.values, strict=True):
        assert_close(one.cpu(), other, rtol=1e-6, atol=1e-8, equal_nan=True)


def test_gradients(mixer):
    def gradient(each):
        signal = each.signal().detach().requires_grad_()
        response = dsf.respond(each.system(), signal)
        return torch.autograd.grad(response.abs().square().sum(), signal)[0]

    assert_close(gradient(moved(mixer)).cpu(), gradient(mixer), **EXACT)


@pytest.fixture
def _any_work_is_worth_it(monkeypatch):
    monkeypatch.setattr(cuda, "WORTH", 0)


@pytest.mark.usefixtures("_any_work_is_worth_it")
def test_kernels_in_single_precision(mixer, monkeypatch):
    """Of those that have one; others take the plain path both times."""
    there = moved(mixer, torch.float32)
    if any(part.is_complex() for part in tensors(there).values()):
        pytest.skip("no kernel takes complex numbers")
    work = {
        "response": lambda: dsf.respond(there.system(), there.signal()),
        "map": lambda: dsf.attention_map(there.system()),
    }
    found = {name: each() for name, each in work.items()}
    monkeypatch.setenv("DSF_KERNELS", "0")
    for name, each in work.items():
        plain = each()
        assert (found[name] - plain).abs().max() <= SINGLE * plain.abs().max(), name
