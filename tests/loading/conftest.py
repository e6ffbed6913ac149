"""A small GPT-2 with lively weights, saved once and copied for every test that spoils it."""

import json
import shutil

import pytest
import torch


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """The model, and the folder it was saved to."""
    transformers = pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2,
        n_embd=16,
        n_head=2,
        vocab_size=50,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.5,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("saved") / "gpt2"
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture
def folder(saved_model, tmp_path):
    """A fresh copy of the saved folder."""
    return shutil.copytree(saved_model[1], tmp_path / "model")


@pytest.fixture
def change_config(folder):
    """Change settings in the copy's ``config.json``; None removes one."""

    def change(**settings):
        path = folder / "config.json"
        values = json.loads(path.read_text()) | settings
        kept = {name: value for name, value in values.items() if value is not None}
        path.write_text(json.dumps(kept))
        return folder

    return change


@pytest.fixture
def no_network(monkeypatch):
    """Every attempt to reach another machine is written down and fails."""
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    return attempts
