"""What token j contributes to token i through a whole layer, against values moved one at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dsf
from dsf.inspection.whole import stages as contribution_norms
from dsf.inspection.whole.stages import as_tokens
from tests.inspection.families.tiny_models import FAMILIES, build, inputs, skip_a_known_defect


def first_layer(family, **options):
    inspection = dsf.inspect(build(family).double(), **inputs(9, padding="left"), **options)
    return next(one for one in inspection if type(one.mixer).__name__ != "SoftmaxAttention")


def without_start(system):
    return replace(system, initial=None) if isinstance(system, dsf.System) else system


def driven(layer, tokens):
    """What the values of some tokens alone put out behind the layer, ``sample time width``."""
    alone = torch.zeros_like(layer.signal)
    alone[..., tokens, :, :] = layer.signal[..., tokens, :, :]
    response = as_tokens(dsf.respond(without_start(layer.system), alone), layer.mixer.value)
    return layer.whole.leave.linear(response)


@pytest.mark.sampled(count=9)
@pytest.mark.matrix
@pytest.mark.parametrize("family", FAMILIES)
def test_of_every_family(family):
    skip_a_known_defect(family)
    layer = first_layer(family)
    steps = layer.system.steps
    alone = torch.stack([driven(layer, [token]) for token in range(steps)], dim=2)
    expected = torch.linalg.vector_norm(alone, dim=-1)
    assert expected.abs().max() > 0
    close = {"rtol": 1e-10, "atol": 1e-13 * float(expected.max())}
    torch.testing.assert_close(layer.contribution_norms(), expected, **close)
    bounds, ends = [(0, 2), (2, 4), (4, 6), (6, 9)], [1, 3, 5, 8]
    grouped = torch.stack([driven(layer, range(*span)) for span in bounds], dim=2)
    expected = torch.linalg.vector_norm(grouped, dim=-1)[:, ends]
    torch.testing.assert_close(layer.contribution_norms(groups=4), expected, **close)
    whole = torch.linalg.vector_norm(driven(layer, range(9)), dim=-1)[:, -1:, None]
    torch.testing.assert_close(layer.contribution_norms(groups=1), whole, **close)


def test_some_rows(of_channels):
    layer = of_channels(steps=9, channels=3)
    expected = layer.contribution_norms()
    for rows in (slice(1, 8, 3), slice(2, 5), slice(-2, None)):
        torch.testing.assert_close(layer.contribution_norms(rows), expected[:, rows])
    torch.testing.assert_close(layer.contribution_norms(-1), expected[:, -1:])
    torch.testing.assert_close(layer.contribution_norms(groups=99), expected)


@pytest.mark.parametrize("family", ["mamba", "mamba2", "xlstm"])
def test_a_few_rows_at_a_time(family, monkeypatch):
    layer = first_layer(family)
    expected = layer.contribution_norms(), layer.contribution_norms(groups=4)
    monkeypatch.setattr(contribution_norms, "ROOM", 2**18)
    monkeypatch.setattr(contribution_norms, "TOGETHER", 2)  # tokens of a group at a time
    found = layer.contribution_norms(), layer.contribution_norms(groups=4)
    torch.testing.assert_close(found, expected)


def silu(x):
    return x / (1 + np.exp(-x))


def test_of_mamba_by_loops():
    """The same in plain loops over the weights of the module: maps, gate and projection."""
    model = build("mamba").double()
    given = inputs(7)
    seen = []
    mixer = next(part for part in model.modules() if type(part).__name__ == "MambaMixer")
    hook = mixer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend([*args, *kwargs.values()][:1]),
        with_kwargs=True,
    )
    layer = dsf.inspect(model, layers=0, **given)[0]
    hook.remove()
    weights = {name: part.detach().numpy() for name, part in mixer.named_parameters()}
    hidden = seen[0].detach().numpy()
    projected = hidden @ weights["in_proj.weight"].T + weights.get("in_proj.bias", 0)
    x, z = np.split(projected, 2, axis=-1)
    samples, steps, channels = x.shape
    taps = weights["conv1d.weight"].shape[-1]
    value = np.zeros_like(x)
    for t in range(steps):
        for k in range(max(0, t - taps + 1), t + 1):
            value[:, t] += weights["conv1d.weight"][:, 0, taps - 1 - t + k] * x[:, k]
    value = silu(value + weights["conv1d.bias"])
    raw = value @ weights["x_proj.weight"].T
    states = weights["A_log"].shape[1]
    tau, write, read = np.split(raw, [raw.shape[-1] - 2 * states, raw.shape[-1] - states], axis=-1)
    step = np.log1p(np.exp(tau @ weights["dt_proj.weight"].T + weights["dt_proj.bias"]))
    pole = -np.exp(weights["A_log"])
    expected = np.zeros((samples, steps, steps))
    for s in range(samples):
        for i in range(steps):
            for j in range(i + 1):
                vector = np.zeros(channels)
                for c in range(channels):
                    decay = np.exp(step[s, j + 1 : i + 1, c].sum() * pole[c])
                    weight = (read[s, i] * decay * step[s, j, c] * write[s, j]).sum()
                    weight += weights["D"][c] * (i == j)
                    vector[c] = weight * value[s, j, c] * silu(z[s, i, c])
                expected[s, i, j] = np.linalg.norm(weights["out_proj.weight"] @ vector)
    found = layer.contribution_norms().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(layer.contribution_norms(groups=7), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_of_some_heads(family):
    every = first_layer(family)
    count = every.system.batch[-1]
    wanted = [0, count - 1]
    some = first_layer(family, heads=wanted)
    others = first_layer(family, heads=list(range(1, count - 1)))
    alone, rest = (each.contribution_norms() for each in (some, others))
    assert not torch.allclose(alone, every.contribution_norms())
    assert (every.contribution_norms() <= alone + rest + 1e-12).all()
    zero = replace(every.mixer, value=every.mixer.value.clone())
    width = every.mixer.value.shape[-1] if every.mixer.value.ndim == 4 else 1
    by_head = zero.value if zero.value.ndim == 4 else zero.value.mT.unsqueeze(-1)
    by_head[:, 1 : count - 1] = 0
    assert by_head.shape[-1] == width
    silenced = replace(every, mixer=zero, fingerprint=None)
    torch.testing.assert_close(alone, silenced.contribution_norms())


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if isinstance(found, torch.Tensor) and "expand" not in str(func):
            self.numbers = max(self.numbers, found.untyped_storage().nbytes() // 8)
        return found


@pytest.mark.parametrize("options", [{}, {"groups": 12}], ids=["tokens", "groups"])
def test_the_maps_of_all_channels_are_never_there_at_once(options, monkeypatch, of_channels):
    layer, numbers = of_channels(steps=96, channels=96), 96**3
    monkeypatch.setattr(contribution_norms, "ROOM", 2**19)
    expected = layer.contribution_norms(**options)
    with Largest() as largest:
        found = layer.contribution_norms(**options)
    torch.testing.assert_close(found, expected)
    assert largest.numbers < 2 * 2**19 / 8 < numbers / 6


@pytest.fixture
def of_channels():
    def build(*, steps, channels):
        rng = torch.Generator().manual_seed(0)
        make = lambda *size: torch.rand(*size, generator=rng, dtype=torch.float64)  # noqa: E731
        mixer = dsf.mixers.SelectiveStateSpace(
            value=make(1, steps, channels) - 0.5,
            step=make(1, steps, channels),
            pole=-make(channels, 4),
            write=make(1, steps, 4),
            read=make(1, steps, 4),
        )
        return dsf.inspection.InspectedLayer(
            name="it",
            family="drawn",
            mixer=mixer,
            axes=("sample", "channel"),
            error=0.0,
            tolerance=1.0,
        )

    return build


def test_a_mixer_alone(of_channels):
    layer = of_channels(steps=6, channels=3)
    contributions = layer.map() * layer.signal[..., 0, 0].unsqueeze(-2)
    expected = torch.linalg.vector_norm(contributions, dim=1)
    torch.testing.assert_close(layer.contribution_norms(), expected)
    torch.testing.assert_close(layer.contribution_norms(groups=6), expected)


@pytest.mark.usefixtures("our_own_errors")
def test_what_cannot_be_asked_for(of_channels):
    layer = of_channels(steps=6, channels=3)
    with pytest.raises(IndexError, match="row 6"):
        layer.contribution_norms(6)
    with pytest.raises(IndexError, match="select no token"):
        layer.contribution_norms(slice(3, 3))
    with pytest.raises(ValueError, match="'groups' is 0"):
        layer.contribution_norms(groups=0)
    with pytest.raises(ValueError, match="give one of them"):
        layer.contribution_norms(2, groups=2)
