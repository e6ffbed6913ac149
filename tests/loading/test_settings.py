"""``config.json`` from a stranger: what selects code has no effect, and costs stay bounded."""

import contextlib
import json
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dsf.loading import LoadError, load_model

TOKENS = torch.arange(5).unsqueeze(0)


@pytest.mark.parametrize(
    "key",
    ["_attn_implementation", "attn_implementation", "_attn_implementation_internal"],
)
def test_a_kernel_named_in_the_settings_is_not_fetched(
    saved_model, folder, change_config, no_network, key
):
    change_config(**{key: "owner/kernel", "sub": {"attn_implementation": "owner/kernel"}})
    loaded = load_model(folder)
    assert loaded.model.config._attn_implementation in ("eager", "sdpa")
    assert torch.equal(loaded.model(TOKENS).logits, saved_model[0](TOKENS).logits)
    assert no_network == []
    assert key in loaded.notes[0]


def test_a_kernel_in_a_part_of_the_settings(tmp_path):
    """A model of several parts has settings inside its settings."""
    from transformers import CLIPConfig, CLIPModel

    part = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    text = part | {"num_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 8}
    image = part | {"num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=image, projection_dim=4)
    CLIPModel(config).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["text_config"]["_attn_implementation"] = "owner/kernel"
    values["vision_config"]["attn_implementation"] = "owner/kernel"
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = load_model(tmp_path).model
    assert model.config.text_config._attn_implementation in ("eager", "sdpa")
    assert model.config.vision_config._attn_implementation in ("eager", "sdpa")


def test_code_in_the_folder_does_not_run(folder, change_config):
    mark = folder / "ran"
    for name in ("configuration_evil.py", "modeling_evil.py"):
        (folder / name).write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    auto_map = {"AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    change_config(auto_map=auto_map, custom_code=True, use_kernels=True, trust_remote_code=True)
    (note,) = load_model(folder).notes
    assert note == (
        "ignored settings that select code: "
        "'auto_map', 'custom_code', 'trust_remote_code', 'use_kernels'."
    )
    assert not mark.exists()


def test_another_weight_file_named_in_the_settings_is_not_opened(folder, change_config):
    change_config(transformers_weights="../other.safetensors", fusion_config={"all": True})
    assert "'fusion_config', 'transformers_weights'" in load_model(folder).notes[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "evil"}, "no family 'evil'"),
        ({"model_type": ["gpt2"]}, "no family"),
        ({"model_type": None}, "no family 'None'"),
        ({"architectures": ["EvilForCausalLM"]}, "no model 'EvilForCausalLM'"),
        ({"architectures": ["GPT2Config"]}, "no model 'GPT2Config'"),
        ({"architectures": ["PreTrainedModel"]}, "no model 'PreTrainedModel'"),
        ({"architectures": ["Trainer"]}, "no model 'Trainer'"),
        ({"architectures": [7]}, "no model '7'|Validation error"),
        ({"architectures": ["BertModel"]}, "'BertModel' is not a model of the family 'gpt2'"),
        ({"n_layer": 10_001}, "'n_layer' is '10001'"),
        ({"n_layer": "two"}, "correct the file|cannot be built"),
        ({"dtype": "load"}, "'dtype' is 'load'"),
        ({"dtype": ["float32"]}, "'dtype' is .*'float32'"),
        ({"dtype": {"": "save"}}, "'dtype' is"),
        ({"torch_dtype": "save"}, "'torch_dtype' is 'save'"),
        ({"vocab_size": 10**12}, "asks for 16000000007104 weights"),
        ({"n_positions": 10**6}, "asks for"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "allow_quantized=True"),
    ],
    ids=lambda value: next(iter(value), None) if isinstance(value, dict) else "",
)
def test_refused_settings(folder, change_config, values, words):
    change_config(**values)
    with pytest.raises(LoadError, match=words):
        load_model(folder)


