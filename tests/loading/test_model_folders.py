"""Honest folders load as they were saved; everything else in a folder is refused or left alone."""

import ast
import json
import os
import pickle
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsf import loading
from dsf.loading import LoadError, errors, load_model

TOKENS = torch.arange(7).unsqueeze(0)


def respell(folder, change):
    """Save the folder's weights again after ``change``."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_saved_model_comes_back(saved_model, folder, no_network):
    loaded = load_model(folder)
    assert torch.equal(loaded.model(TOKENS).logits, saved_model[0](TOKENS).logits)
    assert not loaded.model.training
    assert loaded.identity == str(folder)
    assert loaded.revision is None
    assert loaded.tokenizer is None
    assert loaded.notes == ()
    assert no_network == []


def test_hashes_follow_the_files(folder, change_config):
    first = load_model(folder)
    respell(folder, lambda weights: weights["transformer.ln_f.bias"].add_(1.0))
    second = load_model(folder)
    third = load_model(change_config(resid_pdrop=0.5))
    assert first.weights_hash != second.weights_hash == third.weights_hash
    assert first.config_hash == second.config_hash != third.config_hash


def test_random_numbers_and_logging_go_on_as_before(folder):
    from transformers.utils import logging

    before, level = logging.get_verbosity(), logging.INFO
    logging.set_verbosity(level)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_model(folder)
    assert torch.equal(torch.rand(3), expected)
    after = logging.get_verbosity()
    logging.set_verbosity(before)
    assert after == level
    assert logging.is_progress_bar_enabled()


def test_another_number_type(folder):
    model = load_model(folder, dtype=torch.float64).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}


def test_weights_do_not_follow_the_file(folder):
    """A tensor on a mapped file changes when somebody writes to the file."""
    model = load_model(folder).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = folder / "model.safetensors"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\x01" * (path.stat().st_size // 2))
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tokenizer_comes_along(folder):
    (folder / "tokenizer.json").write_text(json.dumps(WORDS))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "?",
        "chat_template": "{{ 1 }}",
        "auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    write_code(folder / "evil.py", folder / "ran")
    loaded = load_model(folder)
    assert loaded.tokenizer("b a c")["input_ids"] == [2, 1, 0]
    assert loaded.tokenizer.chat_template is None
    assert not (folder / "ran").exists()


def test_a_broken_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(LoadError, match="tokenizer"):
        load_model(folder)


def test_pickles_beside_the_weights_stay_closed(folder):
    plant_pickle(folder / "pytorch_model.bin", folder / "ran")
    plant_pickle(folder / "training_args.bin", folder / "ran")
    (note,) = load_model(folder).notes
    assert note == ("ignored 'pytorch_model.bin', 'training_args.bin': pickles are not opened.")
    assert not (folder / "ran").exists()


def test_pickles_alone_are_refused_with_a_cure(folder):
    (folder / "model.safetensors").unlink()
    plant_pickle(folder / "pytorch_model.bin", folder / "ran")
    with pytest.raises(LoadError, match="save_pretrained"):
        load_model(folder)
    assert not (folder / "ran").exists()


def test_missing_weights_are_an_error(folder):
    respell(folder, lambda weights: weights.pop("transformer.h.0.ln_1.weight"))
    state = torch.get_rng_state()
    with pytest.raises(LoadError, match=r"'transformer.h.0.ln_1.weight'"):
        load_model(folder)
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_of_another_shape_are_an_error(folder, change_config):
    change_config(n_inner=40)
    with pytest.raises(LoadError, match=r"'transformer.h.0.mlp.c_fc.bias'"):
        load_model(folder)


def test_weights_without_a_place_are_noted(folder):
    respell(folder, lambda weights: weights.update(strange=torch.ones(2)))
    assert load_model(folder).notes == ("ignored weights that the model does not use: 'strange'.",)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_links_are_not_followed(folder, name):
    outside = folder.parent / "outside"
    (folder / name).touch()
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(LoadError, match=f"'{name}' is a link"):
        load_model(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_opened(folder):
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(LoadError, match="regular file"):
        load_model(folder)


def test_files_that_redirect_the_library_are_not_read(folder, no_network):
    """An adapter, a distributed checkpoint and generation code each change what a folder loads."""
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    plant_pickle(folder / ".metadata", folder / "ran")
    (folder / "custom_generate").mkdir()
    write_code(folder / "custom_generate" / "generate.py", folder / "ran")
    load_model(folder)
    assert no_network == []
    assert not (folder / "ran").exists()


def test_a_file_and_a_revision_are_refused(folder):
    with pytest.raises(LoadError, match="folder"):
        load_model(folder / "model.safetensors")
    with pytest.raises(LoadError, match="'main'"):
        load_model(folder, revision="main")


def test_old_libraries_are_refused(monkeypatch):
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    with pytest.raises(LoadError, match=r"4\.57\.1"):
        errors.model_library()


def test_without_the_model_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LoadError, match=r'pip install "dsf-toolkit\[hf\]"'):
        load_model(folder)


def test_the_model_library_is_imported_late():
    """Importing it takes a second, and it may be absent."""
    home = Path(loading.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in home.rglob("*.py")]
    top = [node for tree in trees for node in tree.body]
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert {"torch", "json"} <= names
    assert not [name for name in names if name.startswith(("transformers", "huggingface_hub"))]


class Runs:
    """Unpickling this runs a command."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def plant_pickle(path, mark):
    path.write_bytes(pickle.dumps(Runs(mark)))


