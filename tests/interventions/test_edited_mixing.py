"""Edits of one mixer, over all mixers: each is what the matrix says, written out."""

import json
from dataclasses import replace

import pytest
import torch

import dsf
from dsf import edits, mixers
from dsf.evaluate import final_state
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.interventions.edited_mixing import EditedMixer, _constant_signal, edited_response
from dsf.measures.erasers import spared_pairs
from dsf.systems.coefficient import TokenSlots, dense_of
from dsf.systems.system import System

STEPS = 9


def drawn(cls, seed=0):
    return cls.draw(torch.Generator().manual_seed(seed), steps=STEPS)


def edited(mixer, *several, sources=None):
    return edited_response(EditedMixer("it", mixer, sources or {}), several)


def run_of(mixer):
    """Another run of the same layer, as an inspection would hold it."""
    layer = InspectedLayer("it", "drawn", mixer, ("sample", "head"), error=0.0, tolerance=1.0)
    return Inspection(layers=(layer,))


def by_matrix(mixer, change):
    """The response where ``change`` is applied to the map, whose columns are (token, port)."""
    system, signal = mixer.system(), mixer.signal()
    constant = _constant_signal(mixer)
    map = dsf.attention_map(system)
    read = signal.shape[-3]
    blocks = map.unflatten(-1, (read, -1)).unflatten(-3, (system.steps, -1))
    moved = (change(blocks) - blocks).flatten(-2).flatten(-3, -2)
    added = moved @ (signal - constant).flatten(-3, -2)
    return dsf.respond(system, signal) + added.unflatten(-2, (system.steps, -1))


@pytest.fixture(params=mixers.ALL, ids=lambda cls: cls.__name__)
def mixer(request):
    return drawn(request.param)


