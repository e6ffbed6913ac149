"""Flash-linear-attention behind ``respond`` on a CUDA device, to what TF32 leaves."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import dsf
from dsf.evaluate import cuda, final_state
from dsf.evaluate.cuda import Draw, all_trial_results, answered_by_fla
from dsf.systems.kernels.cuda import fla, trial_results

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
    pytest.mark.skipif(find_spec("fla") is None, reason="flash-linear-attention is not installed"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def _asked_for(monkeypatch):
    trial_results.forget_trials()
    monkeypatch.setenv("DSF_KERNELS", "fla")
    monkeypatch.setattr(cuda, "WORTH", 0)
    yield
    trial_results.forget_trials()


def test_every_function_passes_its_trial_on_this_card():
    found = all_trial_results(torch.device("cuda", torch.cuda.current_device()))
    labels = [function.label for function in fla.FUNCTIONS.values()]
    assert {label: found[label] for label in labels} == dict.fromkeys(labels, "active")


@pytest.mark.parametrize("structure", fla.FUNCTIONS)
@pytest.mark.parametrize("steps", [1, 64, 1000])
def test_responses_and_states(structure, steps):
    """Zeros among the decays included."""
    draw = Draw(torch.device("cuda", torch.cuda.current_device()))
    system = draw.system(structure, states=64, steps=steps, before=False)
    system = replace(system, initial=draw.normal(*system.batch, 64, 48))
    signal = draw.normal(*system.batch, steps, 1, 48)
    exact = dsf.systems.algebra.converted(system, dtype=torch.float64)
    wanted = dsf.respond(exact, signal.double()), final_state(exact, signal.double())
    assert answered_by_fla(system, signal, structure) is not None
    found = dsf.respond(system, signal), final_state(system, signal)
    for ours, right in zip(found, wanted, strict=True):
        assert (ours - right).abs().max() < fla.TOLERANCE * right.abs().max()
