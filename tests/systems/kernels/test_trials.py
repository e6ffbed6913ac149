"""A kernel agrees with the plain path on the device at hand, or it is off and torch goes on."""

import math
import warnings

import pytest
import torch

from dsf.cli import doctor
from dsf.evaluate import compiled as cuda
from dsf.evaluate import compiled as trial_results
from dsf.evaluate.chunks import _run
from dsf.evaluate.compiled import MAPS, NAMES, TOLERANCE, all_trial_results, has_passed
from dsf.evaluate.windows import forward_rows

HERE = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch):
    trial_results.forget_trials()
    monkeypatch.setattr(trial_results, "why_off_on_cuda", lambda: "")
    yield
    trial_results.forget_trials()


def never():
    raise AssertionError("it was tried again")


def test_one_that_agrees_is_tried_once_for_every_kind():
    assert trial_results.trial_result(MAPS, HERE) == "not tried"
    assert has_passed(MAPS, HERE, 16, lambda: TOLERANCE)
    assert has_passed(MAPS, HERE, 16, never)
    assert trial_results.trial_result(MAPS, HERE) == "active"
    with pytest.warns(RuntimeWarning, match="AssertionError: it was tried again"):
        assert not has_passed(MAPS, HERE, 32, never)
    assert not has_passed(MAPS, HERE, 16, never)
    assert trial_results.trial_result(MAPS, torch.device("meta")) == "not tried"


@pytest.mark.parametrize("error", [2 * TOLERANCE, math.nan, math.inf])
def test_one_that_disagrees_is_off_after_one_warning(error):
    with pytest.warns(RuntimeWarning, match="cpu") as told:
        assert not has_passed(MAPS, HERE, 16, lambda: error)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not has_passed(MAPS, HERE, 16, lambda: 0.0)
    assert trial_results.trial_result(MAPS, HERE).startswith("off: its relative error is")


def test_the_switch_turns_all_off(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("DSF_KERNELS", "0")
    assert set(all_trial_results(HERE).values()) == {"off: DSF_KERNELS=0 turns them off"}


STRUCTURES = ("scalar", "diagonal", "scalar delta", "diagonal delta", "sampled")


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("before", [False, True])
def test_a_trial_passes_what_is_right(structure, before):
    """In single precision, by another way than the one that judges."""

    def run(system, signal):
        return _run(system, signal, 32)

    sizes = {"states": 5, "before": before}
    assert cuda.response_error(run, HERE, structure, channels=3, **sizes) < TOLERANCE / 10
    assert cuda.rows_error(forward_rows, HERE, structure, **sizes) < TOLERANCE / 10


def broken(flaw):
    def run(system, signal):
        response, state = _run(system, signal, 32)
        flaw(response, state)
        return response, state

    return run


@pytest.mark.parametrize(
    "flaw",
    [
        lambda response, _: response[-1, -1, 64:].mul_(1 + 1e-3),
        lambda response, _: response[..., -1].add_(1e-3),
        lambda _, state: state[0, -1, -1].add_(1e-3),
        lambda response, _: response[0, 0, 0].fill_(math.nan),
    ],
    ids=["last chunk", "last channel", "last state", "nan"],
)
def test_a_trial_sees_what_is_wrong(flaw):
    error = cuda.response_error(broken(flaw), HERE, "scalar", states=5, channels=3, before=False)
    assert not error <= TOLERANCE


def test_a_trial_sees_a_wrong_row():
    def rows(system, borders):
        for found in forward_rows(system, borders):
            found[..., -1, 64:] *= 1 + 1e-3
            yield found

    assert cuda.rows_error(rows, HERE, "scalar", states=5, before=False) > TOLERANCE


def test_doctor_tells_of_every_kernel(monkeypatch):
    states = dict.fromkeys(NAMES, "active") | {MAPS: "off: its relative error is 1e-02"}
    monkeypatch.setattr("dsf.systems.kernels.why_off_on_cuda", lambda: "")
    monkeypatch.setattr("dsf.evaluate.compiled.all_trial_results", lambda _: states)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    told = {each.what: (each.found, each.verdict) for each in doctor._kernels_on_cuda()}
    assert told["cuda: maps"] == ("off: its relative error is 1e-02", "optional")
    assert told["cuda: delta rules"] == ("active", "ok")
    monkeypatch.setattr("dsf.systems.kernels.why_off_on_cuda", lambda: "no CUDA device")
    (one,) = doctor._kernels_on_cuda()
    assert (one.found, one.verdict) == ("off: no CUDA device", "optional")
