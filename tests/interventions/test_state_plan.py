"""What rounding the state of a recurrence does: replay, forecast, bound and plan."""

from functools import partial

import pytest
import torch

import dsf
from dsf.interventions.state_budget import (
    CHOICES,
    StatePlan,
    StateRow,
    bound,
    forecast,
    noise_weight,
    replayed,
    rounded,
    rounded_at_random,
    rounded_run,
    with_feedback,
)
from dsf.models import folder
from dsf.systems import System, transition
from experiments.state_budget.run import drawn_case, violations

DOUBLE = torch.float64


def long_case(steps=60):
    rng = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(1, 2, *shape, generator=rng, dtype=DOUBLE)

    decay = 0.5 + 0.5 * torch.rand(1, 2, steps, 4, generator=rng, dtype=DOUBLE)
    system = System(transition.Diagonal(decay), normal(steps, 4, 1), normal(steps, 1, 4))
    return system, normal(steps, 1, 3)


def test_rounded_states_are_whole_multiples_of_a_step_and_nearest():
    states = torch.tensor([[[3.0, -1.2], [0.4, 0.0]]], dtype=DOUBLE)
    found = rounded(states, torch.tensor([3.0], dtype=DOUBLE))  # 3 levels, a step of 1
    assert found.tolist() == [[[3.0, -1.0], [0.0, 0.0]]]
    third = torch.tensor([[[1 / 3]]], dtype=DOUBLE)
    assert rounded(third, "bfloat16").item() == 0.333984375
    assert rounded(torch.zeros(1, 2, 2, dtype=DOUBLE), torch.tensor([3.0])).tolist() == (
        torch.zeros(1, 2, 2).tolist()
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_rounded_run_is_a_loop_and_its_replay_is_exact(seed):
    system, signal = drawn_case(torch.Generator().manual_seed(seed))
    bits = torch.tensor([4.0], dtype=DOUBLE)
    response, errors = rounded_run(system, signal, partial(rounded, bits=bits))
    state = torch.zeros(system.state_size, signal.shape[-1], dtype=DOUBLE)
    a, b, c = system.A.dense()[0], system.B, system.C
    for t in range(system.steps):
        state = a[t] @ state + torch.as_tensor(b)[0, t] @ signal[0, t]
        step = state.abs().max() / 7
        state = torch.round(state / step) * step
        torch.testing.assert_close(response[0, t], torch.as_tensor(c)[0, t] @ state)
    apart = response - dsf.respond(system, signal)
    torch.testing.assert_close(replayed(system, errors), apart, rtol=1e-10, atol=1e-13)


def test_forecasts_of_heads_are_within_a_factor_of_two():
    system, signal = long_case()
    bits = torch.full((1, 2), 8.0, dtype=DOUBLE)
    apart = rounded_run(system, signal, partial(rounded, bits=bits))[0] - dsf.respond(
        system, signal
    )
    measured = apart.square().sum(dim=(-3, -2, -1)).sqrt()
    ratio = forecast(system, signal, bits).sum(dim=-1).sqrt() / measured
    assert bool(((ratio > 0.5) & (ratio < 2)).all())


def test_the_weight_of_a_head_is_what_all_states_entries_move():
    """Against gradients of the exact replay, and states of a loop."""
    system, signal = long_case(20)
    adjoint = torch.randn(1, 2, 20, 1, 3, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    errors = torch.zeros(1, 2, 20, 4, 3, dtype=DOUBLE, requires_grad=True)
    moved = (adjoint * replayed(system, errors)).sum()
    (gradient,) = torch.autograd.grad(moved, errors)
    state, steps = torch.zeros(1, 2, 4, 3, dtype=DOUBLE), []
    for t in range(20):
        drive = torch.as_tensor(system.B)[..., t, :, :] @ signal[..., t, :, :]
        state = system.A.dense()[..., t, :, :] @ state + drive
        steps.append(state.abs().amax(dim=(-2, -1)))
    squares = gradient.square().sum(dim=(-2, -1)) * torch.stack(steps, dim=-1).square()
    torch.testing.assert_close(noise_weight(system, signal, adjoint), squares.sum(dim=-1) / 12)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_forecasts_of_nine_heads_of_ten_hold_at_few_bits(bits):
    """Most entries are then less than half a step, and are lost."""
    rng = torch.Generator().manual_seed(0)
    normal = partial(torch.randn, generator=rng, dtype=DOUBLE)
    key, rate = normal(1, 80, 40, 16), torch.rand(1, 80, 40, generator=rng, dtype=DOUBLE)
    mixer = dsf.mixers.GatedDeltaNet(
        query=normal(1, 80, 40, 16),
        key=torch.nn.functional.normalize(key, dim=-1),
        value=normal(1, 80, 40, 8),
        rate=rate,
        log_decay=torch.rand(1, 80, 1, generator=rng, dtype=DOUBLE).log().expand(1, 80, 40),
    )
    system, signal = mixer.system(), mixer.signal()
    every = torch.full((1, 80), float(bits), dtype=DOUBLE)
    response, _ = rounded_run(system, signal, partial(rounded, bits=every))
    measured = (response - dsf.respond(system, signal)).square().sum(dim=(-3, -2, -1)).sqrt()
    ratio = forecast(system, signal, every).sum(dim=-1).sqrt() / measured
    assert ((ratio > 0.5) & (ratio < 2)).double().mean() >= 0.9


@pytest.mark.parametrize("feedback", [False, True])
def test_forecasts_of_random_rounding_hold_at_few_bits(feedback):
    """Against runs of a slow and a fast head; feedback pays where memory is long."""
    rng = torch.Generator().manual_seed(5)
    decay = torch.tensor([0.98, 0.2], dtype=DOUBLE)[None, :, None, None].expand(1, 2, 80, 4)
    normal = partial(torch.randn, generator=rng, dtype=DOUBLE)
    system = System(transition.Diagonal(decay), normal(1, 2, 80, 4, 1), normal(1, 2, 80, 1, 4))
    signal, bits = normal(1, 2, 80, 1, 8), torch.full((1, 2), 3.0, dtype=DOUBLE)
    clean, squares = dsf.respond(system, signal), []
    for _ in range(3):
        store = partial(rounded_at_random, bits=bits, rng=rng)
        response, errors = rounded_run(system, signal, with_feedback(store) if feedback else store)
        torch.testing.assert_close(replayed(system, errors), response - clean)
        squares.append((response - clean).square().sum(dim=(-3, -2, -1)))
    measured = torch.stack(squares).mean(0)
    plain, fed = (
        forecast(system, signal, bits, at_random=True, feedback=way).sum(-1)
        for way in (False, True)
    )
    ratio = ((fed if feedback else plain) / measured).sqrt()
    assert bool(((ratio > 0.5) & (ratio < 2)).all())
    assert fed[0, 0] < 0.3 * plain[0, 0]
    assert fed[0, 1] > plain[0, 1]


def test_no_error_exceeds_its_bound():
    assert violations(30) == 0
    system, signal = long_case(20)
    bits = torch.full((1, 2), 3.0, dtype=DOUBLE)
    assert bool((bound(system, signal, bits + 5) < bound(system, signal, bits)).all())


@pytest.mark.parametrize(("entries", "bytes"), [(8, 14), (1, 7), (2, 7), (3, 7)])
def test_a_plan_is_the_best_of_all_choices(entries, bytes):
    """Also of states of few numbers, of which several numbers of bits take as many bytes."""
    noises = enumerate((1.0, 100.0))
    rows = tuple(StateRow("a", head, entries, 16, 0, noise) for head, noise in noises)
    plan = StatePlan(rows).uniform(16)
    found = plan.within(bytes)
    every = [
        (first.forecast + second.forecast)
        for b, c in ((b, c) for b in CHOICES for c in CHOICES)
        for first, second in [(plan.uniform(b).rows[0], plan.uniform(c).rows[1])]
        if first.bytes + second.bytes <= bytes
    ]
    assert found.forecast**2 == pytest.approx(min(every))
    assert found.rows[1].bits > found.rows[0].bits
    with pytest.raises(ValueError, match="'bytes'"):
        plan.within(3)


def test_a_model_runs_with_the_planned_states():
    pytest.importorskip("transformers")
    from dsf.loading import load_model

    model = load_model(dsf.models.folder("mamba2")).model.double()
    ids = torch.arange(1, 13)[None] % 8
    plan = dsf.plan_state(model, input_ids=ids, bytes=10**6)
    clean = model(input_ids=ids).logits
    coarse, fine = (
        (plan.uniform(bits).applied(model)(input_ids=ids).logits - clean).abs().max()
        for bits in (3, 16)
    )
    assert 0 < fine < 1e-2 * coarse
    edit = plan.edits[0]
    assert dsf.edits.from_json(edit.to_json()) == edit
    llama = load_model(dsf.models.folder("llama")).model
    with pytest.raises(dsf.inspection.InspectionError, match="'model'"):
        dsf.plan_state(llama, input_ids=ids, bytes=10**6)
    for bits in ("nope", "load", "complex64"):
        with pytest.raises(ValueError, match="'bits'"):
            dsf.edits.RoundState(0, bits=bits)
    assert dsf.edits.RoundState(0, bits="int8") == dsf.edits.RoundState(0, bits=8)
    with pytest.raises(dsf.inspection.InspectionError, match="RoundState"):
        dsf.intervene(llama, input_ids=ids, edits=dsf.edits.RoundState(0, bits=4))
    plan = dsf.plan_state(folder("mamba2"), input_ids=ids, bytes=10**6)
    with pytest.raises(TypeError, match="'model'"):
        plan.applied(None)
    for wrong in (0.5, None, True):
        with pytest.raises(TypeError, match="'bytes'"):
            plan.within(wrong)
        with pytest.raises(TypeError, match="'bits'"):
            plan.uniform(wrong)
    with pytest.raises(ValueError, match="'bits'"):
        plan.uniform(1)


def test_a_forecast_is_the_mean_over_samples_and_tokens():
    ids = torch.randint(33, (1, 9), generator=torch.Generator().manual_seed(2))
    one, three = (
        dsf.plan_state(folder("mamba2"), input_ids=ids.repeat(count, 1), bytes=10**6)
        for count in (1, 3)
    )
    assert three.forecast == pytest.approx(one.forecast, rel=0.2)


class Pooled(torch.nn.Module):
    """Classes of the mean of a model's logits over tokens."""

    def __init__(self, model, classes):
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, input_ids):
        return self.model(input_ids=input_ids).logits.mean(dim=1)[:, : self.classes]


def test_states_are_planned_for_classes():
    """A classifier has a row of logits for each sample, and none for each token."""
    from dsf.loading import load_model

    model = Pooled(load_model(folder("mamba2")).model.double(), 5)
    ids = torch.randint(33, (4, 9), generator=torch.Generator().manual_seed(2))
    plan = dsf.plan_state(model, input_ids=ids, bytes=10**6).uniform(8)
    run = dsf.intervene(model, input_ids=ids, edits=plan.edits)
    top = run.clean.topk(2, dim=-1).indices
    moved = (run.output - run.clean).gather(-1, top).diff(dim=-1).square().mean().sqrt()
    assert 0.3 * moved < plan.forecast < 3 * moved
    with pytest.raises(dsf.inspection.InspectionError, match="'model'"):
        dsf.plan_state(Pooled(model.model, 1), input_ids=ids, bytes=10**6)
