"""Every evaluator, the map and the stream give what two loops over plain arrays give."""

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.evaluate import final_state, fold, row_blocks
from tests.drawn import STRUCTURES, Drawer, literal_map, literal_response

METHODS = {
    "recurrent": dsf.evaluate.recurrent,
    "scan": dsf.evaluate.scan,
    "chunkwise": dsf.evaluate.chunkwise,
    **{f"chunks of {size}": partial(dsf.evaluate.chunkwise, size=size) for size in (1, 4)},
}
KINDS = ("real", "complex", "real part")
STEPS = 9

CASES = list(product(STRUCTURES, (False, True), (False, True), KINDS))
cases = pytest.mark.parametrize(("structure", "before", "backward", "kind"), CASES)
forward_cases = pytest.mark.parametrize(
    ("structure", "before", "kind"), list(product(STRUCTURES, (False, True), KINDS))
)


def draw(structure, kind, *, ports=(2, 3), initial=11, channel=11, steps=STEPS, **flags):
    """A MIMO system with an initial state, and a signal; real signals for the real part."""
    drawer = Drawer(7, complex=kind != "real")
    system = drawer.system(
        structure,
        steps=steps,
        ports=ports,
        initial=initial,
        takes_real_part=kind == "real part",
        **flags,
    )
    drawer.complex = kind == "complex"
    return system, drawer.tensor(steps, ports[0], channel)