def test_buffers_that_the_settings_make_up(tmp_path):
    """A mask for every pair of positions: 4 GiB from a file of 1 MB."""
    from transformers import GPTNeoConfig, GPTNeoModel

    sizes = {"hidden_size": 4, "num_heads": 1, "num_layers": 1, "vocab_size": 9}
    config = GPTNeoConfig(
        eos_token_id=0,
        **sizes,
        attention_types=[[["global"], 1]],
        max_position_embeddings=8,
        bos_token_id=0,
    )
    GPTNeoModel(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["wpe.weight"] = torch.ones(66_000, 4)
    save_file(weights, tmp_path / "model.safetensors")
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"max_position_embeddings": 66_000}))
    with pytest.raises(LoadError, match="4356000000 bytes"):
        load_model(tmp_path)


def test_without_architectures_the_plain_model_is_meant(saved_model, folder, change_config):
    change_config(architectures=None)
    model = load_model(folder).model
    assert type(model).__name__ == "GPT2Model"
    plain = saved_model[0].transformer(TOKENS).last_hidden_state
    assert torch.equal(model(TOKENS).last_hidden_state, plain)


def test_an_infinity_as_the_model_library_writes_it(tmp_path):
    """JSON has none: the library writes {"__float__": "Infinity"}, as in every Mamba-2 folder."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(
        hidden_size=8, num_heads=4, head_dim=4, state_size=4, num_hidden_layers=1, vocab_size=8
    )
    Mamba2ForCausalLM(config).save_pretrained(tmp_path)
    assert "__float__" in (tmp_path / "config.json").read_text()
    assert list(load_model(tmp_path).model.config.time_step_limit) == [0.0, float("inf")]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**65) | st.floats(width=16) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)
NAMES = st.sampled_from(
    [
        *("__float__", "activation_function", "architectures", "attn_pdrop", "bos_token_id"),
        *("dtype", "id2label", "is_decoder", "layer_norm_epsilon", "model_type", "n_embd"),
        *("n_head", "n_inner", "n_layer", "n_positions", "num_labels", "pad_token_id"),
        *("pruned_heads", "rope_parameters", "scale_attn_weights", "summary_type"),
        *("tie_word_embeddings", "to_dict", "use_cache", "vocab_size"),
    ]
)


@given(st.dictionaries(NAMES, ANYTHING, min_size=1, max_size=2))
@settings(max_examples=40, deadline=None)
def test_any_settings_are_followed_or_refused(saved_model, tmp_path_factory, changes):
    """Whatever the settings say, a model comes out or the one error that the loader has."""
    folder = shutil.copytree(saved_model[1], tmp_path_factory.mktemp("any") / "model")
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))
    with contextlib.suppress(LoadError):
        assert not load_model(folder).model.training


def test_no_settings(folder):
    (folder / "config.json").unlink()
    with pytest.raises(LoadError, match=r"'config\.json'"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 200_000 + "]" * 200_000, "nested deeper than 64 levels"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested deeper than 64 levels"),
        ('{"a": ' + "7" * 5000 + "}", "not acceptable JSON"),
        ('{"a": 1e999}', "inf is not a finite number"),
        ('{"a": [-1e999]}', "-inf is not a finite number"),
        ('{"a": NaN}', "nan is not a finite number"),
        ('{"a": {"b": Infinity}}', "inf is not a finite number"),
        ('{"a": "' + "x" * 5_000_000 + '"}', "where at most 4194304 are read"),
        ("[1]", "expected a JSON object, got list"),
        ("", "not acceptable JSON"),
        ("\udcff", "not acceptable JSON"),
    ],
    ids=["deep", "64", "digits", "inf", "-inf", "nan", "Inf", "large", "list", "empty", "bytes"],
)
def test_json_that_hurts(folder, text, words):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(LoadError, match=words) as caught:
        load_model(folder)
    assert len(str(caught.value).splitlines()) == 1
