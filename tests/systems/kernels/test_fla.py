"""Flash-linear-attention behind ``respond``: what it is given, when, and that a trial guards it."""

import sys
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf.cli import doctor
from dsf.evaluate import cuda
from dsf.evaluate.chunks import _run
from dsf.evaluate.cuda import all_trial_results, by_head, fla_has_passed, recalled_by_fla
from dsf.mixers import (
    DeltaNet,
    GatedDeltaNet,
    GatedLinearAttention,
    KimiDeltaAttention,
    Retention,
    StateSpaceDuality,
)
from dsf.systems.kernels import availability
from dsf.systems.kernels.cuda import fla, trial_results
from dsf.systems.transition import Diagonal, DiagonalPlusLowRank
from tests.mixers.mixer_fields import draw, tensors
from tests.systems.kernels import fla_stand_in

HERE = torch.device("cpu")
LABELS = tuple(function.label for function in fla.FUNCTIONS.values())
ROUNDING = 1e-5  # of single precision


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch):
    """In place of the library, with a processor taken for a card."""
    trial_results.forget_trials()
    fla_stand_in.installed(monkeypatch)
    monkeypatch.setenv("DSF_KERNELS", "fla")
    monkeypatch.setattr(availability, "CUDA", "cpu")
    for module in (availability, trial_results):
        monkeypatch.setattr(module, "why_off_on_cuda", lambda: "")
    monkeypatch.setattr(cuda, "WORTH", 0)
    yield
    trial_results.forget_trials()


def drawn(structure="scalar", **options):
    of = cuda.Draw(HERE)
    system = of.system(structure, states=5, steps=40, **{"before": False} | options)
    return system, of.normal(*cuda.BATCH, 40, 1, 3)


@pytest.mark.parametrize("structure", fla.FUNCTIONS)
@pytest.mark.parametrize("states", [1, 5])
def test_parts_states_and_exact_zeros(structure, states):
    sizes = {"states": states, "channels": 3, "before": False}
    assert cuda.response_error(recalled_by_fla, HERE, structure, **sizes) < ROUNDING


@pytest.mark.parametrize(
    "mixer_class",
    [
        DeltaNet,
        GatedDeltaNet,
        GatedLinearAttention,
        KimiDeltaAttention,
        Retention,
        StateSpaceDuality,
    ],
)
def test_layers(mixer_class):
    mixer = draw(mixer_class, 20)
    system, signal = mixer.system(), mixer.signal()
    assert_close(recalled_by_fla(system, signal)[0], dsf.respond(system, signal))


def test_a_key_and_its_rate_are_found_again():
    mixer = draw(GatedDeltaNet, 20)
    mixer = replace(mixer, rate=mixer.rate.where(mixer.rate > 0.5, 0))
    given = fla.call(*by_head(mixer.system(), mixer.signal())).arguments
    assert_close(given["beta"].squeeze(2), mixer.rate)
    assert_close(given["g"].squeeze(2), mixer.log_decay)
    assert_close(given["k"].squeeze(2), mixer.key.where(mixer.rate[..., None] > 0, 0))


def test_decays_at_the_edge_of_single_precision():
    mixer = draw(GatedDeltaNet, 20)
    fields = {name: part.float() for name, part in tensors(mixer).items()}
    fields["log_decay"][:, ::3] = -95.0
    mixer = GatedDeltaNet(**fields)
    system, signal = mixer.system(), mixer.signal()
    assert_close(recalled_by_fla(system, signal)[0], dsf.respond(system, signal))


def refused():
    system, signal = drawn("diagonal")
    yield replace(system, A=Diagonal(-system.A.decay)), signal
    one = torch.ones(fla.MOST_HEADS + 1, 1, 1)
    yield dsf.System.from_write_and_read(Diagonal(one), one, one), one.unsqueeze(-1)
    system, signal = drawn("diagonal delta")
    A = system.A
    for right in (A.right + 1e-3 * A.right.roll(1, -2), torch.zeros_like(A.right)):
        yield replace(system, A=DiagonalPlusLowRank(A.decay, A.left, right)), signal


def test_what_the_library_cannot_do_is_left_to_others():
    assert [recalled_by_fla(system, signal) for system, signal in refused()] == [None] * 4


def test_it_answers_only_where_asked(monkeypatch):
    monkeypatch.setattr(cuda, "recall_has_passed", lambda *_, **__: False)
    system, signal = drawn()
    assert cuda.answered_on_cuda(system, signal) is not None
    assert cuda.answered_on_cuda(*drawn(before=True)) is None
    monkeypatch.delenv("DSF_KERNELS")
    assert cuda.answered_on_cuda(system, signal) is None


@pytest.mark.parametrize(("off_by", "passes"), [(2e-3, True), (2e-2, False)])
def test_a_trial_lets_tf32_pass_and_no_more(off_by, passes, monkeypatch):
    def rounded(*parts, **options):
        response, state = right(*parts, **options)
        response[-1, 64:] += off_by * response.abs().max()
        return response, state

    right = fla_stand_in.walked
    monkeypatch.setattr(fla_stand_in, "walked", rounded)
    if passes:
        assert fla_has_passed(HERE, "scalar", 5, 3)
        return
    with pytest.warns(RuntimeWarning, match=r"one decay a token \(fla\)"):
        assert not fla_has_passed(HERE, "scalar", 5, 3)
    assert not fla_has_passed(HERE, "scalar", 16, 3)  # and warns no more


def test_without_the_library_it_says_so_and_goes_on(monkeypatch):
    monkeypatch.setitem(sys.modules, "fla.ops.simple_gla", None)
    monkeypatch.setattr(cuda, "recall_has_passed", lambda *_, **__: True)
    monkeypatch.setattr(cuda, "recalled", lambda system, signal: _run(system, signal, 32))
    system, signal = drawn()
    with pytest.warns(RuntimeWarning, match="ModuleNotFoundError"):
        response, _ = cuda.answered_on_cuda(system, signal)
    assert_close(response, dsf.respond(system, signal, method="recurrent"))


def test_doctor_tells_of_it_where_asked(monkeypatch):
    for module in ("recall_has_passed", "map_has_passed", "scan_has_passed"):
        monkeypatch.setattr(f"dsf.evaluate.cuda.{module}", lambda *_, **__: True)
    monkeypatch.setattr("dsf.systems.kernels.why_off_on_cuda", lambda: "")
    monkeypatch.setattr("dsf.evaluate.cuda.why_off_on_cuda", lambda: "")
    monkeypatch.setattr("dsf.evaluate.cuda.STATES", 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    found = all_trial_results(HERE)
    assert {label: found[label] for label in LABELS} == dict.fromkeys(LABELS, "active")
    monkeypatch.setattr("dsf.evaluate.cuda.all_trial_results", lambda _: found)
    told = {each.what: each.found for each in doctor._kernels_on_cuda()}
    assert told["cuda: delta rule (fla)"] == "active"
    monkeypatch.delenv("DSF_KERNELS")
    monkeypatch.undo()
    assert not set(all_trial_results(HERE)) & set(LABELS)
