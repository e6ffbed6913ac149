"""Models that ask for the name of their attention, as those that hide all but the best keys do."""

import copy
import sys

import pytest
import torch

import dsf
from dsf.inspection.capture.precision import CastGuard

transformers = pytest.importorskip("transformers")
TOKENS, SEEN = 9, 4
IDS = torch.arange(2, 2 + 2 * TOKENS).reshape(2, TOKENS) % 23
SMALL = {
    "vocab_size": 23,
    "hidden_size": 32,
    "intermediate_size": 24,
    "moe_intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 10,
    "head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
    "index_topk": SEEN,
    "index_n_heads": 2,
    "index_head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SPARSE = ["DeepseekV32", "GlmMoeDsa", "AXK2"]


def built(name, attention):
    if not hasattr(transformers, f"{name}ForCausalLM"):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SMALL, attn_implementation=attention)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval().double()
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for part in model.parameters():
            if part.ndim > 1:
                part.copy_(1.5 * torch.randn_like(part) / part.shape[-1] ** 0.5)
    return model


def own_weights(model, monkeypatch):
    """What the library's own eager function gives as weights, call by call."""
    file, seen = sys.modules[type(model).__module__], []
    own = file.eager_attention_forward

    def noting(*args, **kwargs):
        output, weights = own(*args, **kwargs)
        seen.append(weights)
        return output, weights

    monkeypatch.setattr(file, "eager_attention_forward", noting)
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad(), CastGuard():
        model(input_ids=IDS)
    return seen


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", SPARSE)
def test_keys_that_a_model_hides_from_eager_and_fused_attention_alone_are_hidden(
    name, attention, monkeypatch
):
    model = built(name, attention)
    inspection = dsf.inspect(model, input_ids=IDS)
    expected = own_weights(model, monkeypatch)
    assert len(inspection) == len(expected) == 2
    for layer, weights in zip(inspection, expected, strict=True):
        assert layer.family.startswith(("deepseek", "glm", "axk"))
        assert (layer.map()[..., -1, :] > 0).sum(dim=-1).eq(SEEN).all()
        torch.testing.assert_close(layer.map(), weights, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", SPARSE[:1])
def test_the_run_without_edits_and_the_stack_are_those_of_the_model(name):
    model = built(name, "sdpa")
    with torch.no_grad(), CastGuard():
        logits = model(input_ids=IDS).logits
    edit = dsf.edits.Scale(0, factor=1.0)
    result = dsf.intervene(model, edits=[edit], input_ids=IDS)
    clean = result.clean if isinstance(result.clean, torch.Tensor) else result.clean.logits
    for ran in (clean, result.logits):
        torch.testing.assert_close(ran, logits, rtol=0, atol=1e-12)
    value = dsf.stack(model, input_ids=IDS).attribute(5, position=-1).value
    torch.testing.assert_close(value, logits[:, -1, 5], rtol=0, atol=1e-12)


def test_a_model_that_was_inspected_has_its_own_name_again():
    model = built(SPARSE[0], "sdpa")
    dsf.inspect(model, input_ids=IDS)
    assert type(model.config._attn_implementation) is str
    assert model.config._attn_implementation == "sdpa"


def test_a_file_with_several_eager_functions_runs_the_one_that_its_module_names(monkeypatch):
    """That of the images of llama4 takes no scale, that of its text needs one."""
    torch.manual_seed(0)
    config = transformers.Llama4VisionConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        vision_output_dim=32,
        projector_input_dim=32,
        projector_output_dim=32,
        image_size=8,
        patch_size=2,
        attn_implementation="eager",
    )
    model = transformers.Llama4VisionModel(config).eval().double()
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    file, seen = sys.modules[type(model).__module__], []
    own = file.vision_eager_attention_forward
    monkeypatch.setattr(
        file,
        "vision_eager_attention_forward",
        lambda *args, **named: seen.append(own(*args, **named)) or seen[-1],
    )
    with torch.no_grad(), CastGuard():
        model(pixel_values=pixels)
    expected = [weights for _, weights in seen]
    inspection = dsf.inspect(model, pixel_values=pixels)
    assert len(inspection) == len(expected) == 2
    for layer, weights in zip(inspection, expected, strict=True):
        torch.testing.assert_close(layer.map(), weights, rtol=0, atol=1e-13)


