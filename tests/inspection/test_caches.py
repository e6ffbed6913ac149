"""A cache is as it was: for every pass of a module, and for the user."""

import copy
from collections import UserDict

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import dsf
from dsf.inspection.capture.containers import own_caches

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
IDS = torch.arange(2, 26).reshape(2, 12) % 13
SIZES = {
    "vocab_size": 13,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def built(name, **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **settings)
    model = getattr(transformers, f"{name}Model")(config).eval()
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.randn_like(part) / part.shape[-1] ** 0.5 if part.ndim > 1 else part)
    return model


def filled(model, cache, tokens=5):
    with torch.no_grad():
        model(input_ids=IDS[:, :tokens], past_key_values=cache, use_cache=True)
    return cache


def dynamic(model):
    return filled(model, transformers.DynamicCache(config=model.config))


def static(model):
    return filled(model, transformers.StaticCache(config=model.config, max_cache_len=16))


@pytest.mark.parametrize("made", [dynamic, static])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_a_continued_cache_is_read_as_the_model_reads_it(name, attention, made):
    settings = {"sliding_window": 4} if name == "Mistral" else {}
    model = built(name, attn_implementation=attention, **settings)
    cache = made(model)
    kept = copy.deepcopy(cache)
    inspection = dsf.inspect(model, input_ids=IDS[:, 5:], past_key_values=cache)
    assert max(layer.formula for layer in inspection) < 1e-12
    assert max(layer.rounding for layer in inspection) < 1e-5
    assert not any(layer.is_part for layer in inspection)
    assert {layer.compared_with for layer in inspection} == {"its module in float64"}

    assert cache.get_seq_length() == kept.get_seq_length() == 5
    for now, before in zip(cache.layers, kept.layers, strict=True):
        torch.testing.assert_close(now.keys, before.keys, rtol=0, atol=0)
        torch.testing.assert_close(now.values, before.values, rtol=0, atol=0)

    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(
            input_ids=IDS[:, 5:], past_key_values=cache, use_cache=True, output_attentions=True
        )
    for layer, weights in zip(inspection, out.attentions, strict=True):
        torch.testing.assert_close(layer.map().float(), weights, rtol=1e-4, atol=1e-5)


def test_a_model_may_keep_a_cache_while_it_is_inspected():
    model = built("Llama", attn_implementation="sdpa")
    with_cache, without = (
        dsf.inspect(model, input_ids=IDS, use_cache=flag) for flag in (True, False)
    )
    for one, other in zip(with_cache, without, strict=True):
        torch.testing.assert_close(one.map(), other.map())


def test_a_recurrent_layer_that_continues_an_unknown_cache_is_refused_with_the_cause(monkeypatch):
    """As in releases that keep recurrent states in another way."""
    monkeypatch.setattr("dsf.inspection.families.shared.is_cache", lambda _: False)
    config = transformers.BambaConfig(
        **SIZES, attn_layer_indices=[1], mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4
    )
    torch.manual_seed(0)
    model = transformers.BambaModel(config).eval()
    with torch.no_grad():
        cache = model(input_ids=IDS[:, :5], use_cache=True).past_key_values
    inspection = dsf.inspect(model, input_ids=IDS[:, 5:], past_key_values=cache)
    assert [layer.name for layer in inspection] == ["layers.1.self_attn"]
    assert "called with a cache" in inspection.unsupported[0].reason


def test_packed_sequences_are_read_as_the_model_keeps_them_apart():
    """The library does so without a cache alone, and by default it has one."""
    model = built("Llama", attn_implementation="eager")
    packed = {"input_ids": IDS, "position_ids": torch.arange(6).repeat(2, 2)}
    for flag in (False, True):
        layer = dsf.inspect(model, **packed, use_cache=flag)[0]
        with torch.no_grad():
            out = model(**packed, use_cache=flag, output_attentions=True)
        torch.testing.assert_close(layer.map().float(), out.attentions[0], rtol=1e-4, atol=1e-5)
    apart = dsf.inspect(model, **packed)[0].map()
    assert not apart[..., 6:, :6].any()


class Sharing(torch.nn.Module):
    """The first layer puts its values into a dictionary, the second one reads them there."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Attending(writes=True), Attending(writes=False)

    def forward(self, x):
        shared = UserDict()
        x = x + self.first(x, shared)
        return x + self.second(x, shared)


class Attending(torch.nn.Module):
    def __init__(self, writes):
        super().__init__()
        self.writes = writes
        self.query, self.key, self.value = (torch.nn.Linear(8, 8) for _ in range(3))

    def forward(self, x, shared):
        if self.writes:
            shared["value"] = self.value(x)
        parts = self.query(x), self.key(x), shared["value"]
        return scaled_dot_product_attention(*(part.unsqueeze(1) for part in parts)).squeeze(1)


def test_a_dictionary_by_which_layers_share_values_is_not_written_by_repeated_passes():
    torch.manual_seed(0)
    model, x = Sharing().eval(), torch.randn(2, 6, 8)
    inspection = dsf.inspect(model, x)
    assert not inspection.unsupported
    first, second = inspection
    with torch.no_grad():
        wide = copy.deepcopy(model).double()
        y = x.double() + wide.first(x.double(), shared := UserDict())
        scores = wide.second.query(y) @ wide.second.key(y).mT / 8**0.5
        expected = scores.softmax(-1)
    torch.testing.assert_close(second.map().squeeze(1), expected, rtol=0, atol=1e-6)
    assert max(first.formula, second.formula) < 1e-12
    assert len(shared) == 1


def test_a_copy_of_a_shared_dictionary_is_another_with_other_tensors():
    shared = UserDict(value=(torch.ones(2),))
    (own,) = own_caches([shared], torch.clone)
    own["value"][0].zero_()
    own["more"] = torch.ones(1)
    assert list(shared) == ["value"]
    assert shared["value"][0].tolist() == [1, 1]
