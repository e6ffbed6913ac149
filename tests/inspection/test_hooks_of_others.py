"""What hooks make of a module's arguments and output is read right, or listed: never overlooked."""

import threading

import pytest
import torch

import dsf
from dsf.inspection import InspectionError

transformers = pytest.importorskip("transformers")
IDS = {"input_ids": torch.arange(1, 15)[None] % 13}
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def drawn(model, dtype):
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, part in model.named_parameters():
            new = torch.randn(part.shape, generator=rng)
            part.copy_(new / part.shape[-1] ** 0.5 if part.ndim > 1 else ("norm" in name) + new / 4)
    return model.to(dtype).eval()


def llama(dtype):
    config = transformers.LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = drawn(transformers.LlamaModel(config), dtype)
    return model, model.layers[0].self_attn


def mamba2(dtype):
    config = transformers.Mamba2Config(
        vocab_size=13,
        hidden_size=16,
        num_hidden_layers=2,
        num_heads=4,
        head_dim=8,
        state_size=4,
        n_groups=1,
        chunk_size=8,
    )
    model = drawn(transformers.Mamba2Model(config), dtype)
    return model, model.layers[0].mixer


def before(module, change):
    """Have a hook change the tokens that a module is given."""

    def hook(_, args, kwargs):
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}
        return (change(args[0]), *args[1:]), kwargs

    module.register_forward_pre_hook(hook, with_kwargs=True)


def after(module, change):
    """Have a hook change the tokens that a module puts out."""

    def hook(_module, _args, out):
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    module.register_forward_hook(hook)


def shifted(x):
    return x + 0.02 * x.roll(1, dims=1)


def missed(inspection, name):
    return [one.reason for one in inspection.unsupported if one.name == name]


@TYPES
def test_a_hook_that_scales_what_an_attention_is_given_is_applied_once(dtype):
    model, attention = llama(dtype)
    before(attention, lambda x: 1.5 * x)
    layer = dsf.inspect(model, **IDS)[0]
    given = model.layers[0].input_layernorm(model.embed_tokens(IDS["input_ids"])).double() * 1.5
    value = torch.nn.functional.linear(given, attention.v_proj.weight.double())
    torch.testing.assert_close(
        layer.mixer.value[0, 0], value[0], rtol=1e-12, atol=1e-12, check_dtype=False
    )
    assert layer.formula < 1e-12
    assert layer.rounding < (1e-5 if dtype is torch.float32 else 3e-2)


@TYPES
def test_a_hook_that_scales_what_a_mamba_is_given_is_applied_once(dtype):
    model, mixer = mamba2(dtype)
    before(mixer, lambda x: 1.5 * x)
    inspection = dsf.inspect(model, **IDS)
    assert [layer.name for layer in inspection] == ["layers.0.mixer", "layers.1.mixer"]
    assert max(layer.formula for layer in inspection) < 1e-12


@pytest.mark.parametrize("where", [before, after])
@TYPES
def test_a_hook_that_mixes_tokens_at_an_attention_makes_its_map_a_part(dtype, where):
    model, attention = llama(dtype)
    where(attention, shifted)
    inspection = dsf.inspect(model, **IDS)
    assert inspection[0].is_part
    assert not inspection[1].is_part
    assert "only a part" in missed(inspection, "layers.0.self_attn")[0]


@TYPES
def test_a_hook_that_mixes_tokens_before_a_mamba_is_told(dtype):
    model, mixer = mamba2(dtype)
    before(mixer, shifted)
    inspection = dsf.inspect(model, **IDS)
    assert [layer.name for layer in inspection] == ["layers.1.mixer"]
    assert "hooks mix tokens before" in missed(inspection, "layers.0.mixer")[0]


def test_a_hook_that_writes_into_what_a_mamba_is_given_is_applied_once():
    model, mixer = mamba2(torch.float32)

    def hook(_, args, kwargs):
        (kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]).mul_(1.5)

    mixer.register_forward_pre_hook(hook, with_kwargs=True)
    assert max(layer.formula for layer in dsf.inspect(model, **IDS)) < 1e-12


def _written_into(mixer):
    """Have the gate, which lies in what the projection returned, doubled in place."""

    def write(_, args):
        args[1].mul_(2)

    mixer.norm.register_forward_pre_hook(write)


CHANGED = {
    "what it returns": lambda mixer: after(mixer.in_proj, lambda x: 1.5 * x),
    "what it is given": lambda mixer: before(mixer.in_proj, lambda x: 1.5 * x),
    "what it returned, later": _written_into,
}


