"""What is refused at the border of an evaluator, and what is converted there."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import fold
from dsf.evaluate.chunks import varying
from dsf.evaluate.invariant import lags
from dsf.runtime.shapes import ShapeError
from dsf.systems.composite import ExplicitMap, StoredRows
from tests.drawn import STRUCTURES, Drawer, both_ways, literal_response, sampled

ours = pytest.mark.usefixtures("our_own_errors")
METHODS = (
    dsf.evaluate.recurrent,
    dsf.evaluate.scan,
    dsf.evaluate.chunkwise,
    dsf.evaluate.convolution,
)
methods = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def constant(drawer, **flags):
    """A time-invariant system with an initial state."""
    system = drawer.system("diagonal", batch=(2,), steps=4, ports=(2, 3), initial=5, **flags)
    parts = {name: getattr(system, name)[:, :1].expand_as(getattr(system, name)) for name in "BCD"}
    decay = system.A.decay[:, :1].expand_as(system.A.decay)
    return replace(system, A=dsf.systems.transition.Diagonal(decay), **parts)


@ours
@methods
def test_signals_that_do_not_fit(method):
    system = constant(Drawer(1))
    wrong = {
        "'time'": (2, 3, 2, 5),
        "'input'": (2, 4, 1, 5),
        r"'batch' .*\(3,\)": (3, 4, 2, 5),
        r"'batch' .*\(\)": (4, 2, 5),
        "'channel'": (2, 4, 2, 1),
        "'signal'": (4, 2),
    }
    for words, shape in wrong.items():
        for run in (method, lambda s, u: dsf.respond(s, u, method=method)):
            with pytest.raises(ShapeError, match=f"^respond: .*{words}"):
                run(system, torch.ones(shape, dtype=torch.float64))


@ours
@methods
def test_evaluators_run_one_system(method):
    drawer = Drawer(2)
    two = both_ways(drawer, drawer.system("diagonal"))
    with pytest.raises(TypeError, match="SystemSum"):
        method(two, drawer.tensor(5, 1, 1))


@ours
def test_what_is_no_system_and_no_signal():
    mixer = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=4)
    with pytest.raises(TypeError, match=r"mixer\.system\(\)"):
        dsf.respond(mixer, mixer.signal())
    with pytest.raises(TypeError, match=r"mixer\.system\(\)"):
        dsf.attention_map(mixer)
    with pytest.raises(TypeError, match="'signal'"):
        dsf.respond(mixer.system(), mixer.signal().numpy())


@ours
def test_an_explicit_map_has_no_methods():
    shown = ExplicitMap(StoredRows(torch.ones(3, 4)))
    with pytest.raises(ValueError, match="'method'"):
        dsf.respond(shown, torch.ones(4, 1, 1), method="recurrent")
    with pytest.raises(ShapeError, match="'time'"):
        dsf.respond(shown, torch.ones(3, 1, 1))


@methods
def test_a_real_part_needs_a_real_signal(method):
    drawer = Drawer(3, complex=True)
    system = constant(drawer, takes_real_part=True)
    with pytest.raises(ValueError, match="complex"):
        method(system, drawer.tensor(2, 4, 2, 5))


@pytest.mark.parametrize("part", ["A", "B", "C", "D"])
def test_convolution_names_what_changes(part):
    drawer = Drawer(4)
    system = constant(drawer)
    assert varying(system) is None
    moving = {
        "A": drawer.transition("diagonal", batch=(2,), steps=4),
        **{name: drawer.tensor(*getattr(system, name).shape) for name in "BCD"},
    }
    signal = drawer.tensor(2, 4, 2, 5)
    with pytest.raises(ValueError, match=f"{part} changes with time"):
        dsf.respond(replace(system, **{part: moving[part]}), signal, method="convolution")


def test_convolution_names_what_is_sampled():
    with pytest.raises(ValueError, match="A changes with time"):
        dsf.evaluate.convolution(sampled(), Drawer(5).tensor(4, 6, 1, 1))


def test_impulse_responses_are_columns_of_the_map():
    system = constant(Drawer(6))
    column = dsf.attention_map(system)[..., :2].unflatten(-2, (4, 3))
    assert_close(lags(system), column)
    assert_close(lags(dsf.systems.algebra.reverse(system)), column)
    single = dsf.systems.algebra.converted(system, dtype=torch.float32)
    assert lags(single).dtype == torch.float64


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("wide", ["A", "B", "C", "D", "initial", "signal"])
def test_one_part_of_a_wider_number_type_widens_all(structure, wide):
    """Complex among real and double among single, whichever part it is."""
    plain, turned = Drawer(7), Drawer(8, complex=True)
    system = plain.system(structure, initial=6)
    signal = plain.tensor(5, 1, 6)
    if wide == "A":
        system = replace(system, A=turned.transition(structure))
    elif wide == "signal":
        signal = turned.tensor(5, 1, 6)
    else:
        system = replace(system, **{wide: turned.tensor(*getattr(system, wide).shape)})
    expected = literal_response(system, signal)[0].to(torch.complex128)
    for method in (dsf.evaluate.recurrent, dsf.evaluate.scan, dsf.evaluate.chunkwise):
        assert_close(dsf.respond(system, signal, method=method), expected)
        single = dsf.systems.algebra.converted(system, dtype=torch.float32)
        mixed = dsf.respond(single, signal, method=method)
        assert mixed.dtype == torch.complex128
        assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
    assert dsf.attention_map(system).dtype == system.dtype


@ours
def test_a_stream_refuses_what_it_cannot_do():
    drawer = Drawer(9)
    system = drawer.system("diagonal", batch=(2,), ports=(3, 1))
    state, signal = drawer.tensor(2, 3, 4), drawer.tensor(2, 3, 4)
    with pytest.raises(ValueError, match="whole sequence"):
        dsf.evaluate.step(dsf.systems.algebra.reverse(system), 0, state, signal)
    for token in (-1, 5):
        with pytest.raises(ValueError, match="'token'"):
            dsf.evaluate.step(system, token, state, signal)
    with pytest.raises(ShapeError, match=r"step: .*'batch'"):
        dsf.evaluate.step(system, 0, state[:1], signal)
    with pytest.raises(ShapeError, match=r"step: .*'state'"):
        dsf.evaluate.step(system, 0, state[:, :2], signal)
    with pytest.raises(ShapeError, match=r"step: .*'input'"):
        dsf.evaluate.step(system, 0, state, signal[:, :2])
    with pytest.raises(ShapeError, match=r"step: .*'channel'"):
        dsf.evaluate.step(system, 0, state, signal[..., :1])
    turned = replace(system, takes_real_part=True)
    with pytest.raises(ValueError, match="real"):
        dsf.evaluate.step(turned, 0, state, signal * 1j)


@ours
def test_windows_need_a_token_and_a_direction():
    drawer = Drawer(10)
    system = drawer.system("diagonal")
    with pytest.raises(ValueError, match="'size'"):
        dsf.evaluate.chunkwise(system, drawer.tensor(5, 1, 1), size=0)
    with pytest.raises(ValueError, match="backward"):
        fold(dsf.systems.algebra.reverse(system), 0, 2)


def test_a_method_is_any_function():
    drawer = Drawer(11)
    system, signal = drawer.system("diagonal"), drawer.tensor(5, 1, 1)
    given = []
    assert (
        dsf.respond(system, signal, method=lambda *parts: given.extend(parts) or signal) is signal
    )
    assert given == [system, signal]
