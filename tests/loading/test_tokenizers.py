"""Tokenizers of strangers: opened in a child process first, whatever is wrong with them."""

import json
import shutil
import sys

import pytest
import torch

from dsf import models
from dsf.loading import LoadError, load_model, read_model_tokenizer, tokenizer

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')


@pytest.fixture
def spoiled(tmp_path):
    """A copy of an embedded model whose ``tokenizer.json`` has other parts."""
    folder = shutil.copytree(models.folder("text_llama"), tmp_path / "model")

    def with_parts(**parts):
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | parts))
        return folder

    return with_parts


def precompiled(charsmap):
    return {"type": "Precompiled", "precompiled_charsmap": charsmap}


def split(regex):
    return {
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": "Isolated",
        "invert": False,
    }


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"normalizer": precompiled("AAAA")}, "PanicException"),
        ({"normalizer": precompiled("/////w==")}, "stopped .*code -"),
        ({"pre_tokenizer": split("(((")}, "Oniguruma"),
        ({"pre_tokenizer": split("(( x)+)+y")}, "PanicException"),
        ({"model": {"type": "BPE"}}, "cannot be read"),
    ],
    ids=["panic", "abort", "pattern", "panic when used", "no vocabulary"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="processes end in other ways there")
def test_a_broken_tokenizer_is_an_error_of_ours(spoiled, parts, said):
    folder = spoiled(**parts)
    cure = r"without the tokenizer's files \(tokenizer_config.json, tokenizer.json\)"
    with pytest.raises(LoadError, match=f"{said}.*; pass a folder {cure}, and give token ids"):
        read_model_tokenizer(folder)


def test_without_its_tokenizer_the_model_loads(spoiled):
    folder = spoiled(normalizer=precompiled("AAAA"))
    with pytest.raises(LoadError, match="tokenizer"):
        load_model(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert load_model(folder).tokenizer is None


def test_a_text_that_breaks_it_is_tried_first(spoiled):
    """A pattern that only some texts drive out of its limits."""
    folder = spoiled(pre_tokenizer=split("((qq)+)+z"))
    assert read_model_tokenizer(folder) is not None
    with pytest.raises(LoadError, match="PanicException"):
        read_model_tokenizer(folder, texts=["q" * 400])
    with pytest.raises(LoadError, match="PanicException"):
        load_model(folder, texts=["q" * 400])


@pytest.mark.skipif(sys.platform == "win32", reason="processes have no such limits there")
@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("_SECONDS", 0, "the process that opened it stopped"),
        ("_BYTES_OF_MEMORY", 1024**2, "MemoryError|Cannot allocate memory"),
    ],
)
def test_time_and_memory_are_limited(spoiled, monkeypatch, limit, value, said):
    monkeypatch.setattr(tokenizer, limit, value)
    with pytest.raises(LoadError, match=said):
        read_model_tokenizer(spoiled(version="1.0", truncation=None))


def test_a_child_that_does_not_answer(spoiled, monkeypatch, tmp_path):
    (tmp_path / "sleep.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(tokenizer, "_PROGRAM", str(tmp_path / "sleep.py"))
    monkeypatch.setattr(tokenizer, "_GRACE_SECONDS", -10)
    with pytest.raises(LoadError, match="took too long"):
        read_model_tokenizer(spoiled(normalizer={"type": "NFKC"}))


def test_what_it_prints_is_not_its_answer(spoiled, monkeypatch, capfd):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    assert read_model_tokenizer(spoiled(padding=None)) is not None
    assert capfd.readouterr().err == ""


def test_our_own_need_no_child(monkeypatch):
    monkeypatch.setattr(tokenizer.subprocess, "Popen", None)
    found = read_model_tokenizer(models.folder("text_mamba"))
    assert found is not None
    with pytest.raises(TypeError):
        tokenizer.Child({"seconds": 1})


def test_what_a_child_got_through_is_not_tried_again(spoiled, monkeypatch):
    folder = spoiled(normalizer={"type": "NFC"})
    first = read_model_tokenizer(folder)
    monkeypatch.setattr(tokenizer.subprocess, "Popen", None)
    again = read_model_tokenizer(folder)
    assert again("to be")["input_ids"] == first("to be")["input_ids"]
    with pytest.raises(TypeError):
        read_model_tokenizer(folder, texts=["another text"])


def test_a_model_that_cannot_be_built_leaves_no_child_behind(spoiled, monkeypatch):
    folder = spoiled(normalizer={"type": "Lowercase"})
    (folder / "model.safetensors").write_bytes(b"")
    children = []
    made = tokenizer.subprocess.Popen

    def remembered(*arguments, **options):
        children.append(made(*arguments, **options))
        return children[-1]

    monkeypatch.setattr(tokenizer.subprocess, "Popen", remembered)
    with pytest.raises(LoadError, match=r"model\.safetensors"):
        load_model(folder)
    assert [child.poll() is not None for child in children] == [True]


def test_it_is_the_tokenizer_of_the_library(spoiled):
    """The child only tries: what is returned is opened here, and reads as it always did."""
    own = read_model_tokenizer(models.folder("text_llama"))
    other = read_model_tokenizer(spoiled(normalizer=None))
    text = "Out, out, brief candle!"
    torch.testing.assert_close(own(text)["input_ids"], other(text)["input_ids"])


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    "name",
    ["vocab", "merges", "vocab_file", "merges_file", "tokenizer_file", "fast_tokenizer_files",
     "spm_file", "sp_model_kwargs", "mecab_kwargs", "gguf_file", "tokenizer_object"],
)  # fmt: skip
def test_no_setting_names_a_file_outside_the_folder(spoiled, tmp_path, file, name):
    """The lines of such a file became tokens, and stood in reports."""
    secret = tmp_path / "secret"
    secret.write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nPRIVATE\n")
    folder = spoiled()
    expected = read_model_tokenizer(folder).get_vocab()
    path = folder / file
    settings = json.loads(path.read_text()) if path.exists() else {}
    value = {"model_file": str(secret)} if "kwargs" in name else str(secret)
    path.write_text(json.dumps(settings | {name: value}))
    assert read_model_tokenizer(folder).get_vocab() == expected


def test_a_class_whose_vocabulary_is_a_setting_reads_no_file(spoiled, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\nPRIVATE\n")
    folder = spoiled()
    (folder / "merges.txt").write_text("x\n")
    settings = {"tokenizer_class": "BertTokenizer", "vocab": str(secret)}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(LoadError, match=r"Missing .UNK. token"):
        read_model_tokenizer(folder)
