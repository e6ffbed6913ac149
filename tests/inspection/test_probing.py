"""Modules that no adapter knows, driven with unit values: exact maps and honest labels."""

import math
import re

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError, NothingCapturedError, Port, Probe, RoundingWarning
from tests.inspection import softmax_models

STEPS, HEADS, WIDTH = 11, 3, 4
MODEL = HEADS * WIDTH


class Fading(nn.Module):
    """Linear attention of nobody's: weights fade with the root of the distance."""

    def __init__(self, *, act=nn.Identity(), norm=nn.Identity(), bias=True):  # noqa: B008
        super().__init__()
        self.q_proj, self.k_proj = nn.Linear(MODEL, MODEL), nn.Linear(MODEL, MODEL)
        self.v_proj, self.out = nn.Linear(MODEL, MODEL), nn.Linear(MODEL, MODEL, bias=bias)
        self.act, self.norm = act, norm

    def weights(self, x):
        q, k = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj))
        at = torch.arange(x.shape[1], dtype=x.dtype)
        lag = (at[:, None] - at).clamp(min=0)
        return ((q @ k.mT) * (-lag.sqrt()).exp()).tril()

    def forward(self, x):
        v = self.act(self.v_proj(x)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        mixed = (self.weights(x) @ v).transpose(1, 2).flatten(2)
        return self.out(self.norm(mixed))


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture
def x():
    return torch.randn(2, STEPS, MODEL)


def test_an_unknown_mixer_gets_its_exact_map(x):
    module = Fading()
    layer = dsf.probe(module, x)
    expected = module.double().weights(x.double())
    torch.testing.assert_close(layer.map(), expected, atol=1e-12, rtol=0)
    assert layer.axes == ("sample", "head")
    assert layer.error < 1e-14
    words = r"from v_proj to out\(input\) in \d+ passes: linear \(.*e-1\d\), causal$"
    assert re.search(words, layer.mixer.label)


def test_a_pass_drives_as_many_tokens_as_a_head_has_channels(x):
    """One as it is, five for superposition, two for what is added and the heads, one to check."""
    label = dsf.probe(Fading(), x, value="v_proj", response="out(input)").mixer.label
    units = math.ceil(STEPS / WIDTH)
    assert f"in {1 + 5 + 1 + 1 + 1 + units} passes" in label


def test_a_norm_behind_the_scan_is_left_out(x):
    layer = dsf.probe(Fading(norm=nn.LayerNorm(MODEL)), x)
    assert "from v_proj to norm(input)" in layer.mixer.label
    assert layer.map().shape == (2, HEADS, STEPS, STEPS)


def test_values_behind_an_activation(x):
    module = Fading(act=nn.SiLU())
    layer = dsf.probe(module, x, value="act", response="out(input)")
    expected = module.double().weights(x.double())
    torch.testing.assert_close(layer.map(), expected, atol=1e-12, rtol=0)
    with pytest.raises(NothingCapturedError, match="superposition"):
        dsf.probe(module.float(), x, value="v_proj", response="out(input)")


def test_a_mixer_that_is_not_linear_says_by_how_much(x):
    class Bent(Fading):
        def forward(self, x):
            return self.out(self.v_proj(x).logcumsumexp(dim=1))

    words = r"no token mixer could be read.*not linear in its values: superposition error \d\.\de"
    with pytest.raises(NothingCapturedError, match=words):
        dsf.probe(Bent(), x)


class Beside(nn.Module):
    """A mixer of nobody's, one of torch's, and one that is not linear."""

    def __init__(self):
        super().__init__()
        self.mine, self.bent = Fading(), Fading(act=nn.Tanh())
        self.known = nn.GRU(MODEL, 3, batch_first=True)

    def forward(self, x):
        return self.known(self.bent(self.mine(x)))


def test_in_an_inspection_beside_known_layers(x):
    model = Beside()
    before = {name: part.clone() for name, part in model.state_dict().items()}
    inspection = dsf.inspect(model, x, probe=("mine", "bent"))
    assert [layer.name for layer in inspection] == ["mine", "bent", "known[layer 0]"]
    assert "from v_proj" in inspection[0].mixer.label
    assert "from act" in inspection[1].mixer.label
    assert inspection[0].formula <= inspection[0].tolerance == 1e-12
    assert inspection[0].error < 1e-6
    after = model.state_dict()
    assert all(torch.equal(part, before[name]) for name, part in after.items())
    assert {part.dtype for part in after.values()} == {torch.float32}
    assert all(not part._forward_hooks for part in model.modules())
    assert {record["layer"] for record in inspection.measure()} >= {"mine"}


def test_what_cannot_be_driven_is_listed_with_its_error(x):
    how = {"bent": Probe(value="v_proj", response="out(input)")}
    inspection = dsf.inspect(Beside(), x, probe=how)
    (missed,) = [one for one in inspection.unsupported if one.name == "bent"]
    assert "superposition error" in missed.reason


class Pool(nn.Module):
    """Linear in its input; every channel has a filter of its own, which looks ahead."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Conv1d(MODEL, MODEL, 3, padding=1, groups=MODEL)

    def forward(self, x):
        return self.filter(x.mT).mT


def test_a_module_that_is_linear_in_its_input(x):
    module = Pool()
    layer = dsf.probe(module, x)
    assert layer.axes == ("sample", "channel")
    taps = module.filter.weight.detach().double().squeeze(1)
    for lag in (-1, 0, 1):
        band = layer.map().diagonal(-lag, dim1=-2, dim2=-1)
        expected = taps[:, 1 - lag, None].expand(2, -1, STEPS - abs(lag))
        torch.testing.assert_close(band, expected)
    assert "reads later tokens" in layer.mixer.label
    assert "and a constant" in layer.mixer.label


class Filtered(nn.Module):
    """A causal filter for every channel by Fourier transforms; no projection tells channels."""

    def __init__(self, order="btc"):
        super().__init__()
        self.order, self.taps = order, nn.Parameter(torch.randn(MODEL, STEPS))

    def forward(self, x):
        x = torch.einsum(f"{self.order}->bct", x)
        spectra = torch.fft.rfft(x, 2 * STEPS) * torch.fft.rfft(self.taps, 2 * STEPS)
        mixed = torch.fft.irfft(spectra, 2 * STEPS)[..., :STEPS]
        return torch.einsum(f"bct->{self.order}", mixed)


@pytest.mark.parametrize("samples", [2, MODEL, STEPS])
@pytest.mark.parametrize("order", ["btc", "bct", "tbc", "tc", "bt"])
def test_a_convolution_by_fourier_transforms(order, samples):
    sizes = {"b": samples if "b" in order else 1, "t": STEPS, "c": MODEL if "c" in order else 1}
    module = Alone(order) if len(order) == 2 else Filtered(order)
    torch.manual_seed(samples)
    layer = dsf.probe(module, torch.randn(*(sizes[axis] for axis in order)))
    assert layer.axes == ("sample", "channel")
    assert tuple(layer.map().shape) == (sizes["b"], sizes["c"], STEPS, STEPS)
    assert re.search(r"causal up to rounding \(\de-1\d\)$", layer.mixer.label)
    taps = module.taps.detach().double()[: sizes["c"]]
    for lag in range(STEPS):
        band = layer.map().diagonal(-lag, dim1=-2, dim2=-1)
        expected = taps[:, lag, None].expand(sizes["b"], -1, STEPS - lag)
        torch.testing.assert_close(band, expected, rtol=0, atol=1e-6)


class Alone(Filtered):
    """The same without an axis of samples, or with one channel and no axis for it."""

    def __init__(self, order):
        super().__init__()
        self.left = order
        self.taps = nn.Parameter(torch.randn(MODEL if "c" in order else 1, STEPS))

    def forward(self, x):
        x = x.unsqueeze(0) if self.left == "tc" else x.unsqueeze(-1)
        mixed = super().forward(x)
        return mixed.squeeze(0) if self.left == "tc" else mixed.squeeze(-1)


@pytest.mark.parametrize("outputs", [2, 3])
def test_channels_that_mix(outputs):
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = nn.Conv1d(3, outputs, 2)

        def forward(self, x):
            return self.filter(nn.functional.pad(x.mT, (1, 0))).mT

    module = Mixing()
    layer = dsf.probe(module, torch.randn(2, 5, 3))
    assert layer.axes == ("sample", "output", "input")
    assert layer.map().shape == (2, outputs, 3, 5, 5)
    taps = module.filter.weight.detach().double()
    torch.testing.assert_close(layer.map()[0, :, :, 4, 4], taps[..., 1])
    torch.testing.assert_close(layer.map()[1, :, :, 4, 3], taps[..., 0])


def test_the_response_may_have_another_length(x):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Linear(MODEL, 6)

        def forward(self, x, memory):
            return (x @ memory.mT).tanh() @ self.value(memory)

    memory = torch.randn(2, 7, MODEL)
    layer = dsf.probe(Reader(), x, memory)
    assert layer.map().shape == (2, 1, STEPS, 7)


QKV = Port("c_attn", lambda qkv: qkv.chunk(3, dim=-1)[2])
LIBRARY = {
    "gpt2": Probe(value=QKV, response="c_proj(x)"),
    "llama": Probe(),  # v_proj and o_proj(input), two query heads for every head of values
}


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_model_is_read_like_its_attention_interface(name):
    model, given = softmax_models.build(name).double(), softmax_models.inputs(name, padded=True)
    known = dsf.inspect(model, **given)[0]
    probed = dsf.inspect(model, probe={known.name: LIBRARY[name]}, **given)
    driven = next(layer for layer in probed if layer.name == known.name)
    torch.testing.assert_close(driven.map(), known.map(), atol=1e-12, rtol=0)
    assert probed.unsupported == ()
    assert driven.axes == ("sample", "head")


def test_an_output_that_was_altered_once_is_told_of(x):
    module = Fading()
    calls = []
    module.register_forward_hook(
        lambda _m, _i, out: out if calls.append(0) or len(calls) > 1 else out * 1.01
    )
    with pytest.warns(RoundingWarning, match=r"1\.0e-02"):
        layer = dsf.inspect(module, x, probe=("",))[0]
    assert layer.formula < 1e-12
    assert 9e-3 < layer.rounding == layer.error < 1.1e-2


@pytest.mark.parametrize(
    ("ports", "words"),
    [
        ({"value": "w_proj"}, "has no submodule or method 'w_proj'"),
        ({"value": "v_proj(output)"}, "was not given a tensor 'output'.*was given: input"),
        ({"value": "v_proj", "response": "act(x)"}, "was not given a tensor 'x'"),
        ({"value": Port("v_proj", lambda v: v[..., 0])}, r"must be sample, time, channel"),
    ],
)
def test_a_port_that_is_not_there(x, ports, words):
    with pytest.raises(InspectionError, match=words):
        dsf.probe(Fading(), x, **ports)


@pytest.mark.usefixtures("our_own_errors")
def test_what_is_asked_for_wrongly(x):
    with pytest.raises(InspectionError, match="'nine'"):
        dsf.inspect(Beside(), x, probe=("nine",))
    with pytest.raises(TypeError, match="'mine'"):
        dsf.inspect(Beside(), x, probe="mine")
    with pytest.raises(TypeError, match=r"needs a dsf.inspection.Probe"):
        dsf.inspect(Beside(), x, probe={"mine": "v_proj"})
    with pytest.raises(ValueError, match="'v_proj'"):
        Port("v proj")