@pytest.mark.parametrize("way", CHANGED)
def test_a_projection_whose_numbers_are_changed_is_not_that_of_its_weights(way):
    model, mixer = mamba2(torch.float32)
    CHANGED[way](mixer)
    inspection = dsf.inspect(model, **IDS)
    assert [layer.name for layer in inspection] == ["layers.1.mixer"]
    assert "the rebuilt layer differs" in missed(inspection, "layers.0.mixer")[0]


@TYPES
def test_a_hook_behind_an_attention_is_none_of_the_whole_layer(dtype):
    model, attention = llama(dtype)
    after(attention, lambda x: 1.02 * x)
    inspection = dsf.inspect(model, **IDS)
    assert not inspection[0].is_part
    with pytest.raises(InspectionError, match="only the mixer"):
        _ = inspection[0].whole
    assert inspection[1].whole is not None


@pytest.mark.parametrize("size", [0.02, 0.002])
def test_a_second_path_of_one_percent_is_seen_in_half_precision(size):
    class Leaky(transformers.models.llama.modeling_llama.LlamaAttention):
        def forward(self, *args, **kwargs):
            mixed, weights = super().forward(*args, **kwargs)
            return mixed + size * mixed.mean(dim=1, keepdim=True), weights

    for dtype in (torch.bfloat16, torch.float16):
        model, attention = llama(dtype)
        attention.__class__ = Leaky
        inspection = dsf.inspect(model, **IDS)
        assert inspection[0].is_part, dtype
        assert not inspection[1].is_part


def test_weights_are_back_in_their_type_afterwards():
    model, attention = llama(torch.bfloat16)
    after(attention, shifted)
    parts = [(part, part.data_ptr()) for part in model.parameters()]
    dsf.inspect(model, **IDS)
    assert all(part.dtype is torch.bfloat16 and part.data_ptr() == at for part, at in parts)


@TYPES
def test_a_forward_pass_that_a_closure_replaces_runs_in_float64(dtype):
    model, attention = llama(dtype)
    before_it = attention.forward
    attention.forward = lambda *args, **kwargs: tuple(before_it(*args, **kwargs))
    layer = dsf.inspect(model, **IDS)[0]
    assert layer.compared_with == "its module in float64"
    assert layer.formula < 1e-12
    assert all(part.dtype is dtype for part in model.parameters())


def test_a_module_that_cannot_be_copied_is_read():
    model, attention = llama(torch.bfloat16)
    attention.lock = threading.Lock()
    inspection = dsf.inspect(model, **IDS)
    assert len(inspection) == 2
    assert max(layer.formula for layer in inspection) < 1e-12
    with pytest.raises(InspectionError, match="exact="):
        dsf.inspect(model, **IDS, exact=True)


@TYPES
def test_what_writes_into_the_input_of_an_attention_is_not_done_twice(dtype):
    class Writing(transformers.models.llama.modeling_llama.LlamaAttention):
        def forward(self, hidden_states, **kwargs):
            hidden_states *= 1.5
            return super().forward(hidden_states, **kwargs)

    class Scaling(transformers.models.llama.modeling_llama.LlamaAttention):
        def forward(self, hidden_states, **kwargs):
            return super().forward(hidden_states * 1.5, **kwargs)

    found = []
    for kind in (Writing, Scaling):
        model, attention = llama(dtype)
        attention.__class__ = kind
        found.append(dsf.inspect(model, **IDS)[0])
    wrote, scaled = found
    near = 1e-5 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(wrote.map(), scaled.map(), rtol=0, atol=near)
    assert "written into while it ran" in wrote.compared_with


@TYPES
@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN])
def test_a_function_around_a_recurrent_module_may_name_its_arguments_otherwise(kind, dtype):
    torch.manual_seed(0)
    inner = kind(4, 4, batch_first=True).eval().to(dtype)
    before_it = inner.forward
    inner.forward = lambda tokens, *rest: tuple(before_it(tokens, *rest))
    x = torch.randn(2, 6, 4).to(dtype)
    (layer,) = dsf.inspect(inner, x)
    assert layer.compared_with == "its module in float64"
    assert layer.formula < 1e-12
    assert all(part.dtype is dtype for part in inner.parameters())


@TYPES
def test_a_function_around_a_mamba_layer_may_name_nothing(dtype):
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=13, hidden_size=16, num_hidden_layers=2, state_size=4, pad_token_id=0
    )
    model = transformers.MambaModel(config).eval().to(dtype)
    mixer = model.layers[0].mixer
    before_it = mixer.forward
    mixer.forward = lambda *args, **kwargs: before_it(*args, **kwargs) + 0
    inspection = dsf.inspect(model, **IDS)
    assert [layer.formula < 1e-12 for layer in inspection] == [True, True]
    assert {layer.compared_with for layer in inspection} == {"its module in float64"}