@pytest.mark.sampled("structure", count=3)
@cases
def test_methods_agree_with_the_loop(structure, before, backward, kind):
    flags = {"reads_before_update": before, "runs_backward": backward}
    system, signal = draw(structure, kind, **flags)
    expected = literal_response(system, signal)[0]
    for name, method in METHODS.items():
        assert_close(
            dsf.respond(system, signal, method=method), expected, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.sampled("structure", count=3)
@cases
def test_one_port_and_one_channel_agree_with_the_loop(structure, before, backward, kind):
    """Few columns take another way through a window."""
    flags = {"reads_before_update": before, "runs_backward": backward}
    system, signal = draw(structure, kind, ports=(1, 1), initial=1, channel=1, **flags)
    for method in (
        dsf.evaluate.recurrent,
        dsf.evaluate.scan,
        partial(dsf.evaluate.chunkwise, size=4),
    ):
        ours = dsf.respond(system, signal, method=method)
        assert_close(ours, literal_response(system, signal)[0])


@pytest.mark.sampled("structure", count=3)
@cases
def test_the_map_is_made_of_products(structure, before, backward, kind):
    flags = {"reads_before_update": before, "runs_backward": backward}
    system, _ = draw(structure, kind, **flags)
    map = literal_map(system)
    assert_close(dsf.attention_map(system), map)
    for size in (1, 4):
        blocks = list(row_blocks(system, size=size))
        assert_close(torch.cat([block.weights for block in blocks], dim=-2), map)
        written = torch.cat([block.written for block in blocks])
        assert written.tolist() == [token for token in range(STEPS) for _ in range(3)]
        assert blocks[0].read.tolist() == [token for token in range(STEPS) for _ in range(2)]


@pytest.mark.sampled("structure", count=3)
@cases
def test_the_state_left_behind(structure, before, backward, kind):
    flags = {"reads_before_update": before, "runs_backward": backward}
    system, signal = draw(structure, kind, **flags)
    state = final_state(system, signal)
    assert_close(state, literal_response(system, signal)[1].to(state.dtype))


@pytest.mark.sampled("structure", count=2)
@forward_cases
def test_a_stream_of_steps_is_the_response(structure, before, kind):
    system, signal = draw(structure, kind, reads_before_update=before)
    state, out = system.initial, []
    for token in range(system.steps):
        response, state = dsf.evaluate.step(system, token, state, signal[token])
        out.append(response)
    expected, leaving = literal_response(system, signal)
    assert_close(torch.stack(out), expected)
    assert_close(state, leaving)


@pytest.mark.sampled("structure", count=2)
@forward_cases
def test_a_window_folds_into_four_matrices(structure, before, kind):
    system, signal = draw(structure, kind, reads_before_update=before)
    start, stop = 2, 8
    panel = fold(system, start, stop)
    part = replace(system.window(start, stop), initial=system.initial, takes_real_part=False)
    columns = signal[start:stop].flatten(0, 1).to(system.dtype)
    response, leaving = literal_response(part, signal[start:stop])
    ours = panel.local @ columns + panel.reach @ system.initial
    assert_close(ours, response.flatten(0, 1))
    assert_close(panel.carried(system.initial) + panel.write @ columns, leaving)


@pytest.mark.sampled("structure", count=3)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_convolution_of_what_does_not_change(structure, kind, backward, before):
    system, signal = draw(structure, kind, runs_backward=backward, reads_before_update=before)
    still = replace(
        system,
        A=held(system.A),
        **{
            name: getattr(system, name)[:1].expand_as(getattr(system, name))
            for name in ("B", "C", "D")
        },
    )
    ours = dsf.respond(still, signal, method="convolution")
    assert_close(ours, dsf.respond(still, signal, method="recurrent"))


def held(A):
    """The first map of A, for all its tokens."""
    if isinstance(A, dsf.systems.transition.Shift):
        return A
    return dsf.systems.transition.Dense(A.dense()[:1].expand(A.shape))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_token_one_state_and_no_batch(structure):
    drawer = Drawer(8)
    system = drawer.system(structure, steps=1, states=1)
    signal = drawer.tensor(1, 1, 1)
    for method in METHODS.values():
        ours = dsf.respond(system, signal, method=method)
        assert_close(ours, literal_response(system, signal)[0])
    assert_close(dsf.attention_map(system), literal_map(system))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_without_states_only_the_feedthrough_is_left(structure):
    drawer = Drawer(12)
    system = drawer.system(structure, states=0, ports=(2, 3))
    signal = drawer.tensor(5, 2, 6)
    for method in METHODS.values():
        assert_close(dsf.respond(system, signal, method=method), system.D @ signal)
    map = torch.block_diag(*system.D)
    assert_close(dsf.attention_map(system), map)
    blocks = [block.weights for block in row_blocks(system, size=2)]
    assert_close(torch.cat(blocks), map)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("backward", [False, True])
def test_batch_entries_do_not_meet(structure, backward):
    drawer = Drawer(9)
    system = drawer.system(structure, batch=(2, 3), steps=7, initial=11, runs_backward=backward)
    signal = drawer.tensor(2, 3, 7, 1, 11)
    for method in METHODS.values():
        ours = dsf.respond(system, signal, method=method)
        for index in product(range(2), range(3)):
            alone = dsf.systems.algebra.select(system, index)
            assert_close(ours[index], literal_response(alone, signal[index])[0])
            assert_close(dsf.attention_map(system)[index], literal_map(alone))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_strided_parts_and_signals(structure):
    """Transposed, sliced and expanded tensors are tensors like others."""
    drawer = Drawer(10)
    system = drawer.system(structure, batch=(2,), steps=9)
    signal = drawer.tensor(2, 18, 5, 1).mT[:, ::2]
    strided = replace(system, C=drawer.tensor(1, 9, 1, 3).expand(2, 9, 1, 3))
    plain = replace(strided, C=strided.C.clone())
    expected = dsf.respond(plain, signal.contiguous(), method="recurrent")
    assert not signal.is_contiguous()
    for method in METHODS.values():
        assert_close(dsf.respond(strided, signal, method=method), expected)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_agree_between_methods(structure, kind):
    drawer = Drawer(11, complex=kind != "real")
    system = drawer.system(structure, steps=9, initial=11, takes_real_part=kind == "real part")
    drawer.complex = kind == "complex"
    signal = drawer.tensor(9, 1, 11)
    learnt = {"B": system.B, "C": system.C, "D": system.D, "initial": system.initial}
    stored = {name: part.clone() for name, part in vars(system.A).items() if learnable(part)}
    inputs = [part.requires_grad_() for part in (*learnt.values(), *stored.values())]
    if structure == "scalar_low_rank":
        stored["decay"] = stored["decay"][:, :1].expand_as(stored["decay"])
    found = []
    for method in (
        dsf.evaluate.recurrent,
        dsf.evaluate.scan,
        partial(dsf.evaluate.chunkwise, size=4),
    ):
        again = replace(system, A=replace(system.A, **stored), **learnt)
        response = dsf.respond(again, signal, method=method)
        found.append(torch.autograd.grad(response.abs().square().sum(), inputs))
    for gradients in found[1:]:
        assert_close(gradients, found[0])
    assert all(gradient.abs().max() > 0 for gradient in found[0])


def learnable(part):
    return (
        isinstance(part, torch.Tensor)
        and part.dtype.is_floating_point + part.is_complex()
        and part.ndim
    )
