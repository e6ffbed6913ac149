"""The maps that a model returns under ``dsf.attentions`` are those of ``dsf.inspect``."""

import pytest
import torch
from torch.nn.functional import pad

import dsf
from dsf.inspection import InspectionError
from dsf.loading import load_model
from dsf.models import folder

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

TEXT = "And all our yesterdays have lighted"
NAMES = ["mamba", "qwen3_next"]
ROUNDING = 1e-6
"""Largest difference of two weights of at most one that float32 computes from scores up to 30."""


@pytest.fixture(scope="module", params=NAMES)
def opened(request):
    loaded = load_model(folder(f"text_{request.param}"))
    ids = torch.tensor([loaded.tokenizer.encode(TEXT)])
    return loaded.model, ids


def continued(model, ids, **options):
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, **options}
    return model.generate(ids, use_cache=True, **options)


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-6)


@torch.no_grad()
def test_every_layer_has_the_map_of_its_inspection(opened):
    model, ids = opened
    plain = model(input_ids=ids).logits
    before = dict(vars(model))
    with dsf.attentions(model) as seen:
        output = model(input_ids=ids)
    assert vars(model) == before
    assert output.logits.equal(plain)
    inspection = dsf.inspect(model, input_ids=ids, checks="none")
    assert list(seen.maps) == [layer.name for layer in inspection]
    for map, layer in zip(output.attentions, inspection, strict=True):
        assert map.shape == seen.maps[layer.name].shape == (1, map.shape[1], *2 * ids.shape[1:])
        assert map.dtype == torch.float32
        assert seen.maps[layer.name] is map
        close(map, layer.map())


@torch.no_grad()
def test_a_prompt_and_its_continuation_are_one_sequence(opened):
    model, ids = opened
    plain = continued(model, ids)
    with dsf.attentions(model) as seen:
        found = continued(model, ids, return_dict_in_generate=True, output_attentions=True)
    assert found.sequences.equal(plain)
    inspection = dsf.inspect(model, input_ids=plain[:, :-1], checks="none")
    for number, layer in enumerate(inspection):
        close(seen.maps[layer.name], layer.map())
        rows = [step[number] for step in found.attentions]
        assert [row.shape[-2] for row in rows] == [ids.shape[1], 1, 1, 1, 1]
        padded = [pad(row, (0, len(rows) - 1 - k)) for k, row in enumerate(rows)]
        close(torch.cat(padded, dim=-2), layer.map())
    again = seen.inspection
    assert again[0].map().equal(dsf.inspect(model, input_ids=plain[:, :-1])[0].map())


@torch.no_grad()
def test_in_float64_the_joined_maps_are_those_of_one_run():
    """Of attention: recurrent layers of the library compute in float32 whatever their type."""
    opened = load_model(folder("text_llama"), dtype=torch.float64)
    ids = torch.tensor([opened.tokenizer.encode(TEXT)])
    with dsf.attentions(opened.model) as steps:
        whole = continued(opened.model, ids)
    with dsf.attentions(opened.model) as once:
        opened.model(input_ids=whole[:, :-1])
    for name, map in once.maps.items():
        torch.testing.assert_close(steps.maps[name], map, rtol=0, atol=1e-12)


def weights_in_float64(query, key, scale):
    """The rows of the last tokens, from what fused attention was called with."""
    key = key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.double() @ key.mT * scale
    earlier = key.shape[-2] - query.shape[-2]
    ahead = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1 + earlier)
    return scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)


@torch.no_grad()
def differences(model, ids, monkeypatch):
    """How far maps of a prompt and its continuation are from those of one run.

    Of those that ``dsf.attentions`` returns, and of those that the queries and keys of each run
    define, in float64.
    """
    fused, called = torch.nn.functional.scaled_dot_product_attention, []

    def recorded(query, key, *args, **named):
        called.append(weights_in_float64(query, key, named.get("scale") or query.shape[-1] ** -0.5))
        return fused(query, key, *args, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    with dsf.attentions(model) as steps:
        whole = continued(model, ids)
    in_steps, called[:] = list(called), []
    with dsf.attentions(model) as once:
        model(input_ids=whole[:, :-1])
    count, length = len(called), whole.shape[1] - 1
    ours, defined = [], []
    for layer, (name, map) in enumerate(once.maps.items()):
        ours.append((steps.maps[name] - map).abs().max().item())
        rows = [pad(row, (0, length - row.shape[-1])) for row in in_steps[layer::count]]
        defined.append((torch.cat(rows, dim=-2) - called[layer]).abs().max().item())
    assert len(ours) == count
    return ours, defined


def test_joined_maps_differ_as_the_queries_and_keys_of_the_two_runs_do(monkeypatch):
    """The difference is the model's: no arithmetic of the maps could make it smaller."""
    opened = load_model(folder("text_llama"))
    ids = torch.tensor([opened.tokenizer.encode(TEXT)])
    ours, defined = differences(opened.model, ids, monkeypatch)
    assert max(defined) > 1e-7
    assert all(one < other + ROUNDING for one, other in zip(ours, defined, strict=True))


@pytest.mark.usefixtures("our_own_errors")
@torch.no_grad()
def test_what_cannot_be_followed_is_an_error(opened):
    model, ids = opened
    output = model(input_ids=ids, use_cache=True)
    field = "past_key_values" if "past_key_values" in output else "cache_params"
    with dsf.attentions(model) as seen:
        with pytest.raises(InspectionError, match="with"):
            seen.maps  # noqa: B018  # nothing was called yet
        with pytest.raises(InspectionError, match="cache"):
            model(input_ids=ids[:, :1], **{field: output[field]})
    with pytest.raises(TypeError, match="'model'"), dsf.attentions("folder"):
        pass
