"""What must not pass: each a clear error that says what is wrong and what to do about it."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import MambaConfig, MambaModel

import dsf
from dsf.evaluate.memory_plan import MapTooLarge
from dsf.inspection import (
    InspectionError,
    NonFiniteWeightsError,
    NothingCapturedError,
    ReconstructionError,
)
from dsf.inspection.families import torch_recurrent
from dsf.runtime.shapes import ShapeError
from tests.inspection.softmax_models import build, inputs


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def tiny_mamba():
    config = MambaConfig(
        vocab_size=31, hidden_size=8, state_size=4, num_hidden_layers=2, time_step_rank=3
    )
    return MambaModel(config).eval()


IDS = {"input_ids": torch.arange(1, 10)[None]}


def test_a_mixer_whose_output_was_altered():
    model = tiny_mamba()
    model.layers[1].mixer.register_forward_hook(lambda *call: call[-1] * 1.01)
    words = r"layers\.1\.mixer \(transformers.*MambaMixer, transformers \d.*read as 'mamba'\): "
    with pytest.raises(
        ReconstructionError, match=words + r"the rebuilt layer differs by 9\.9e-03 relative"
    ) as caught:
        dsf.inspect(model, strict=True, **IDS)
    assert 9.8e-3 < caught.value.formula < 1e-2
    inspection = dsf.inspect(model, **IDS)
    assert [layer.name for layer in inspection] == ["layers.0.mixer"]
    (missed,) = inspection.unsupported
    assert missed.name == "layers.1.mixer"
    assert missed.formula == caught.value.formula
    assert "differs by 9.9e-03 relative from its module in float64" in missed.reason


def test_a_mixer_whose_weights_were_altered_after_it_ran():
    model = tiny_mamba()

    def rewrite(module, *_):
        module.D.data = module.D.data + 1

    handle = model.layers[0].mixer.register_forward_hook(rewrite)
    with pytest.raises(ReconstructionError, match="exchanged"):
        dsf.inspect(model, strict=True, **IDS)
    handle.remove()


def test_a_mixer_that_lacks_a_weight():
    model = tiny_mamba()
    mixer = model.layers[0].mixer
    whole, mixer.x_proj = mixer.x_proj, nn.Sequential(mixer.x_proj)
    assert whole.weight is mixer.x_proj[0].weight
    with pytest.raises(ReconstructionError, match=r"'x_proj.weight'"):
        dsf.inspect(model, strict=True, **IDS)


def test_a_layer_that_is_altered_after_it_was_compared():
    inspection = dsf.inspect(build("llama"), **inputs("llama"))
    first, second = inspection
    first.mixer.query.mul_(2)
    for ask in (first.map, lambda: first.system, lambda: first.signal):
        with pytest.raises(ReconstructionError, match="altered"):
            ask()
    second.map()


def test_another_mixer_in_the_place_of_the_one_compared():
    layer = dsf.inspect(build("llama"), **inputs("llama"))[0]
    other = replace(layer, mixer=replace(layer.mixer, scale=1.0))
    with pytest.raises(ReconstructionError, match="altered"):
        other.map()
    assert replace(layer, name="renamed").map().shape == layer.map().shape
    assert replace(layer.mixer, scale=1.0).system().steps == 13


class RunningMaximum(nn.Module):
    """It mixes tokens, but no map of its values says how."""

    def forward(self, x):
        return x.cummax(dim=1).values


def test_an_unknown_mixer_alone():
    words = (
        r"Sequential: no token mixer could be read\. Modules that look like .*: 0 "
        r"\(.*RunningMaximum\): it mixes tokens.*a replaced token moves others by.*"
        r"It was probed, but "
    )
    with pytest.raises(NothingCapturedError, match=words):
        dsf.inspect(nn.Sequential(RunningMaximum()), torch.randn(1, 5, 4))


def test_an_unknown_mixer_beside_a_known_one_is_listed():
    model = nn.Sequential(RunningMaximum(), nn.RNN(4, 3, batch_first=True))
    inspection = dsf.inspect(model, torch.randn(1, 5, 4))
    assert len(inspection) == 1
    (missed,) = inspection.unsupported
    assert (missed.name, missed.kind.rpartition(".")[2]) == ("0", "RunningMaximum")
    assert "not read: 0 (it mixes tokens" in repr(inspection)


def test_a_known_mixer_that_was_not_called_is_listed():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.GRU(4, 3), nn.LSTM(4, 3)

        def forward(self, x):
            return self.used(x)

    (missed,) = dsf.inspect(Spare(), torch.randn(5, 1, 4)).unsupported
    assert (missed.name, missed.reason) == ("spare", "it was not called on this input")


def test_no_mixer_at_all():
    with pytest.raises(NothingCapturedError, match="No module"):
        dsf.inspect(nn.Linear(3, 3), torch.randn(2, 3))


def test_inputs_of_another_shape():
    words = (
        r"GRU, torch .* could not be run.*input 0 \(2, 5, 9\) float32.*Expected 4, got 9\. Try to"
    )
    with pytest.raises(InspectionError, match=words):
        dsf.inspect(nn.GRU(4, 3), torch.randn(2, 5, 9))


@pytest.mark.usefixtures("our_own_errors")
def test_parts_that_do_not_fit():
    layer = dsf.inspect(build("llama"), **inputs("llama"))[0]
    with pytest.raises(ShapeError, match="'read'"):
        dsf.mixers.SoftmaxAttention(
            query=layer.mixer.query, key=layer.mixer.key, value=layer.mixer.value[..., 1:, :]
        )


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers(number):
    model = build("gpt2")
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight[0, 0] = number
    words = r"NaN or infinite: transformer\.h\.1\.attn\.c_attn\.weight\. No statement .* repair"
    with pytest.raises(NonFiniteWeightsError, match=words):
        dsf.inspect(model, **inputs("gpt2"))


class WithLimits(nn.Module):
    """Attention with numbers that it keeps beside its weights."""

    def __init__(self, **kept):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        for name, numbers in kept.items():
            self.register_buffer(name, numbers)

    def forward(self, x):
        if hasattr(self, "lowest"):
            x = x.clamp(self.lowest, self.highest)
        return self.attention(x, x, x, attn_mask=getattr(self, "future", None))[0]


LIMITS = (
    {"lowest": torch.tensor(-float("inf")), "highest": torch.tensor(float("inf"))},
    {"future": torch.full((5, 5), -float("inf")).triu(1)},
)


@pytest.mark.parametrize("kept", LIMITS, ids=["limits", "added mask"])
def test_infinite_numbers_that_are_no_weights_are_read(kept):
    torch.manual_seed(0)
    (layer,) = dsf.inspect(WithLimits(**kept).eval(), torch.randn(2, 5, 8))
    assert layer.is_exact
    assert bool(layer.map().isfinite().all())
    assert bool((layer.map().triu(1) == 0).all()) == ("future" in kept)


def test_kept_numbers_that_are_none_are_refused():
    model = WithLimits(lowest=torch.tensor(float("nan")), highest=torch.tensor(1.0))
    with pytest.raises(NonFiniteWeightsError, match="lowest"):
        dsf.inspect(model, torch.randn(2, 5, 8))


def test_many_weights_that_are_not_numbers_are_counted():
    model = nn.LSTM(3, 4, num_layers=3)
    with torch.no_grad():
        for part in model.parameters():
            part.fill_(float("nan"))
    with pytest.raises(NonFiniteWeightsError, match="bias_hh_l0"):
        dsf.inspect(model, torch.randn(5, 1, 3))


def test_activations_that_overflow():
    model = nn.MultiheadAttention(4, 1, batch_first=True)
    x = torch.full((1, 3, 4), 1e38)
    with pytest.raises(ReconstructionError, match="NaN"):
        dsf.inspect(model, x, x, x * 1e3)


def test_weights_without_numbers():
    with pytest.raises(InspectionError, match="meta device"):
        dsf.inspect(nn.LSTM(3, 4, device="meta"), torch.randn(5, 1, 3))


def test_a_lazy_module_that_never_ran():
    with pytest.raises(InspectionError, match="without data"):
        dsf.inspect(nn.LazyLinear(3), torch.randn(2, 3))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_torchscript():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LSTM(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)[0]

    scripted = torch.jit.script(Wrapped())
    words = r"TorchScript \(Wrapped\), which takes no hooks.*Build the plain module.*state_dict\(\)"
    with pytest.raises(NothingCapturedError, match=words):
        dsf.inspect(scripted, torch.randn(5, 1, 4))
    inside = nn.Sequential(scripted, nn.RNN(3, 2)).train()
    (missed,) = dsf.inspect(inside, torch.randn(5, 1, 4)).unsupported
    assert (missed.name, missed.kind) == ("0", "TorchScript of Wrapped")
    assert "state_dict()" in missed.reason
    assert scripted.training


def test_text_without_a_tokenizer():
    with pytest.raises(InspectionError, match="'text' needs a tokenizer"):
        dsf.inspect(build("gpt2"), text="hello")


def test_a_map_larger_than_memory(monkeypatch):
    layer = dsf.inspect(build("llama"), **inputs("llama"))[0]
    monkeypatch.setattr("dsf.evaluate.memory_plan.free_memory", lambda *_: 10_000)
    with pytest.raises(MapTooLarge, match=re.escape("Ask for some rows (rows=slice(0, 64))")):
        layer.map()
    assert layer.map(rows=-1).shape == (2, 4, 1, 13)


def test_a_tolerance_of_ones_own():
    with pytest.raises(ReconstructionError, match="1e-18"):
        dsf.inspect(tiny_mamba(), tolerance=1e-18, **IDS)
    layer = dsf.inspect(tiny_mamba(), tolerance=1e-3, **IDS)[0]
    assert layer.tolerance == 1e-3


ALLOCATOR = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 9999999999999 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.mark.parametrize("error", [ALLOCATOR, torch.OutOfMemoryError("CUDA out of memory")])
@pytest.mark.parametrize("where", ["run", "reference", "rebuild"])
def test_memory_that_runs_out_is_called_that(monkeypatch, where, error):
    model = tiny_mamba()

    def fails(*_, **__):
        raise error

    if where == "rebuild":
        monkeypatch.setattr("dsf.inspection.rebuild.respond", fails)
    elif where == "reference":
        model.layers[0].mixer.register_forward_hook(
            lambda _m, _i, out: fails() if out.dtype is torch.float64 else out
        )
    else:
        model.layers[0].mixer.register_forward_hook(fails)
    with pytest.raises(MemoryError, match="memory"):
        dsf.inspect(model, **IDS)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("fault", [KeyError("bias"), None], ids=["unread", "wrong"])
def test_a_refused_layer_of_a_call_leaves_the_others(at, fault):
    def read(layer):
        mixer = torch_recurrent.ADAPTER.read(layer)
        if layer.name != f"LSTM[layer {at}]":
            return mixer
        if fault is not None:
            raise fault
        return replace(mixer, inputs=mixer.inputs * 1.5)

    module = torch.nn.LSTM(3, 4, num_layers=3, batch_first=True)
    adapter = replace(torch_recurrent.ADAPTER, read=read)
    found = dsf.inspect(module, torch.randn(1, 6, 3), adapters=(adapter,))
    names = [f"LSTM[layer {k}]" for k in range(3)]
    assert [layer.name for layer in found] == names[:at] + names[at + 1 :]
    assert [missed.name for missed in found.unsupported] == [names[at]]
    with pytest.raises(ReconstructionError, match="LSTM"):
        dsf.inspect(module, torch.randn(1, 6, 3), adapters=(adapter,), strict=True)


@pytest.mark.parametrize("token", [0, 2, -1])
def test_an_attention_whose_module_puts_out_nan_is_listed(token):
    """Its maps are finite, and NaN is above no limit of what a replaced token moves."""

    def spoiled(_module, _inputs, output):
        output = output.clone()
        output[:, token] = torch.nan
        return output

    model, given = build("llama"), inputs("llama")
    sound = dsf.inspect(model, **given)
    name = sound[1].name
    model.get_submodule(name).o_proj.register_forward_hook(spoiled)
    inspection = dsf.inspect(model, **given)
    (missed,) = (one for one in inspection.unsupported if one.name == name)
    assert "its output is not finite" in missed.reason
    assert math.isnan(missed.formula)
    assert not inspection[name].is_exact or math.isnan(inspection[name].share)


def test_a_projection_that_is_wrapped_is_named_with_the_cure():
    transformers = pytest.importorskip("transformers")

    class LowRank(torch.nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base
            self.down = torch.nn.Linear(base.in_features, 2)
            self.up = torch.nn.Linear(2, base.out_features)

        def forward(self, x):
            return self.base(x) + self.up(self.down(x))

    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=13, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    model = transformers.MambaModel(config).eval()
    model.layers[0].mixer.in_proj = LowRank(model.layers[0].mixer.in_proj)
    inspection = dsf.inspect(model, input_ids=torch.arange(1, 8)[None])
    (missed,) = inspection.unsupported
    assert "'in_proj.weight', but in that place is a LowRank" in missed.reason
    assert "merge the two into one projection" in missed.reason


def test_where_an_axis_is_taken_for_channels_the_cure_is_named():
    class Averages(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.rand(6, 6))

        def forward(self, x):
            return self.weights.softmax(-1) @ x

    module, x = Averages(), torch.randn(2, 6, 4)
    with pytest.raises(NothingCapturedError, match="axis 1 of x"):
        dsf.inspect(module, x=x)
    weights = module.weights.detach().double().softmax(-1).expand(2, 1, 6, 6)
    torch.testing.assert_close(dsf.probe(module, x).map(), weights)


def test_edited_runs_refuse_weights_that_are_not_finite():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    model, x = Attends(), torch.ones(1, 2, 4)
    dsf.intervene(model, x, edits=dsf.edits.Ablate(0))
    model.attention.out_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteWeightsError, match=r"out_proj\.weight"):
        dsf.intervene(model, x, edits=dsf.edits.Ablate(0))


def test_an_exported_program_that_has_one_mode_alone_is_listed():
    class Sums(nn.Module):
        def forward(self, x):
            return x.tanh().cumsum(1).tanh()

    x = torch.randn(2, 5, 4)
    program = torch.export.export(Sums(), (x,)).module()
    with pytest.raises(NothingCapturedError, match=r"GraphModule .*it mixes tokens"):
        dsf.inspect(program, x, probe=())
