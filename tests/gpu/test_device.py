"""The same numbers on a CUDA device, where systems, states and maps stay on the device."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import final_state
from dsf.systems.composite import ExplicitMap
from tests.drawn import STRUCTURES, Drawer, attention, both_ways, sampled

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
METHODS = (
    dsf.evaluate.recurrent,
    dsf.evaluate.scan,
    dsf.evaluate.chunkwise,
    partial(dsf.evaluate.chunkwise, size=4),
)
STEPS = 70


def there(operator):
    return dsf.systems.algebra.converted(operator, device="cuda")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("complex", [False, True])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_methods_agree_across_devices(structure, complex, backward, before):
    drawer = Drawer(1, complex=complex)
    system = drawer.system(
        structure,
        batch=(2,),
        steps=STEPS,
        ports=(2, 3),
        initial=4,
        runs_backward=backward,
        reads_before_update=before,
    )
    signal = drawer.tensor(2, STEPS, 2, 4)
    expected = dsf.respond(system, signal, method="recurrent")
    for method in METHODS:
        response = dsf.respond(there(system), signal.cuda(), method=method)
        assert response.is_cuda
        assert_close(response.cpu(), expected)
    assert_close(final_state(there(system), signal.cuda()).cpu(), final_state(system, signal))
    assert_close(dsf.attention_map(there(system)).cpu(), dsf.attention_map(system))


@pytest.mark.parametrize("operator", [sampled(steps=STEPS), attention(steps=STEPS)], ids=str)
def test_lazy_parts_and_attention(operator):
    signal = Drawer(2).tensor(*operator.batch, STEPS, 1, 1)
    for each in (
        operator,
        dsf.systems.algebra.adjoint(operator),
        dsf.systems.algebra.reverse(operator),
    ):
        assert_close(dsf.respond(there(each), signal.cuda()).cpu(), dsf.respond(each, signal))
        assert_close(dsf.attention_map(there(each)).cpu(), dsf.attention_map(each))


def test_sums_and_explicit_maps():
    drawer = Drawer(3)
    two = both_ways(drawer, drawer.system("low_rank", steps=STEPS))
    shown = ExplicitMap(attention(steps=STEPS).C)
    signal = drawer.tensor(STEPS, 1, 2)
    for operator in (two, shown):
        assert_close(
            dsf.respond(there(operator), signal.cuda()).cpu(), dsf.respond(operator, signal)
        )
        assert_close(dsf.attention_map(there(operator)).cpu(), dsf.attention_map(operator))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_streams_and_gradients(structure):
    drawer = Drawer(4)
    system = there(drawer.system(structure, steps=9, initial=6))
    signal = drawer.tensor(9, 1, 6).cuda().requires_grad_()
    state, out = system.initial, []
    for token in range(9):
        response, state = dsf.evaluate.step(system, token, state, signal[token])
        out.append(response)
    assert_close(torch.stack(out), dsf.respond(system, signal))
    (gradient,) = torch.autograd.grad(dsf.respond(system, signal).square().sum(), signal)
    assert gradient.is_cuda
    assert bool(gradient.isfinite().all())


def test_convolution_on_the_device():
    drawer = Drawer(5)
    write, read = (drawer.tensor(1, 3).expand(STEPS, 3) for _ in range(2))
    A = dsf.systems.transition.Diagonal(drawer.decay(1, 3).expand(STEPS, 3))
    system = dsf.System.from_write_and_read(A, write, read)
    signal = drawer.tensor(STEPS, 1, 2)
    ours = dsf.respond(there(system), signal.cuda(), method="convolution")
    assert_close(ours.cpu(), dsf.respond(system, signal))


def test_single_precision_without_shortened_products():
    """TF32 would cost three digits; torch leaves it off for matrix products by default."""
    drawer = Drawer(6, dtype=torch.float32)
    system = drawer.system("scaled_identity", steps=512, states=64)
    signal = drawer.tensor(512, 1, 64)
    exact = dsf.respond(dsf.systems.algebra.converted(system, dtype=torch.float64), signal.double())
    ours = dsf.respond(there(system), signal.cuda()).cpu().double()
    assert (ours - exact).norm() < 1e-6 * exact.norm()


def test_a_map_too_large_for_the_device():
    one = torch.ones((), device="cuda").expand(2**21, 1)
    system = dsf.System.from_write_and_read(dsf.systems.transition.Diagonal(one), one, one)
    with pytest.raises(dsf.evaluate.MapTooLarge, match="GB"):
        dsf.attention_map(system)
