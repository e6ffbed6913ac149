"""Sampling rules and the options of the state-space mixers."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf import mixers
from dsf.mixers.ingredients import bilinear, zero_order_hold
from dsf.mixers.ingredients.recurrences import bilinear_low_rank
from dsf.runtime.shapes import ShapeError

EXACT = {"rtol": 1e-12, "atol": 1e-13}


def draw(cls, steps=9, seed=0):
    return cls.draw(torch.Generator().manual_seed(seed), steps=steps)


def map_of(mixer):
    return dsf.attention_map(mixer.system())


def test_zero_order_hold_by_hand():
    """With pole -ln 2 and step 1 a state halves, and a unit input fills it to 1/2 / ln 2."""
    pole = torch.tensor([-1.0, -3.0], dtype=torch.float64) * torch.log(torch.tensor(2.0)).double()
    decay, gain = zero_order_hold(pole, torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(decay, torch.tensor([0.5, 0.125], dtype=torch.float64))
    torch.testing.assert_close(gain, (decay - 1) / pole)


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e-9, 0.99e-5, 1.01e-5, 1e-2])
def test_the_gain_of_a_slow_pole_keeps_its_digits(size):
    """Against the series of (e^z - 1) / z, which the naive quotient misses at 1e-9."""
    z = torch.tensor(size * (-0.6 + 0.8j), dtype=torch.complex128)
    gain = zero_order_hold(z, torch.tensor(1.0, dtype=torch.float64)).gain
    series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5 * (1 + z / 6))))
    torch.testing.assert_close(gain, series, rtol=1e-14, atol=0)


def test_bilinear_by_hand():
    """Pole -2, step 1/2: (1 - 1/2) / (1 + 1/2) and 1/2 / (1 + 1/2)."""
    decay, gain = bilinear(torch.tensor(-2.0), torch.tensor(0.5))
    assert (float(decay), float(gain)) == pytest.approx((1 / 3, 1 / 3))


def test_both_rules_agree_to_second_order():
    """Halving the step divides their difference over one unit of time by four."""
    pole = torch.tensor(-0.7 + 1.1j, dtype=torch.complex128)

    def gap(steps):
        held, trapezoid = (
            rule(pole, torch.tensor(1 / steps, dtype=torch.float64)).decay ** steps
            for rule in (zero_order_hold, bilinear)
        )
        return (held - trapezoid).abs()

    assert float(gap(64) / gap(128)) == pytest.approx(4, rel=1e-3)


def test_low_rank_sampling_is_the_dense_one():
    mixer = draw(mixers.S4)
    step = mixer.step[:1]
    A = torch.diag(mixer.pole) + torch.outer(mixer.low_rank_left, mixer.low_rank_right.conj())
    decay, left, right, write = bilinear_low_rank(
        mixer.pole, mixer.low_rank_left, mixer.low_rank_right, mixer.write, step
    )
    inverse = torch.linalg.inv(torch.eye(4) - step / 2 * A)
    dense = torch.diag(decay) + torch.outer(left, right)
    torch.testing.assert_close(dense, inverse @ (torch.eye(4) + step / 2 * A), **EXACT)
    torch.testing.assert_close(write, step * inverse @ mixer.write, **EXACT)


def test_s4_without_a_low_rank_part_is_diagonal():
    """The full spectrum of pairs is twice the half spectrum."""
    half = draw(mixers.DiagonalStateSpace)
    half = replace(
        half,
        pole=half.pole[:1].expand(2, -1),
        write=half.write[:1].expand(2, -1),
        read=half.read[:1].expand(2, -1),
        discretise=bilinear,
    )

    def pairs(part):
        return torch.cat([part[0], part[0].conj()])

    full = mixers.S4(
        value=half.value,
        pole=pairs(half.pole),
        low_rank_left=torch.zeros(8, dtype=torch.complex128),
        low_rank_right=torch.ones(8, dtype=torch.complex128),
        write=pairs(half.write),
        read=pairs(half.read),
        step=half.step,
        feedthrough=half.feedthrough,
    )
    torch.testing.assert_close(map_of(full), map_of(half), **EXACT)


def test_s4_refuses_rules_that_leave_the_form():
    with pytest.raises(ValueError, match="'discretise'"):
        replace(draw(mixers.S4), discretise=zero_order_hold)


@pytest.mark.parametrize("cls", [mixers.S4, mixers.DiagonalStateSpace, mixers.S5, mixers.LRU])
def test_time_invariant_coefficients_are_not_copied_along_time(cls):
    system = draw(cls).system()
    assert system.A.is_constant
    assert system.B.stride(-3) == 0
    assert system.C.stride(-3) == 0
    assert system.takes_real_part


@pytest.mark.parametrize("cls", [mixers.S4, mixers.DiagonalStateSpace, mixers.S5, mixers.LRU])
def test_without_feedthrough_only_the_diagonal_changes(cls):
    mixer = draw(cls)
    difference = map_of(mixer) - map_of(replace(mixer, feedthrough=None))
    outputs, inputs = mixer.system().output_size, mixer.system().input_size
    blocks = difference.unflatten(-1, (9, inputs)).unflatten(-3, (9, outputs))
    own = torch.eye(9)[:, None, :, None]
    assert not (blocks * (1 - own)).any()
    assert (blocks * own).abs().sum() > 1


def test_s5_with_one_step_for_all_states_and_a_factor_for_every_channel():
    mixer = draw(mixers.S5)
    step = torch.tensor(0.3, dtype=torch.float64)
    every = replace(mixer, step=step.expand(4))
    torch.testing.assert_close(map_of(replace(mixer, step=step)), map_of(every), **EXACT)
    square = replace(
        mixer, read=draw(mixers.LRU).read, feedthrough=torch.tensor([1.0, 2, 3]).double()
    )
    matrix = replace(square, feedthrough=torch.diag(square.feedthrough))
    torch.testing.assert_close(map_of(square), map_of(matrix), **EXACT)


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": torch.ones(3)}, "'state'"),
        ({"feedthrough": torch.ones(2)}, "'channel'"),
        ({"feedthrough": torch.ones(3, 3)}, "'output'"),
        ({"feedthrough": torch.ones(2, 2)}, "'input'"),
        ({"feedthrough": torch.ones(())}, "'output input'"),
    ],
    ids=str,
)
def test_ports_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ShapeError, match=words):
        replace(draw(mixers.S5), **changes).system()


def test_heads_use_the_groups_in_blocks():
    """Of four heads and two groups, heads 0 and 1 use group 0."""
    mixer = draw(mixers.StateSpaceDuality)
    changed = replace(mixer, write=mixer.write * torch.tensor([1.0, 2.0])[:, None, None])
    ratio = (map_of(changed) / map_of(mixer)).tril()[..., 8, 0]
    torch.testing.assert_close(
        ratio, torch.tensor([1.0, 1, 2, 2], dtype=torch.float64).expand(2, 4)
    )


@pytest.mark.usefixtures("our_own_errors")
def test_heads_that_cannot_be_shared_out_are_refused():
    mixer = draw(mixers.StateSpaceDuality)
    three = torch.cat([mixer.write, mixer.write[:, :1]], dim=1)
    with pytest.raises(ShapeError, match="groups"):
        replace(mixer, write=three, read=three)


def test_one_group_for_all_heads_is_not_copied():
    mixer = draw(mixers.StateSpaceDuality)
    single = replace(mixer, write=mixer.write[:, :1], read=mixer.read[:, :1])
    assert single.system().C.stride(1) == 0


@pytest.mark.parametrize("absent", [("bias",), ("write_gate", "read_gate"), ("read_gate",)])
def test_parts_of_a_short_convolution_may_be_absent(absent):
    """A gate that is absent is one, a bias that is absent zero."""
    mixer = draw(mixers.ShortConvolution)
    neutral = {
        name: torch.zeros_like(mixer.bias) if name == "bias" else torch.ones_like(mixer.value)
        for name in absent
    }
    one, other = replace(mixer, **dict.fromkeys(absent)), replace(mixer, **neutral)
    responses = [dsf.respond(m.system(), m.signal()) for m in (one, other)]
    torch.testing.assert_close(*responses, **EXACT)
    assert one.system().input_size == (1 if "bias" in absent else 2)


def test_the_map_of_a_short_convolution_is_a_band_of_its_taps():
    mixer = replace(draw(mixers.ShortConvolution), bias=None, write_gate=None, read_gate=None)
    weights = map_of(mixer)
    for lag in range(9):
        along = weights.diagonal(-lag, dim1=-2, dim2=-1)
        tap = mixer.kernel[:, 3 - lag] if lag < 4 else torch.zeros(3, dtype=torch.float64)
        assert torch.equal(along, tap[None, :, None].expand_as(along)), lag
