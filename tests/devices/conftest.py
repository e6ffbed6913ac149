"""The emulated device, with double precision and without, and the mixers on it."""

from dataclasses import replace

import pytest
import torch

from tests.devices.emulated import KIND, SINGLE_ONLY, emulated_device
from tests.mixers.mixer_fields import draw, tensors

STEPS = 9
SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}


def moved(part, device):
    """A tensor on the device, in a number type that the device has."""
    dtype = SINGLE.get(part.dtype, part.dtype) if device.index == SINGLE_ONLY else part.dtype
    return part.to(dtype).to(device)


def mixer_there(mixer, device):
    parts = {name: moved(part, device) for name, part in tensors(mixer).items()}
    return replace(mixer, **parts)


@pytest.fixture(autouse=True)
def _registered(request):
    """The device; no shape checks, which the same objects meet elsewhere, and no gradient threads.

    Torch starts its threads for gradients once, for the devices that are known by then.
    """
    emulated_device()
    request.getfixturevalue("our_own_errors")
    with torch.autograd.set_multithreading_enabled(False):
        yield


@pytest.fixture(params=[0, SINGLE_ONLY], ids=["double", "single only"])
def there(request):
    """A device with double precision and one without."""
    return torch.device(KIND, request.param)


@pytest.fixture
def here(mixer_class):
    """A mixer on the processor."""
    return draw(mixer_class, STEPS)


@pytest.fixture
def gone(here, there):
    """The same on the device."""
    return mixer_there(here, there)