def write_code(path, mark):
    path.write_text(f"import os\nos.mkdir({str(mark)!r})\n")


WORDS = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"?": 0, "a": 1, "b": 2}, "unk_token": "?"},
}


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint32, torch.int8, torch.complex64])
def test_weights_are_floating_point_numbers(folder, dtype):
    """The same bytes under another name of their type are other numbers, and no weights."""

    def relabel(weights):
        name = "transformer.h.0.mlp.c_fc.bias"
        weights[name] = weights[name].to(dtype)

    respell(folder, relabel)
    with pytest.raises(LoadError, match=r"c_fc\.bias'"):
        load_model(folder)


def test_whole_numbers_may_stand_where_the_model_has_them(folder):
    respell(folder, lambda weights: weights.update(strange=torch.ones(2, dtype=torch.int64)))
    assert "'strange'" in load_model(folder).notes[0]


def test_an_embedding_out_of_the_output_is_told(folder, change_config):
    """The files have the table once; which name it bears there says where its numbers are from."""
    change_config(tie_word_embeddings=True)
    usual = load_model(folder)
    assert usual.notes == ()

    def renamed(weights):
        weights["lm_head.weight"] = weights.pop("transformer.wte.weight")

    respell(folder, renamed)
    found = load_model(folder)
    (note,) = found.notes
    assert "transformer.wte.weight is in no file; its numbers are those of lm_head.weight" in note
    assert torch.equal(found.model.lm_head.weight, usual.model.lm_head.weight)


def test_two_tensors_for_one_weight_are_refused(folder):
    """The model library takes one of them, and does not say which."""

    def doubled(weights):
        weights["wte.weight"] = weights["transformer.wte.weight"] + 1

    respell(folder, doubled)
    with pytest.raises(LoadError, match=r"'wte.weight'"):
        load_model(folder)


def test_without_any_table_of_embeddings_nothing_is_loaded(folder, change_config):
    change_config(tie_word_embeddings=True)
    respell(folder, lambda weights: weights.pop("transformer.wte.weight"))
    with pytest.raises(LoadError, match="at random"):
        load_model(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_labels": 10**9}, "'num_labels' is '1000000000', where at most 100000 are built"),
        ({"depths": [2, 10**7]}, "'depths' is '.2, 10000000.', where at most 10000 are built"),
        ({"n_layer": 9_000}, "more than .* modules"),
        ({"n_embd": 2**20}, "asks for .* weights"),
        ({"n_positions": 2**22, "n_embd": 16}, "asks for .* weights"),
    ],
)
def test_vast_settings_are_refused_at_once(folder, change_config, settings, said):
    change_config(**settings)
    begin = time.process_time()
    with pytest.raises(LoadError, match=said):
        load_model(folder)
    assert time.process_time() - begin < 10


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]},
        {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        [1],
        {"dtype": "F32", "shape": 8, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2**63], "data_offsets": [0, 8]},
    ],
)
def test_headers_that_describe_no_plain_tensors(folder, entry):
    text = json.dumps({"a": entry}).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match=r"model\.safetensors"):
        load_model(folder)
