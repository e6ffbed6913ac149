"""Under ``dsf.attentions`` every layer of every family has the map that ``inspect`` finds."""

import pytest
import torch
from torch.testing import assert_close

import dsf
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models

RECURRENT = tuple(tiny_models.FAMILIES)
SOFTMAX = tuple(softmax_models.BUILT)
FIELDS = ("encoder_attentions", "decoder_attentions", "cross_attentions")
FLOAT32_TOL = 5e-6
"""Largest difference of a map from that of the float64 rebuild, over its largest entry."""


def opened(name):
    """A tiny model of the releases page, and what it is called with."""
    if name in SOFTMAX:
        return softmax_models.build(name), softmax_models.inputs(name)
    tiny_models.skip_a_known_defect(name)
    inputs = {"input_ids": tiny_models.inputs()["input_ids"]}
    # Its own cache has the wrong width where attention is wider than the stream.
    return tiny_models.build(name), inputs | ({"use_cache": False} if name == "rwkv" else {})


def returned(output):
    """The maps of an output, in the order of its fields."""
    if "encoder_attentions" not in output:
        return list(output.attentions)
    return [map for field in FIELDS for map in output[field]]


@pytest.mark.sampled(count=3)
@pytest.mark.parametrize("name", [*RECURRENT, *SOFTMAX])
@torch.no_grad()
def test_every_layer_of_every_family_has_the_map_of_its_inspection(name):
    model, inputs = opened(name)
    plain = model(**inputs)
    with dsf.attentions(model) as seen:
        output = model(**inputs)
    assert output[0].equal(plain[0])
    inspection, maps = dsf.inspect(model, checks="none", **inputs), dict(seen.maps)
    assert sorted(maps) == sorted(layer.name for layer in inspection)
    for layer in inspection:
        expected, found = layer.map(), maps[layer.name].double()
        assert found.shape == (len(expected), found.shape[1], *expected.shape[-2:])
        limit = FLOAT32_TOL * expected.abs().max().item()
        assert_close(found.reshape(expected.shape), expected, rtol=0, atol=limit)
    several = returned(output)
    assert len(several) == len(maps)
    assert all(any(one.equal(map) for map in maps.values()) for one in several)
