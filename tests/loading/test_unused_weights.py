"""Weights in the files without a place in the model: which may stay behind, and which may not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import dsf
from dsf.loading import LoadError, load_model
from tests.loading import gguf_writing

transformers = pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')


def add(folder, **tensors):
    """Save the folder's weights again with further ones; ``__`` in a name stands for a dot."""
    weights = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("architectures", [["GPT2LMHeadModel"], ["GPT2Model"], None])
def test_a_model_is_not_cut_short(change_config, architectures):
    folder = change_config(n_layer=1, architectures=architectures)
    with pytest.raises(LoadError, match="1 entries of"):
        load_model(folder)


def test_a_bias_that_the_settings_leave_out_is_missed(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, attention_bias=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text()) | {"attention_bias": False}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(LoadError, match=r"q_proj\.bias"):
        load_model(tmp_path)


def test_a_norm_of_another_family_is_missed(folder):
    add(folder, transformer__h__0__attn__q_norm__weight=torch.rand(8))
    with pytest.raises(LoadError, match=r"'transformer.h.0.attn.q_norm.weight'"):
        load_model(folder)


def test_a_head_stays_behind_with_a_base_model(folder, change_config):
    add(folder, lm_head__weight=torch.rand(50, 16), score__weight=torch.rand(3, 16))
    loaded = load_model(change_config(architectures=["GPT2Model"]))
    (note,) = loaded.notes
    assert "'lm_head.weight', 'score.weight'" in note
    found = dsf.inspect(folder, input_ids=torch.arange(5).unsqueeze(0))
    assert found.environment["on loading"] == note


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool])
def test_masks_and_places_of_old_releases_stay_behind(folder, dtype):
    mask = torch.ones(32, 32).tril().reshape(1, 1, 32, 32).to(dtype)
    add(
        folder,
        transformer__h__0__attn__bias=mask,
        transformer__h__0__attn__causal_mask=mask.clone(),
        transformer__h__0__attn__masked_bias=torch.tensor(-1e4),
        transformer__h__1__attn__rotary_emb__inv_freq=torch.rand(4),
        transformer__position_ids=torch.arange(32),
    )
    load_model(folder)


def test_a_layer_that_predicts_further_ahead_stays_behind(folder, change_config):
    add(folder, transformer__h__2__mlp__c_fc__bias=torch.rand(64))
    with pytest.raises(LoadError, match="cut short"):
        load_model(folder)
    load_model(change_config(num_nextn_predict_layers=1))


def test_a_table_of_factors_is_no_mask(folder):
    add(folder, transformer__h__0__attn__factors=torch.rand(3, 3).tril())
    with pytest.raises(LoadError, match=r"attn.factors'"):
        load_model(folder)


@pytest.fixture
def gguf_file(tmp_path):
    """Writes a GGUF file with further tensors."""
    gguf = pytest.importorskip("gguf", reason='needs pip install "dsf-toolkit[gguf]"')
    model = gguf_writing.small_llama()

    def write(**more):
        honest = gguf_writing.stored

        def stored(model):
            yield from honest(model)
            for name, tensor in more.items():
                yield name.replace("__", "."), tensor.numpy()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gguf_writing, "stored", stored)
            return gguf_writing.write_gguf(tmp_path / "model.gguf", model)

    assert gguf
    return write


def test_a_gguf_file_is_not_cut_short(gguf_file):
    with pytest.raises(LoadError, match=r"'blk.2.attn_norm.weight'"):
        load_model(gguf_file(blk__2__attn_norm__weight=torch.rand(64)))


def test_what_the_reader_of_gguf_files_leaves_out_is_told(gguf_file):
    """It drops, without a word, what no class has a name for: biases, factors of the angles."""
    for name in ("blk__0__attn_q__bias", "rope_freqs__weight"):
        with pytest.raises(LoadError, match=f"does not use .*{name.replace('__', '.')}"):
            load_model(gguf_file(**{name: torch.rand(8)}))
    load_model(gguf_file(rope_freqs__weight=torch.ones(8)))
