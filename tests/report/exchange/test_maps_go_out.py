"""Maps as arrays and as viewers want them: the same numbers, with names on their axes."""

import json

import numpy as np
import pytest
import safetensors
import torch
from torch import nn

import dsf
from dsf.models import folder, recall
from dsf.report import exchange

TOKENS = recall.draw(torch.Generator().manual_seed(0), 2, pairs=3, length=10).tokens


@pytest.fixture(scope="module")
def inspection():
    pytest.importorskip("transformers")
    spelt = [recall.spell(row) for row in TOKENS]
    spelt[0][0] = "<script>"
    return dsf.inspect(folder("qwen3_next"), input_ids=TOKENS, tokens=spelt)


@pytest.fixture(scope="module")
def with_ports():
    """The last input port of an Elman network is a constant one."""
    return dsf.inspect(nn.RNN(3, 4, batch_first=True), torch.randn(2, 5, 3), exact=True)


def stored(write, inspection, tmp_path):
    """All maps and what is said about them, read back by the format's own reader."""
    if write is exchange.to_npz:
        arrays = dict(np.load(write(inspection, tmp_path / "maps.npz")))
        return arrays, json.loads(str(arrays.pop("about")))
    path = write(inspection, tmp_path / "maps.safetensors")
    with safetensors.safe_open(path, "np") as file:
        about = json.loads(file.metadata()["about"])
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


@pytest.mark.parametrize("write", [exchange.to_npz, exchange.to_safetensors])
def test_a_file_holds_every_map_and_says_what_it_is(write, inspection, with_ports, tmp_path):
    arrays, about = stored(write, inspection, tmp_path)
    assert list(tmp_path.iterdir()) != []
    assert set(arrays) == {layer.name for layer in inspection}
    for layer, record in zip(inspection, about["layers"], strict=True):
        assert np.array_equal(arrays[layer.name], layer.map().float().numpy())
        assert record["name"] == layer.name
        assert record["axes"] == ["sample", "head", "query", "key"]
        assert record["error"] == layer.error
    assert about["tokens"][1] == list(inspection.tokens[1])
    arrays, about = stored(write, with_ports, tmp_path)
    (layer,), (record,) = with_ports, about["layers"]
    assert record["axes"] == ["sample", "query", "output", "key", "input"]
    by_hand = layer.map().reshape(2, 5, 4, 5, 4).float().numpy()
    assert np.array_equal(arrays[layer.name], by_hand)


def test_xarray_knows_tokens_by_name(inspection, with_ports):
    pytest.importorskip("xarray", reason="xarray is not installed")
    tree = exchange.to_xarray(inspection)
    for layer in inspection:
        map = tree[layer.name]["map"]
        assert map.dims == ("sample", "head", "query", "key")
        assert np.array_equal(map.values, layer.map().float().numpy())
        assert map.attrs["error"] == layer.error
        assert map["key_token"].sel(sample=1).values.tolist() == list(inspection.tokens[1])
    assert exchange.to_xarray(with_ports)["RNN[layer 0]"]["map"].sizes["input"] == 4


def test_bertviz_gets_heads_of_one_sample(inspection):
    maps, tokens = exchange.to_bertviz(inspection, layers=[1, 2], sample=1, heads=slice(1, 3))
    assert [map.shape for map in maps] == [(1, 2, 10, 10)] * 2
    torch.testing.assert_close(maps[1][0], inspection[2].map()[1, 1:3].float())
    assert tokens == list(inspection.tokens[1])
    with pytest.raises(ValueError, match="layers="):
        exchange.to_bertviz(inspection)


def test_circuitsvis_gets_signs_and_tokens_that_are_no_markup(inspection):
    given = exchange.to_circuitsvis(inspection, 1)
    torch.testing.assert_close(given["attention"], inspection[1].map()[0].float())
    assert given["attention"].min() < 0
    assert given["tokens"][0] == "‹script›"


def test_a_channel_is_a_head_and_a_rectangle_is_refused(with_ports):
    recurrent = dsf.inspect(nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3))
    assert exchange.to_circuitsvis(recurrent, sample=1)["attention"].shape == (4, 5, 5)
    with pytest.raises(ValueError, match=r"RNN\[layer 0\]"):
        exchange.to_circuitsvis(with_ports)
