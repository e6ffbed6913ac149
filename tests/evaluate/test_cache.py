"""A state that keeps every token: read as the equations say, whatever the rows hold."""

from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.systems.coefficient import TokenSlots
from dsf.systems.composite import ExplicitMap, SoftmaxRows, StoredRows, kept_rows
from dsf.systems.transition import ScaledIdentity
from tests.drawn import Drawer, attention

STEPS = 6


def caches():
    """Attention, and the variations that a shortcut through its rows would get wrong."""
    drawer = Drawer(1)
    plain = attention(steps=STEPS)
    ahead = StoredRows(drawer.tensor(STEPS, STEPS))
    variations = {
        "plain": {},
        "rows that look ahead": {"C": ahead},
        "a feedthrough": {"D": drawer.tensor(STEPS, 1, 1)},
        "read before the update": {"reads_before_update": True},
        "run backward": {"C": ahead, "runs_backward": True},
        "a decay": {"A": ScaledIdentity(drawer.decay(STEPS), STEPS)},
        "slots in another order": {"B": plain.B.flipped()},
        "an initial state": {"initial": drawer.tensor(STEPS, 2)},
    }
    flags = ("reads_before_update", "runs_backward")
    mixed = {
        f"ahead, {before}, {backward}": {
            "C": ahead,
            "D": drawer.tensor(STEPS, 1, 1),
            **dict(zip(flags, (before, backward), strict=True)),
        }
        for before, backward in product((False, True), repeat=2)
    }
    return {name: replace(plain, **changed) for name, changed in (variations | mixed).items()}


every_cache = pytest.mark.parametrize("system", caches().values(), ids=caches())


@every_cache
def test_a_cache_answers_as_its_coefficients_written_out(system):
    """The same A, B, C, D as plain tensors know nothing of a cache."""
    plain = replace(system, B=system.B.dense(), C=system.C.dense())
    assert kept_rows(plain) is None
    signal = Drawer(2).tensor(STEPS, 1, 2)
    assert_close(dsf.respond(system, signal), dsf.respond(plain, signal, method="recurrent"))
    assert_close(dsf.attention_map(system), dsf.attention_map(plain))
    for method in (
        dsf.evaluate.recurrent,
        dsf.evaluate.scan,
        partial(dsf.evaluate.chunkwise, size=4),
    ):
        ours = dsf.respond(system, signal, method=method)
        assert_close(ours, dsf.respond(plain, signal, method="recurrent"))


@every_cache
def test_a_cache_takes_every_number_type(system):
    drawer = Drawer(3, complex=True)
    width = 2 if system.initial is not None else 3
    signal = drawer.tensor(STEPS, 1, width)
    response = dsf.respond(system, signal)
    assert response.dtype == torch.complex128
    assert_close(response, dsf.respond(system, signal, method="recurrent"))
    single = dsf.systems.algebra.converted(system, dtype=torch.float32)
    real = signal.real.contiguous()
    assert dsf.respond(single, real).dtype == torch.float64
    assert dsf.respond(system, real.float()).dtype == torch.float64
    assert_close(dsf.respond(single, real), dsf.respond(system, real), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_as_torch_does_it(causal):
    drawer = Drawer(4)
    query, key, value = (drawer.tensor(2, STEPS, 3) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
    mixer = dsf.mixers.SoftmaxAttention(query=query, key=key, value=value, causal=causal)
    assert_close(dsf.respond(mixer.system(), mixer.signal()).squeeze(-2), expected)
    assert_close(dsf.attention_map(mixer.system()) @ value, expected)


def test_an_explicit_map_meets_every_number_type():
    drawer = Drawer(5, complex=True)
    signal = drawer.tensor(4, 1, 2)
    real = Drawer(6).tensor(5, 4)
    query, key = Drawer(7).tensor(5, 3), Drawer(8).tensor(4, 3)
    softmax = SoftmaxRows(query, key, scale=1.0, causal=False, softcap=3.0)
    for rows in (StoredRows(real), StoredRows(real.float()), softmax, StoredRows(real * 1j)):
        operator = ExplicitMap(rows)
        map = dsf.attention_map(operator).to(torch.complex128)
        ours = dsf.respond(operator, signal)
        assert_close(ours.squeeze(1), map @ signal.squeeze(1))
        assert_close(
            dsf.respond(operator, signal.real).squeeze(1).to(torch.complex128),
            map @ signal.real.squeeze(1).to(torch.complex128),
        )


def test_long_attention_never_holds_its_map(monkeypatch):
    """Default evaluation reads panels or fused attention; a state of T slots is never stepped."""
    monkeypatch.setattr("dsf.evaluate.chunks.by_default", None)
    system = attention(steps=300)
    skipping = replace(system, D=torch.ones(300, 1, 1, dtype=torch.float64))
    signal = Drawer(9).tensor(300, 1, 2)
    assert_close(dsf.respond(skipping, signal), dsf.respond(system, signal) + signal)


def test_token_slots_of_more_slots_than_tokens_are_no_shortcut():
    """A window of a cache still has the slots of the whole sequence."""
    whole = attention(steps=STEPS)
    front, back = whole.cut(0, 4), whole.cut(4, STEPS)
    assert back.B.slots == STEPS
    assert isinstance(back.B, TokenSlots)
    assert kept_rows(front) is None
    assert kept_rows(back) is None
