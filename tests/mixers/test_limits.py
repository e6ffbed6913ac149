"""Architectures that turn into each other."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf import mixers
from dsf.mixers.ingredients import identity
from dsf.runtime.shapes import ShapeError

STEPS = 12
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def draw(cls, steps=STEPS, seed=0):
    return cls.draw(torch.Generator().manual_seed(seed), steps=steps)


def map_of(mixer):
    return dsf.attention_map(mixer.system())


def assert_same(one, other):
    torch.testing.assert_close(map_of(one), map_of(other), **EXACT)


def fields_of(mixer, *names):
    return {name: getattr(mixer, name) for name in names}


QKV = ("query", "key", "value")


def test_gated_delta_without_decay_is_the_delta_rule():
    full = draw(mixers.GatedDeltaNet)
    still = replace(full, log_decay=torch.zeros_like(full.log_decay))
    assert_same(still, mixers.DeltaNet(**fields_of(full, *QKV, "rate")))
    assert (map_of(full) - map_of(still)).abs().max() > 0.1


def test_kimi_with_one_decay_for_all_coordinates_is_gated_delta():
    gated = draw(mixers.GatedDeltaNet)
    shared = gated.log_decay.unsqueeze(-1).expand_as(gated.key)
    kimi = mixers.KimiDeltaAttention(**fields_of(gated, *QKV, "rate"), log_decay=shared)
    assert_same(kimi, gated)


def test_the_order_of_fading_and_erasing_matters():
    """Kimi fades before it looks the key up; the transposed order is another mixer."""
    kimi = draw(mixers.KimiDeltaAttention)
    A = kimi.system().A.dense()
    erase = torch.eye(4) - kimi.rate[..., None, None] * (
        kimi.key.unsqueeze(-1) * kimi.key.unsqueeze(-2)
    )
    fade = torch.diag_embed(kimi.log_decay.exp())
    torch.testing.assert_close(A, erase @ fade, **EXACT)
    assert (A - fade @ erase).abs().max() > 0.1


@pytest.mark.parametrize("cls", [mixers.DeltaNet, mixers.GatedDeltaNet, mixers.KimiDeltaAttention])
def test_a_rate_of_zero_writes_nothing(cls):
    full = draw(cls)
    assert not map_of(replace(full, rate=torch.zeros_like(full.rate))).any()


def test_one_micro_step_is_gated_delta_and_none_of_them_decays_without_a_decay():
    one = draw(mixers.GatedDeltaNet)
    product = mixers.GatedDeltaProduct(
        query=one.query,
        key=one.key.unsqueeze(-2),
        value=one.value.unsqueeze(-2),
        rate=one.rate.unsqueeze(-1),
        log_decay=one.log_decay,
    )
    assert_same(product, one)
    assert_same(replace(product, log_decay=None), mixers.DeltaNet(**fields_of(one, *QKV, "rate")))


def test_micro_steps_are_tokens_read_after_the_last():
    """A product over three micro-steps is the delta rule on three times as many tokens."""
    product = replace(draw(mixers.GatedDeltaProduct), log_decay=None)
    spread = mixers.DeltaNet(
        query=product.query.repeat_interleave(3, dim=-2),
        key=product.key.flatten(-3, -2),
        value=product.value.flatten(-3, -2),
        rate=product.rate.flatten(-2),
    )
    torch.testing.assert_close(map_of(product), map_of(spread)[..., 2::3, :], **EXACT)


def test_gated_delta_with_orthonormal_keys_is_gated_linear_attention():
    """Keys never seen before are not erased, so writing is all that is left."""
    keys = torch.eye(STEPS, dtype=torch.float64).expand(2, -1, -1)
    rng = torch.Generator().manual_seed(1)
    query = torch.randn(2, STEPS, STEPS, generator=rng, dtype=torch.float64)
    full = replace(draw(mixers.GatedDeltaNet), key=keys, query=query)
    plain = mixers.ScalarGatedAttention(
        query=query,
        key=full.rate.unsqueeze(-1) * keys,
        value=full.value,
        log_decay=full.log_decay,
    )
    assert_same(full, plain)


def test_hgrn2_is_gated_linear_attention_with_a_tied_key():
    tied = draw(mixers.HGRN2)
    free = mixers.GatedLinearAttention(
        query=tied.query, key=1 - tied.decay, value=tied.value, log_decay=tied.decay.log()
    )
    assert_same(tied, free)
    meta = mixers.MetaLinearAttention(**fields_of(tied, "query", "value", "decay"))
    assert_same(tied, meta)


def test_a_constant_decay_is_retention():
    kept = draw(mixers.Retention)
    constant = kept.decay.log()[:, None].expand(2, STEPS)
    assert_same(kept, mixers.ScalarGatedAttention(**fields_of(kept, *QKV), log_decay=constant))


def test_a_complex_decay_turns_and_fades():
    """A key written n tokens ago counts γ^n: the map is a Toeplitz matrix of powers."""
    gamma = torch.polar(torch.tensor([0.9, 0.8]), torch.tensor([0.3, -1.2])).to(torch.complex128)
    one = torch.ones(2, STEPS, 1, dtype=torch.float64)
    turning = mixers.Retention(query=one, key=one, value=one, decay=gamma)
    lag = torch.arange(STEPS)[:, None] - torch.arange(STEPS)
    powers = torch.where(lag >= 0, gamma[:, None, None] ** lag.clamp(min=0), 0)
    torch.testing.assert_close(map_of(turning), powers, **EXACT)
    for method in (
        dsf.evaluate.recurrent,
        dsf.evaluate.scan,
        dsf.evaluate.chunkwise,
        dsf.evaluate.convolution,
    ):
        response = dsf.respond(turning.system(), turning.signal(), method=method)
        torch.testing.assert_close(response[..., 0, 0], powers.sum(dim=-1), **EXACT)


def test_scalar_gated_without_decay_is_linear_attention_without_a_normaliser():
    still = draw(mixers.ScalarGatedAttention)
    still = replace(still, log_decay=torch.zeros_like(still.log_decay))
    linear = mixers.LinearAttention(
        **fields_of(still, *QKV), feature_map=identity, normalised=False
    )
    assert_same(still, linear)


def test_gated_linear_attention_with_one_decay_is_scalar_gated():
    scalar = draw(mixers.ScalarGatedAttention)
    shared = scalar.log_decay.unsqueeze(-1).expand_as(scalar.key)
    assert_same(scalar, mixers.GatedLinearAttention(**fields_of(scalar, *QKV), log_decay=shared))


def test_rwkv7_with_opposite_directions_is_kimi():
    """Removing and replacing along one key is the delta rule; here fading comes first."""
    kimi = draw(mixers.KimiDeltaAttention)
    write = kimi.rate.unsqueeze(-1) * kimi.key
    seven = mixers.RWKV7(
        query=kimi.query,
        key=write,
        value=kimi.value,
        log_decay=kimi.log_decay,
        removal=-kimi.log_decay.exp() * kimi.key,
        replacement=write,
    )
    assert_same(kimi, seven)


def test_rwkv6_is_gated_linear_attention_one_token_late():
    """Reading before the update: row i of the one is row i - 1 of the other, below the diagonal."""
    six = draw(mixers.RWKV6)
    late = replace(six, bonus=torch.zeros_like(six.bonus))
    moved = mixers.GatedLinearAttention(
        query=six.query.roll(-1, dims=-2), **fields_of(six, "key", "value", "log_decay")
    )
    torch.testing.assert_close(map_of(late)[..., 1:, :], map_of(moved)[..., :-1, :], **EXACT)
    own = map_of(six).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(
        own, (six.query * six.bonus.unsqueeze(-2) * six.key).sum(dim=-1), **EXACT
    )


def test_hgrn_is_min_gru_with_the_gate_turned_round():
    one = draw(mixers.HGRN)
    assert_same(one, mixers.MinGRU(value=one.value, update=1 - one.decay))


def test_min_lstm_without_division_is_quasi_lstm_with_an_open_output():
    one = replace(draw(mixers.MinLSTM), normalised=False)
    open_output = torch.ones_like(one.value)
    quasi = mixers.QuasiLSTM(**fields_of(one, "value", "forget", "input"), output=open_output)
    assert_same(one, quasi)
    summed = map_of(draw(mixers.MinLSTM)).sum(dim=-1)
    kept = (one.forget / (one.forget + one.input)).cumprod(dim=-2).mT
    torch.testing.assert_close(summed, 1 - kept, **EXACT)


def test_a_reset_makes_the_map_block_diagonal():
    mixer = draw(mixers.RGLRU)
    reset = torch.zeros(2, STEPS, dtype=torch.bool)
    reset[:, 7] = True
    weights = map_of(replace(mixer, reset=reset))
    assert not weights[..., 7:, :7].any()
    assert weights[..., 7:, 7:].abs().sum() > 0
    own = weights[..., 7, 7]
    torch.testing.assert_close(own, mixer.input_gate[:, 7], **EXACT)


def test_the_linear_recurrent_unit_keeps_white_noise_at_one_size():
    """Its input scale makes the sum of squares of the impulse response of a state one."""
    mixer = draw(mixers.LRU, steps=2000)
    system = mixer.system()
    decay = system.A.decay[0, 0]
    scale = (system.B[0, 0] / mixer.write)[:, 0]
    energy = (scale[:, None] * decay[:, None] ** torch.arange(2000)).abs().square().sum(dim=-1)
    torch.testing.assert_close(energy, torch.ones_like(energy), rtol=1e-9, atol=0)


def test_a_state_space_with_one_head_a_channel_is_selective():
    """Mamba with one state matrix number a channel is Mamba-2 with channels as heads."""
    selective = draw(mixers.SelectiveStateSpace)
    pole = selective.pole[:, :1]
    dual = mixers.StateSpaceDuality(
        value=selective.value.mT.unsqueeze(-1),
        step=selective.step.mT,
        pole=pole[:, 0],
        write=selective.write.unsqueeze(-3),
        read=selective.read.unsqueeze(-3),
        feedthrough=selective.feedthrough,
    )
    assert_same(replace(selective, pole=pole.expand(-1, 4)), dual)


def test_attention_without_decay_does_not_care_for_the_order_of_the_past():
    """Swapping two past pairs changes nothing later; with a decay it does."""
    swap = torch.arange(STEPS)
    swap[1], swap[3] = 3, 1
    for cls, cares in ((mixers.LinearAttention, False), (mixers.ScalarGatedAttention, True)):
        mixer = draw(cls)
        swapped = replace(mixer, key=mixer.key[:, swap], value=mixer.value[:, swap])
        one, other = (dsf.respond(m.system(), m.signal())[:, 4:] for m in (mixer, swapped))
        assert ((one - other).abs().max() > 1e-3) == cares


def test_the_matrix_lstm_goes_on_from_its_state():
    """Cut in two, with the state of the paper's loop between, it gives the same."""
    mixer = draw(mixers.MLSTM)
    axes = {"query": -2, "key": -2, "value": -2, "input_gate": -1, "forget_gate": -1}

    def some(start, length):
        return {
            name: getattr(mixer, name).narrow(axis, start, length) for name, axis in axes.items()
        }

    memory, total = torch.zeros(2, 4, 3).to(mixer.key), torch.zeros(2, 4).to(mixer.key)
    peak = torch.zeros(2).to(mixer.key)
    for t in range(5):
        fade = mixer.forget_gate[:, t].sigmoid().log() + peak
        new = torch.maximum(fade, mixer.input_gate[:, t])
        kept, added = (fade - new).exp(), (mixer.input_gate[:, t] - new).exp()
        key, value, peak = mixer.key[:, t], mixer.value[:, t], new
        memory = (
            kept[:, None, None] * memory + added[:, None, None] * key[:, :, None] * value[:, None]
        )
        total = kept[:, None] * total + added[:, None] * key
    state = {"start": memory, "start_total": total, "start_peak": peak}
    with pytest.raises(ShapeError, match="Give all three"):
        replace(mixer, start=memory)
    later = replace(mixer, **some(5, STEPS - 5), **state)
    expected = dsf.respond(mixer.system(), mixer.signal())[:, 5:]
    torch.testing.assert_close(dsf.respond(later.system(), later.signal()), expected, **EXACT)
    torch.testing.assert_close(map_of(later), map_of(mixer)[:, 5:, 5:], **EXACT)
