"""Edits and roundings on an accelerator: the numbers of the processor."""

import pytest
import torch

import dsf
from dsf import mixers
from dsf.interventions import edits
from dsf.interventions.edited_mixing import EditedMixer, edited_response
from dsf.interventions.state_budget import (
    bound,
    forecast,
    noise_weight,
    replayed,
    rounded_at_random,
)
from tests.devices.conftest import mixer_there
from tests.devices.emulated import KIND
from tests.devices.test_inspection_there import placed
from tests.mixers.mixer_fields import draw

MAP = (
    edits.Cut(0, key=2, samples=[0]),
    edits.Scale(0, 0.5, query=[1, 5], samples=[0]),
    edits.Window(0, 3),
    edits.Sink(0, keep=True),
    edits.Negative(0),
    edits.Forget(0, 4),
    edits.Reduce(0, 1, 4),
    edits.Ablate(0, samples=[1]),
    edits.Mean(0),
)
STATE = (edits.Protect(0, key=1, from_=3), edits.RoundState(0, bits=4, samples=[0]))
RENORMALISED = (edits.Cut(0, key=2, renormalise=True),)


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        *((mixers.GatedDeltaNet, edit) for edit in (*MAP, *STATE)),
        *((mixers.SoftmaxAttention, edit) for edit in (*MAP, *RENORMALISED)),
    ],
    ids=lambda each: getattr(each, "__name__", type(each).__name__),
)
def test_an_edited_response_is_that_of_the_processor(kind, edit):
    here = draw(kind, 9)
    there = mixer_there(here, torch.device(KIND, 0))
    found, wanted = (edited_response(EditedMixer("", one, {}), [edit]) for one in (there, here))
    assert found.device.type == KIND
    torch.testing.assert_close(found.cpu(), wanted)


@pytest.mark.parametrize(
    "asked",
    [
        lambda system, signal: forecast(system, signal, 4, feedback=True),
        lambda system, signal: bound(system, signal, 4),
        lambda system, signal: replayed(system, system.states(signal)),
        lambda system, signal: noise_weight(system, signal, signal),
        lambda system, signal: rounded_at_random(
            system.states(signal), 4, torch.Generator().manual_seed(0)
        ),
    ],
    ids=["forecast", "bound", "replayed", "noise", "at random"],
)
def test_what_roundings_do_is_computed_there(asked):
    here = draw(mixers.GatedDeltaNet, 9)
    there = mixer_there(here, torch.device(KIND, 0))
    found, wanted = (asked(one.system(), one.signal()) for one in (there, here))
    assert found.device.type == KIND
    torch.testing.assert_close(found.cpu(), wanted)


def test_a_model_there_is_edited_and_swept():
    model, _, named = placed("mamba2", torch.device(KIND, 0))
    rounded = dsf.intervene(model, edits=[edits.RoundState("*", bits=4)], **named)
    assert rounded.output.device.type == KIND
    cuts = [edits.Cut("*", key=token) for token in (1, 2)]
    effects = dsf.sweep(model, edits=cuts, target=3, **named)
    alone = [dsf.intervene(model, edits=cut, **named).effect(3) for cut in cuts]
    torch.testing.assert_close(effects.cpu(), torch.stack(alone).cpu(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["mamba2", "mamba"])
def test_states_are_taken_out_of_a_model_there(name):
    model, _, named = placed(name, torch.device(KIND, 0))
    found = dsf.interventions.reduce_states(model, [named], states=2)
    assert {part.device.type for part in found.model.parameters()} == {KIND}
    here, _, named = placed(name, torch.device("cpu"))
    wanted = dsf.interventions.reduce_states(here, [named], states=2)
    assert found.error == pytest.approx(wanted.error, rel=1e-3)


def test_values_of_another_run_are_taken_over_there():
    model, _, named = placed("mamba2", torch.device(KIND, 0))
    other = dsf.inspect(model, **named)
    taken = edits.ValueFrom("*", other="other", tokens=[2])
    found = dsf.intervene(model, edits=taken, sources={"other": other}, **named)
    torch.testing.assert_close(found.output.cpu(), found.clean.cpu())
