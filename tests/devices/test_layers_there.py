"""Every trainable layer on an accelerator: forward, backward and token by token."""

import pytest
import torch

from tests.devices.emulated import SINGLE_ONLY, traffic
from tests.layers.conftest import CASES


@pytest.mark.sampled("name")
@pytest.mark.parametrize("name", CASES)
def test_a_layer_runs_and_trains_there(name, there):
    case = CASES[name]
    layer, x = case.drawn(), case.tokens()
    single = there.index == SINGLE_ONLY
    if single:
        layer, x = layer.float(), x.float()
    expected = layer(x)
    expected.square().sum().backward()
    grads = {path: part.grad for path, part in layer.named_parameters()}
    layer.zero_grad()
    layer, x = layer.to(there), x.to(there)
    with traffic() as seen:
        output = layer(x)
        output.square().sum().backward()
        if layer.causal:
            _, memory = layer.step(x[:, 0])
            layer.step(x[:, 1], memory)
    assert (seen.sent, seen.fetched) == ([], [])
    limits = {"rtol": 1e-3, "atol": 1e-3} if single else {"rtol": 1e-9, "atol": 1e-9}
    assert output.device == there
    torch.testing.assert_close(output.detach().cpu(), expected.detach(), **limits)
    for path, part in layer.named_parameters():
        if grads[path] is not None:
            scale = max(1.0, grads[path].abs().max().item())
            torch.testing.assert_close(part.grad.cpu() / scale, grads[path] / scale, **limits)
