"""A view has the coordinates that the same view of a tensor of indices has, also after a write."""

import random

import pytest
import torch

from dsf.inspection.causal.coordinates import KnownTensors, numbered

STEPS = [
    lambda t, rng: t.permute(rng.sample(range(t.ndim), t.ndim)),
    lambda t, rng: t[rng.randrange(len(t)) :: rng.randint(1, 2)],
    lambda t, rng: t.select(-1, rng.randrange(t.shape[-1])),
    lambda t, rng: t.unsqueeze(rng.randrange(t.ndim + 1)),
    lambda t, _: t.unsqueeze(0).expand(2, *t.shape),
    lambda t, _: t.view(-1),
    lambda t, _: t.diagonal(0, 0, 1),
    lambda t, _: t.unfold(0, 2, 1),
]


def viewed(tensors, rng):
    """The same view of several tensors; these themselves where there is none."""
    step, state = rng.choice(STEPS), rng.getstate()
    found = []
    for one in tensors:
        rng.setstate(state)
        try:
            found.append(step(one, rng))
        except (RuntimeError, IndexError, ValueError):
            return tensors
    return found


@pytest.mark.parametrize("seed", range(4))
def test_views_and_writes(seed):
    rng = random.Random(seed)
    for _ in range(30):
        shape = [rng.randint(1, 4) for _ in range(rng.randint(2, 4))]
        order = rng.sample(range(len(shape)), len(shape))
        base = torch.empty(shape).permute(order)
        known, made = KnownTensors(), numbered(base, "x")
        known.know(base, made)
        views = [base, *(torch.empty_like(base).copy_(plane) for plane in made.planes.values())]
        for _ in range(rng.randint(1, 4)):
            views = viewed(views, rng)
        view, *expected = views
        if not view.numel():
            continue
        if 0 not in view.stride() and rng.random() < 0.5:
            known.know(view, None)
            for one in expected:
                one.fill_(-1)
        found = known.of(view)
        for plane, one in zip(found.planes.values() if found else (), expected, strict=False):
            torch.testing.assert_close(plane.expand(view.shape), one)
        assert found or all(bool((one == -1).all()) for one in expected)


def test_what_is_written_part_by_part():
    out, part, known = torch.empty(2, 5, 3), torch.zeros(2, 3), KnownTensors()
    for token in (2, 0, 4):
        known.know(out[:, token], numbered(part, f"token {token}"))
    samples = [plane[:, :, 0] for axis, plane in known.of(out).planes.items() if axis.number == 0]
    seen = torch.stack(samples).amax(dim=0)
    torch.testing.assert_close(seen, torch.tensor([[0.0, -1, 0, -1, 0], [1, -1, 1, -1, 1]]))


def test_numbers_of_another_type_in_the_same_memory():
    known, x = KnownTensors(), torch.zeros(3, 4)
    known.know(x, numbered(x, "x"))
    rows, pairs = known.of(torch.view_as_complex(x.view(3, 2, 2))).planes.values()
    assert (rows[:, 0].tolist(), pairs[0].tolist()) == ([0, 1, 2], [0, 2])
    in_bytes = x.view(torch.uint8)
    rows, _ = known.of(in_bytes).planes.values()
    assert rows.shape == (3, 16)
    assert rows[:, 0].tolist() == [0, 1, 2]
    assert known.is_decided(in_bytes)
    assert not known.is_decided(x)


def test_memory_that_is_freed_is_forgotten():
    known, x = KnownTensors(), torch.zeros(3)
    known.know(x, numbered(x, "x"))
    for _ in range(5):
        del x
        x = torch.zeros(3)
        assert known.of(x) is None
