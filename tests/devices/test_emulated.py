"""The emulated accelerator itself: it refuses, counts and lacks what it is said to."""

from dataclasses import replace

import pytest
import torch

import dsf
from dsf.evaluate import windows
from dsf.runtime.number_types import has_double
from tests.devices.conftest import STEPS, mixer_there
from tests.devices.emulated import KIND, SINGLE_ONLY, traffic
from tests.mixers.mixer_fields import draw

THERE = f"{KIND}:0"


def test_tensors_of_two_devices_do_not_meet():
    there = torch.ones(2, device=THERE)
    for other in (torch.ones(2), torch.ones(2, device=f"{KIND}:1")):
        with pytest.raises(RuntimeError, match="device"):
            there + other
    assert (there + torch.tensor(1.0)).tolist() == [2.0, 2.0]  # a single number is a parameter


def test_copies_are_counted():
    with traffic() as seen:
        there = torch.ones(3).to(THERE)
        (there + 1).sum().item()
        there.cpu()
        there.to(f"{KIND}:1")
    assert (seen.sent, seen.fetched, seen.asked) == ([12, 12], [12], 1)


def test_one_has_no_double_precision():
    single = torch.device(KIND, SINGLE_ONLY)
    assert has_double(torch.device(THERE))
    assert not has_double(single)
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(1, device=single).double()


def test_numpy_needs_a_copy():
    with pytest.raises(TypeError, match="copy"):
        torch.ones(1, device=THERE).numpy()


def test_a_processor_tensor_in_one_path_is_caught(monkeypatch):
    """The mask of the decays between tokens, made without saying where."""
    system = mixer_there(draw(dsf.mixers.GatedLinearAttention, STEPS), torch.device(THERE)).system()

    def planted(decay):
        token = torch.arange(decay.shape[-2])
        later = (token[:, None] > token).unsqueeze(-1)
        running = torch.where(later, decay.unsqueeze(-2), 1).cumprod(dim=-3)
        return torch.where((token[:, None] >= token).unsqueeze(-1), running, 0)

    assert dsf.attention_map(system).device == torch.device(THERE)
    monkeypatch.setattr(windows, "products", planted)
    with pytest.raises(RuntimeError, match="cpu"):
        dsf.attention_map(system)


def test_a_copy_in_one_path_is_caught():
    mixer = draw(dsf.mixers.DeltaNet, STEPS)
    there = mixer_there(mixer, torch.device(THERE))
    with traffic() as seen:
        dsf.respond(replace(there, rate=there.rate.cpu().to(THERE)).system(), there.signal())
    assert (len(seen.sent), len(seen.fetched)) == (1, 1)