def test_attention_that_is_looked_up_by_its_name_is_recorded(monkeypatch):
    """As in files of older releases, which call their own function for plain attention."""
    from transformers.models.llama import modeling_llama

    class LookedUp:
        def get_interface(self, name, default):
            return default if name == "eager" else every[name]

    every = modeling_llama.ALL_ATTENTION_FUNCTIONS
    sizes = {"vocab_size": 23, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1}
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, attn_implementation="sdpa")
    model = transformers.LlamaForCausalLM(config).eval()
    maps = []
    for _ in range(2):
        with dsf.attentions(model) as seen:
            model(input_ids=IDS)
        maps += seen.maps.values()
        monkeypatch.setattr(modeling_llama, "ALL_ATTENTION_FUNCTIONS", LookedUp())
    torch.testing.assert_close(*maps)


def by_place(attend, module, query, key, value):
    return attend(module, query, key, value, None, scaling=0.5)


def by_name(attend, module, query, key, value):
    return attend(module, query=query, key=key, value=value, attention_mask=None, scaling=0.5)


def mask_by_name(attend, module, query, key, value):
    return attend(module, query, key, value, attention_mask=None, scaling=0.5)


def module_by_name(attend, module, query, key, value):
    return attend(
        module=module, value=value, key=key, query=query, attention_mask=None, scaling=0.5
    )


@pytest.mark.parametrize("call", [by_place, by_name, mask_by_name, module_by_name])
def test_what_attention_is_given_may_be_named(call):
    class Attends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = transformers.LlamaConfig(attn_implementation="sdpa")
            self.parts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            attend = transformers.AttentionInterface()["sdpa"]
            made = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in self.parts)
            return call(attend, self, *made)[0].flatten(-2)

    torch.manual_seed(0)
    model, x = Attends().double(), torch.randn(2, TOKENS, 8).double()
    (layer,) = dsf.inspect(model, x)
    query, key = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in model.parts[:2])
    wanted = (0.5 * query @ key.mT).masked_fill(torch.ones(TOKENS, TOKENS).triu(1) > 0, -torch.inf)
    torch.testing.assert_close(layer.map(), wanted.softmax(-1))


def further_scores(_module, query, key, value, _mask, scaling, further=None, **_):
    """Plain attention with scores of its own for a column that is no token."""
    scores = query @ key.mT * scaling
    scores = scores if further is None else torch.cat([scores, further], dim=-1)
    weights = scores.softmax(dim=-1)[..., : key.shape[-2]]
    return (weights @ value).transpose(1, 2), weights


@pytest.mark.parametrize("is_given", [True, False])
def test_attention_of_a_file_that_takes_more_is_read_by_its_operations(is_given):
    class Attends(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = transformers.LlamaConfig(attn_implementation="eager")
            self.parts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
            self.weights = None

        def forward(self, x):
            attend = transformers.AttentionInterface().get_interface("eager", further_scores)
            made = (part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in self.parts)
            more = x.unflatten(-1, (2, 4)).transpose(1, 2).sum(-1, keepdim=True)
            mixed, self.weights = attend(
                self, *made, None, scaling=0.5, further=more if is_given else None
            )
            return mixed.flatten(-2)

    torch.manual_seed(0)
    model, x = Attends().double(), torch.randn(2, TOKENS, 8).double()
    inspection = dsf.inspect(model, x)
    assert [layer.is_exact for layer in inspection] == [True]
    assert not inspection.unsupported
    model(x)
    torch.testing.assert_close(inspection[0].map(), model.weights, rtol=0, atol=1e-13)
