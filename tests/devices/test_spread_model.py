"""A model spread over devices: every layer is rebuilt where it lies.

Its blocks have the hooks that accelerate's ``device_map`` gives them: a forward function of the
module's own that first moves what it is given.
"""

from functools import partial, update_wrapper

import pytest
import torch

import dsf
from dsf.inspection import InspectionError
from tests.devices.emulated import KIND, SINGLE_ONLY
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models


def moved(part, device):
    if isinstance(part, torch.Tensor):
        return part.to(device)
    if type(part) in (tuple, list):
        return type(part)(moved(one, device) for one in part)
    return part


def placed(module, device):
    """The module on the device, with the hook that moves its arguments there."""
    plain = type(module).forward

    def forward(module, *args, **kwargs):
        kwargs = {name: moved(part, device) for name, part in kwargs.items()}
        return plain(module, *moved(args, device), **kwargs)

    module.to(device)
    module.forward = update_wrapper(partial(forward, module), plain.__get__(module))


def spread(name, devices):
    source = softmax_models if name in softmax_models.BUILT else tiny_models
    model = source.build(name)
    placed(model, devices[0])
    blocks = model.model.layers if name == "llama" else model.backbone.layers
    for block, device in zip(blocks, devices, strict=False):
        placed(block, device)
    for path, part in model.named_modules():
        if path.endswith(("norm_f", "model.norm", "lm_head")):
            placed(part, devices[-1])
    named = source.inputs(name) if source is softmax_models else source.inputs(12)
    return model, {key: part.to(devices[0]) for key, part in named.items()}


@pytest.mark.parametrize("name", ["llama", "mamba2"])
@pytest.mark.parametrize("indices", [(0, 1), (1, SINGLE_ONLY)], ids=str)
def test_every_layer_is_rebuilt_where_it_lies(name, indices):
    devices = [torch.device(KIND, index) for index in indices]
    model, named = spread(name, devices)
    homes = [device if device.index != SINGLE_ONLY else torch.device("cpu") for device in devices]
    inspection = dsf.inspect(model, **named)
    assert [layer.system.device for layer in inspection] == homes
    assert [layer.map().device for layer in inspection] == homes
    assert [layer.mixer_map().device for layer in inspection] == homes
    assert max(layer.formula for layer in inspection) <= 1e-12
    assert len(inspection.measure()) > 0


def test_a_model_on_one_device_has_the_same_maps():
    model, named = spread("llama", [torch.device(KIND, 0), torch.device(KIND, 1)])
    alone = dsf.inspect(softmax_models.build("llama"), **softmax_models.inputs("llama"))
    for layer, other in zip(dsf.inspect(model, **named), alone, strict=True):
        torch.testing.assert_close(layer.map().cpu(), other.map(), rtol=1e-4, atol=1e-5)


def test_offloaded_weights_are_refused_with_the_cure():
    model = softmax_models.build("llama")
    model.model.layers[1].to("meta")
    with pytest.raises(InspectionError, match=r"layers\.1.*offloaded"):
        dsf.inspect(model, **softmax_models.inputs("llama"))
