"""Scans in any order against literal loops: both ways, and across a grid."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.evaluate.scans import in_scan_order, in_token_order, scanned
from dsf.mixers import SelectiveStateSpace
from dsf.runtime.shapes import ShapeError

STEPS = 12
FORWARD = torch.arange(STEPS)
COLUMNS = FORWARD.view(3, 4).mT.flatten()
SHUFFLED = torch.randperm(STEPS, generator=torch.Generator().manual_seed(5))
ORDERS = {
    "both ways": (FORWARD, FORWARD.flip(0)),
    "across a grid": (FORWARD, COLUMNS, FORWARD.flip(0), COLUMNS.flip(0)),
    "anyhow": (SHUFFLED, SHUFFLED.flip(0)),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def walked(mixers, orders, value):
    """The selective scan of every direction, token by token; ``value`` is ``time channel``."""
    out = torch.zeros_like(value)
    for m, order in zip(mixers, orders, strict=True):
        state = torch.zeros_like(m.pole)
        for step, token in enumerate(order.tolist()):
            for c in range(value.shape[-1]):
                written = m.step[0, step, c] * m.write[0, step] * value[token, c]
                state[c] = torch.exp(m.step[0, step, c] * m.pole[c]) * state[c] + written
            out[token] += state @ m.read[0, step] + m.feedthrough * value[token]
    return out


@pytest.fixture(params=ORDERS.values(), ids=ORDERS)
def orders(request):
    return request.param


@pytest.fixture
def mixers(orders):
    return [SelectiveStateSpace.draw(seeded(k), steps=STEPS) for k in range(len(orders))]


@pytest.fixture
def value():
    return torch.randn(2, STEPS, 3, generator=seeded(9), dtype=torch.float64)


def test_every_order_gives_what_the_loop_says(mixers, orders, value):
    together = scanned(*((m.system(), order) for m, order in zip(mixers, orders, strict=True)))
    literal = walked(mixers, orders, value[0])
    response = dsf.respond(together, value.mT[..., None, None])[0].squeeze((-2, -1)).mT
    torch.testing.assert_close(response, literal)

    map = dsf.attention_map(together)
    mixed = torch.einsum("cij,jc->ic", map[0], value[0])
    torch.testing.assert_close(mixed, literal)
    torch.testing.assert_close(dsf.attention_map(together, slice(2, 5)), map[..., 2:5, :])
    sums = dsf.measures.row_sums(together)
    torch.testing.assert_close(sums, map.sum(dim=-1))


def test_a_mixer_in_an_order_has_its_map_in_that_order():
    for cls in (dsf.mixers.GatedDeltaNet, dsf.mixers.RWKV6, dsf.mixers.SoftmaxAttention):
        system = cls.draw(seeded(0), steps=STEPS).system()
        ran = dsf.attention_map(system)
        there = torch.zeros_like(ran)
        for i, to in enumerate(SHUFFLED.tolist()):
            for j, origin in enumerate(SHUFFLED.tolist()):
                there[..., to, origin] = ran[..., i, j]
        torch.testing.assert_close(dsf.attention_map(scanned((system, SHUFFLED))), there)


def test_a_complex_state_whose_real_part_is_read():
    system = dsf.mixers.LRU.draw(seeded(0), steps=STEPS).system()
    one = replace(system, B=system.B[..., :1], C=system.C[..., :1, :], D=None, initial=None)
    ran = dsf.attention_map(one)
    there = in_token_order(in_token_order(ran, SHUFFLED, -1), SHUFFLED, -2)
    both = scanned((one, SHUFFLED))
    assert dsf.attention_map(both).dtype == torch.float64
    torch.testing.assert_close(dsf.attention_map(both), there)


def test_a_quasi_separable_mixer():
    """Hydra: a scan either way, each one token late, and the token itself by a weight apart."""
    rng = seeded(3)
    read, write, own = (
        torch.randn(STEPS, n, generator=rng, dtype=torch.float64) for n in (4, 4, 1)
    )
    decay = torch.rand(STEPS, generator=rng, dtype=torch.float64)

    def late(order):
        """What was there after the token before."""
        c, a, b = (in_scan_order(part, order, 0) for part in (read, decay, write))
        A = dsf.systems.transition.ScaledIdentity(a, 4)
        return dsf.System.from_write_and_read(
            A, b, c.roll(1, 0), in_scan_order(own, order, 0)[:, 0] / 2, reads_before_update=True
        ), order

    both = scanned(late(FORWARD), late(FORWARD.flip(0)))
    expected = torch.zeros(STEPS, STEPS, dtype=torch.float64)
    for i in range(STEPS):
        for j in range(STEPS):
            if i == j:
                expected[i, j] = own[i, 0]
            elif i > j:
                expected[i, j] = read[i - 1] @ write[j] * decay[j + 1 : i].prod()
            else:
                expected[i, j] = read[i + 1] @ write[j] * decay[i + 1 : j].prod()
    torch.testing.assert_close(dsf.attention_map(both), expected)


def test_fewer_channels_and_another_precision(mixers, orders):
    together = scanned(*((m.system(), order) for m, order in zip(mixers, orders, strict=True)))
    map = dsf.attention_map(together)
    torch.testing.assert_close(
        dsf.attention_map(dsf.systems.algebra.select(together, (0, 1))), map[0, 1]
    )
    single = dsf.attention_map(dsf.systems.algebra.converted(together, dtype=torch.float32))
    torch.testing.assert_close(single, map.float(), rtol=1e-4, atol=1e-5)
    turned = dsf.attention_map(dsf.systems.algebra.reverse(together))
    torch.testing.assert_close(turned, map.flip(-1, -2))


def test_what_is_no_order_and_what_is_no_map_is_refused():
    system = dsf.mixers.DeltaNet.draw(seeded(0), steps=4).system()
    with pytest.raises(ValueError, match=r"\[0, 1, 1, 3\]"):
        scanned((system, torch.tensor([1, 0, 1, 3])))
    with pytest.raises(ShapeError, match="scan 0"):
        scanned((system, torch.arange(5)))
    started = replace(system, initial=torch.ones(*system.batch, system.state_size, 3))
    with pytest.raises(ValueError, match="initial state"):
        scanned((started, torch.arange(4)))
    with pytest.raises(ValueError, match="at least one"):
        scanned()
