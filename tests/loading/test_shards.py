"""Weights in several files: the index is a stranger's too."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from dsf.loading import LoadError, load_model

TOKENS = torch.arange(7).unsqueeze(0)


def shard(folder, table=None):
    """Split the weights over two files with an index; ``table`` overrides its file names."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    where = {}
    for file, members in parts.items():
        save_file({name: weights[name] for name in members}, folder / file)
        where |= dict.fromkeys(members, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where | (table or {})}))


def test_shards(saved_model, folder):
    shard(folder)
    assert torch.equal(load_model(folder).model(TOKENS).logits, saved_model[0](TOKENS).logits)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("../../outside.safetensors", "leads out of the folder"),
        ("/outside.safetensors", "leads out of the folder"),
        ("..\\outside.safetensors", "leads out of the folder"),
        ("C:outside.safetensors", "leads out of the folder"),
        ("three.safetensors", "has no file 'three.safetensors'"),
        ("one.bin", ".safetensors file"),
        (7, "no 'weight_map' from names to files"),
    ],
)
def test_an_index_stays_inside_the_folder(folder, file, words):
    save_file({"stolen": torch.ones(1)}, folder.parent.parent / "outside.safetensors")
    shard(folder, {"stolen": file})
    with pytest.raises(LoadError, match=words):
        load_model(folder)


def test_one_name_in_two_shards(folder):
    shard(folder)
    first = load_file(folder / "one.safetensors")
    name = next(iter(first))
    second = load_file(folder / "two.safetensors")
    save_file(second | {name: first[name]}, folder / "two.safetensors")
    with pytest.raises(LoadError, match="another file"):
        load_model(folder)