def assert_close(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max().clamp_min(1)


def test_no_edit_and_a_factor_of_one_change_nothing(mixer):
    plain = dsf.respond(mixer.system(), mixer.signal())
    assert_close(edited(mixer), plain)
    assert_close(edited(mixer, edits.Scale("it", 1.0)), plain)


def test_everything_cut_is_values_of_zero(mixer):
    silent = dsf.respond(mixer.system(), _constant_signal(mixer))
    assert_close(edited(mixer, edits.Cut("it")), silent)


def test_a_column_cut_is_its_signal_zero(mixer):
    signal = mixer.signal().clone()
    signal[..., 3, :, :] = _constant_signal(mixer)[..., 3, :, :]
    expected = dsf.respond(mixer.system(), signal)
    assert_close(edited(mixer, edits.Cut("it", key=3)), expected)


def test_edges_windows_sinks_and_signs_are_factors_of_the_map(mixer):
    row, column = torch.arange(STEPS)[:, None], torch.arange(mixer.signal().shape[-3])

    def times(factor):
        return lambda blocks: blocks * factor[:, None, :, None]

    inside = ((row == 6) | (row == 7)) & (column >= 1) & (column < 3)
    of_row = torch.where(row == 5, -2.0, 1.0).double().expand(STEPS, len(column))
    cases = [
        (edits.Cut("it", query=[-2, 6], key=slice(1, 3)), 1.0 - inside.double()),
        (edits.Scale("it", -2.0, query=5), of_row),
        (edits.Window("it", 3), ((row - column).abs() < 3).double()),
        (edits.Sink("it"), (column > 0).double().expand(STEPS, -1)),
        (edits.Sink("it", keep=True), ((column == 0) | (column == row)).double()),
    ]
    for edit, factor in cases:
        assert_close(edited(mixer, edit), by_matrix(mixer, times(factor)))
    if not dsf.attention_map(mixer.system()).is_complex():
        negative, positive = edits.Negative("it"), edits.Negative("it", keep=True)
        assert_close(edited(mixer, negative), by_matrix(mixer, lambda blocks: blocks.clamp(min=0)))
        assert_close(edited(mixer, positive), by_matrix(mixer, lambda blocks: blocks.clamp(max=0)))


def test_several_edits_multiply(mixer):
    both = edited(mixer, edits.Scale("it", 3.0, key=2), edits.Window("it", 4))
    row, column = torch.arange(STEPS)[:, None], torch.arange(mixer.signal().shape[-3])
    factor = ((row - column).abs() < 4) * torch.where(column == 2, 3.0, 1.0).double()
    expected = by_matrix(mixer, lambda blocks: blocks * factor[:, None, :, None])
    assert_close(both, expected)


def test_forgetting_hides_what_lies_before(mixer):
    """Twice, so that the second forgets what the first left."""
    response = edited(mixer, edits.Forget("it", 3), edits.Forget("it", 6))
    system, signal = mixer.system(), mixer.signal()
    blocks = dsf.attention_map(system).unflatten(-1, (signal.shape[-3], -1))
    row = torch.arange(STEPS).repeat_interleave(system.output_size)[:, None]
    column = torch.arange(signal.shape[-3])
    start = torch.where(row >= 6, 6, torch.where(row >= 3, 3, 0))
    recurrent = isinstance(system, System) and not isinstance(system.B, TokenSlots)
    kept = (column >= start)[:, :, None] * blocks
    given = signal if recurrent and not system.runs_backward else signal - _constant_signal(mixer)
    expected = (kept.flatten(-2) @ given.flatten(-3, -2)).unflatten(-2, (STEPS, -1))
    if given is not signal:
        expected = expected + dsf.respond(system, _constant_signal(mixer))
    elif system.initial is not None:
        first = dsf.respond(system, torch.zeros_like(signal))
        expected[..., :3, :, :] += first[..., :3, :, :]
    assert_close(response, expected)


def test_heads_and_samples_that_are_not_chosen_stay(mixer):
    batch = mixer.system().batch
    plain = dsf.respond(mixer.system(), mixer.signal())
    if batch:
        response = edited(mixer, edits.Ablate("it", samples=[0]))
        assert not response[0].any()
        torch.testing.assert_close(response[1:], plain[1:])
    if len(batch) > 1:
        response = edited(mixer, edits.Ablate("it", heads=[-1]))
        assert not response[:, -1].any()
        torch.testing.assert_close(response[:, :-1], plain[:, :-1])
    else:
        with pytest.raises(InspectionError, match="all of its channels"):
            edited(mixer, edits.Ablate("it", heads=[0]))


def test_the_mean_over_tokens(mixer):
    plain = dsf.respond(mixer.system(), mixer.signal())
    mean = plain.mean(dim=-3, keepdim=True).expand_as(plain)
    assert_close(edited(mixer, edits.Mean("it")), mean)


def test_maps_and_values_of_another_run(mixer):
    other = drawn(type(mixer), seed=1)
    sources = {"other": run_of(other)}
    if other.system().batch[1:] != mixer.system().batch[1:]:
        return
    taken = edited(mixer, edits.MapFrom("it", "other"), sources=sources)

    def of_other(blocks):
        return dsf.attention_map(other.system()).reshape(blocks.shape)

    assert_close(taken, by_matrix(mixer, of_other))
    values = edited(mixer, edits.ValueFrom("it", "other", tokens=[2, 5]), sources=sources)
    signal = mixer.signal().clone()
    signal[..., [2, 5], :, :] = other.signal()[..., [2, 5], :, :].to(signal)
    assert_close(values, dsf.respond(mixer.system(), signal))


def test_the_state_of_another_run(mixer):
    system, signal = mixer.system(), mixer.signal()
    edit, sources = edits.StateFrom("it", 4, "own"), {"own": run_of(mixer)}
    if not isinstance(system, System) or isinstance(system.B, TokenSlots):
        with pytest.raises(InspectionError, match="recurrent state"):
            edited(mixer, edit, sources=sources)
        return
    plain = dsf.respond(system, signal)
    assert_close(edited(mixer, edit, sources=sources), plain)
    other = drawn(type(mixer), seed=1)
    edit = edits.StateFrom("it", 4, "other", other_token=2)
    taken = edited(mixer, edit, sources={"other": run_of(other)})
    assert_close(taken[..., :5, :, :], plain[..., :5, :, :])
    rest = system.cut(5, system.steps)
    front = other.system()
    front = replace(front.cut(0, 3), initial=front.initial)
    state = final_state(front, other.signal()[..., :3, :, :])
    expected = dsf.evaluate.recurrent(replace(rest, initial=state), signal[..., 5:, :, :])
    assert_close(taken[..., 5:, :, :], expected)


def spared_by_loop(system, signal, key, tokens):
    """The state without the trace of the key, and that trace, which some tokens let pass."""
    A, B, C, D = (dense_of(each) for each in (system.A.dense(), system.B, system.C, system.D))
    rest = torch.zeros(*system.batch, system.state_size, signal.shape[-1], dtype=A.dtype)
    rest = rest if system.initial is None else system.initial.to(A.dtype) + rest
    own, found = torch.zeros_like(rest), []
    for t in range(STEPS):
        before = rest + own
        rest = A[..., t, :, :] @ rest
        own = own if t in tokens else A[..., t, :, :] @ own
        written = B[..., t, :, :].to(A.dtype) @ signal[..., t, :, :].to(A.dtype)
        rest, own = (rest, own + written) if t == key else (rest + written, own)
        state = before if system.reads_before_update else rest + own
        through = D[..., t, :, :].to(A.dtype) @ signal[..., t, :, :].to(A.dtype)
        found.append(C[..., t, :, :].to(A.dtype) @ state + through)
    response = torch.stack(found, dim=-3)
    return response.real if system.takes_real_part else response


def test_a_protected_trace_passes_unchanged(mixer):
    system, signal = mixer.system(), mixer.signal()
    one = edits.Protect("it", key=2, from_=4)
    recurrent = isinstance(system, System) and not isinstance(system.B, TokenSlots)
    if not recurrent or system.runs_backward:
        with pytest.raises(InspectionError, match="Protect"):
            edited(mixer, one)
        return
    assert_close(edited(mixer, one), spared_by_loop(system, signal, 2, {4}))
    several = edits.Protect("it", key=2, from_=4, until=6), edits.Protect("it", key=2, from_=7)
    assert_close(edited(mixer, *several), spared_by_loop(system, signal, 2, {4, 5, 7}))
    always = edits.Protect("it", key=-7, from_=3, until=STEPS)
    assert_close(edited(mixer, always), spared_by_loop(system, signal, 2, set(range(3, STEPS))))


def test_what_a_protection_changes_is_predicted_by_the_adjoint(mixer):
    system, signal = mixer.system(), mixer.signal()
    if not isinstance(system, System) or isinstance(system.B, TokenSlots):
        return
    plain = dsf.respond(system, signal)
    rng = torch.Generator().manual_seed(1)
    adjoint = torch.randn(plain.shape, generator=rng, dtype=torch.float64).to(plain.dtype)
    decay, overwriting = spared_pairs(system, signal, adjoint)
    if system.runs_backward:
        reverse = dsf.systems.algebra.reverse(system)
        pair = spared_pairs(reverse, signal.flip(-3), adjoint.flip(-3))
        torch.testing.assert_close(decay, pair[0].flip((-2, -1)))
        torch.testing.assert_close(overwriting, pair[1].flip((-2, -1)))
        return
    for key, token in ((0, 1), (2, 4), (3, 8)):
        changed = edited(mixer, edits.Protect("it", key=key, from_=token)) - plain
        measured = (adjoint * changed).real.flatten(1).sum(dim=1)
        predicted = (decay + overwriting)[:, token, key]
        if len(predicted) == len(measured):
            torch.testing.assert_close(predicted, measured, atol=1e-9, rtol=1e-9)
    assert not torch.triu(decay).any()


def test_protections_that_do_not_fit_are_refused():
    mixer = drawn(mixers.GatedDeltaNet)
    for wrong in ({"key": 4, "from_": 4}, {"key": 2, "from_": 4, "until": 3}):
        with pytest.raises(InspectionError, match="from_"):
            edited(mixer, edits.Protect("it", **wrong))
    with pytest.raises(InspectionError, match="key="):
        edited(mixer, edits.Protect("it", key=9, from_=4))
    twice = [edits.Protect("it", key=1, from_=t, samples=n) for t, n in ((3, None), (5, [0]))]
    with pytest.raises(InspectionError, match="overlap"):
        edited(mixer, *twice)
    for other in (
        edits.Forget("it", 5),
        edits.Cut("it", key=1),
        edits.RoundState("it", bits=4),
        edits.Reduce("it", 1, 5),
    ):
        with pytest.raises(InspectionError, match="meaning"):
            edited(mixer, edits.Protect("it", key=1, from_=3), other)
    apart = [edits.Protect("it", key=1, from_=3, samples=[n]) for n in (0, 1)]
    assert_close(edited(mixer, *apart), edited(mixer, edits.Protect("it", key=1, from_=3)))


def test_a_reduced_memory_is_the_best_of_its_rank(mixer):
    if dsf.attention_map(mixer.system()).is_complex():
        return
    full = edited(mixer, edits.Reduce("it", order=STEPS * 50, token=5))
    assert_close(full, dsf.respond(mixer.system(), mixer.signal()))
    nothing = edited(mixer, edits.Reduce("it", order=0, token=5))

    def without(blocks):
        kept = blocks.clone()
        kept[..., 5:, :, :5, :] = 0
        return kept

    assert_close(nothing, by_matrix(mixer, without))


def test_renormalised_weights_are_those_of_masked_scores():
    mixer = drawn(mixers.SoftmaxAttention)
    scores = mixer.scale * mixer.query @ mixer.key.mT
    bias = mixer.bias if mixer.bias is not None else torch.zeros_like(scores)
    scores = scores if mixer.softcap is None else mixer.softcap * (scores / mixer.softcap).tanh()
    scores = scores + bias
    if mixer.causal:
        scores = scores.masked_fill(torch.ones(STEPS, STEPS, dtype=torch.bool).triu(1), -torch.inf)
    scores[..., 1] = -torch.inf
    if mixer.sink is not None:
        sink = mixer.sink[..., None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(dim=-1)[..., :STEPS].nan_to_num()
    expected = (weights @ mixer.value).unsqueeze(-2)
    response = edited(mixer, edits.Cut("it", key=1, renormalise=True))
    assert_close(response[..., 2:, :, :], expected[..., 2:, :, :])
    with pytest.raises(InspectionError, match="softmax"):
        edited(drawn(mixers.SelectiveStateSpace), edits.Cut("it", key=1, renormalise=True))


def test_edits_that_do_not_fit_are_refused():
    mixer = drawn(mixers.GatedDeltaNet)
    with pytest.raises(InspectionError, match="query="):
        edited(mixer, edits.Cut("it", query=9))
    with pytest.raises(ValueError, match="'width'"):
        edits.Window("it", 0)
    with pytest.raises(ValueError, match="'order'"):
        edits.Reduce("it", -1, 4)
    with pytest.raises(InspectionError, match="'b'"):
        edited(mixer, edits.MapFrom("it", "b"), sources={"a": run_of(mixer)})
    with pytest.raises(InspectionError, match="MapFrom"):
        edited(mixer, edits.MapFrom("it"))
    with pytest.raises(InspectionError, match="after the last token"):
        edited(mixer, edits.StateFrom("it", -1, "a"), sources={"a": run_of(mixer)})
    with pytest.raises(InspectionError, match="meaning"):
        edited(mixer, edits.Window("it", 2), edits.Reduce("it", 2, 4))


@pytest.mark.parametrize(
    "edit",
    [
        edits.Cut("*.mixer", query=[7], key=range(3), heads=[2], renormalise=True),
        edits.Scale(3, 0.5, query=slice(1, None), samples=[0]),
        edits.StateFrom("a", 4, "other"),
        edits.Reduce("a", 2, 4),
        edits.Protect("a", key=1, from_=4, until=9),
        edits.Mean("a"),
    ],
    ids=repr,
)
def test_edits_have_a_form_in_files(edit):
    again = edits.from_json(json.loads(json.dumps(edit.to_json())))
    assert again == edit


def test_broken_edits_in_files_are_refused():
    with pytest.raises(ValueError, match="'Paint'"):
        edits.from_json({"edit": "Paint"})
    with pytest.raises(ValueError, match="'color'"):
        edits.from_json({"edit": "Cut", "layer": "a", "color": 1})
    with pytest.raises(ValueError, match="Window"):
        edits.from_json({"edit": "Window", "layer": "a"})
    with pytest.raises(ValueError, match="name of a run"):
        edits.Mean("a", over=Inspection(layers=())).to_json()
