"""The patch convolution of lfm3_vl's vision tower, over two images of other shapes and a video."""

import pytest
import torch
import transformers

import dsf
from dsf.inspection.families.convolutions import GridConvolution
from dsf.testing.models import redraw

GRIDS = [[1, 4, 6], [1, 6, 4], [2, 2, 4]]


@pytest.fixture(scope="module")
def model():
    cls = getattr(transformers, "Lfm3VlVisionModel", None)
    if cls is None:
        pytest.skip(f"transformers {transformers.__version__} has no lfm3_vl")
    settings = {"hidden_size": 12, "intermediate_size": 20, "in_channels": 1, "patch_size": 2}
    settings |= {"num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3}
    config = cls.config_class(**settings, layer_types=["conv", "conv"])
    model = cls(config).eval()
    redraw(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def call(model):
    width = model.patch_embed.in_features
    patches = torch.randn(64, width, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": patches, "grid_thw": torch.tensor(GRIDS)}


def test_it_is_rebuilt(model, call):
    assert max(layer.error for layer in dsf.inspect(model, **call)) < 3e-6
    layers = dsf.inspect(model, exact=True, **call)
    assert [layer.name for layer in layers] == ["layers.0.conv", "layers.1.conv"]
    assert layers.unsupported == ()
    assert max(layer.error for layer in layers) < 1e-13


def test_frames_know_nothing_of_each_other_and_neighbours_do(model, call):
    map = dsf.inspect(model, exact=True, **call)[0].map()
    frame = torch.tensor([0] * 24 + [1] * 24 + [2] * 8 + [3] * 8)
    apart = frame[:, None] != frame
    assert (map[:, apart] == 0).all()
    assert (map != 0).sum(dim=-1).amax() == 9
    share = 1 - map.diagonal(dim1=-2, dim2=-1).square().sum() / map.square().sum()
    assert share.sqrt() > 0.5


def test_unit_values_give_the_same(model, call):
    """Its first axis counts tokens, so the ports give it one sample."""
    layer = dsf.inspect(model, exact=True, **call)[0]
    ports = dsf.inspection.Probe(
        value=dsf.inspection.Port("in_proj", lambda out: out[None].chunk(3, dim=-1)[2]),
        response=dsf.inspection.Port("out_proj(input)", lambda given: given[None]),
    )
    (driven, _) = dsf.inspect(model, exact=True, probe={layer.name: ports}, **call)
    assert driven.axes == ("sample", "channel")
    torch.testing.assert_close(driven.map()[0], layer.map(), atol=1e-12, rtol=0)


@pytest.mark.usefixtures("our_own_errors")
def test_its_mixer_keeps_the_laws():
    """It reads both ways; of nine taps six meet nothing in a single row of patches."""
    expected = {"causality": "it reads both ways"}
    found = dsf.testing.check_mixer(GridConvolution, expected_failures=expected)
    refuted = [one.witness["law"] for one in found if one.verdict is dsf.certify.Verdict.REFUTED]
    assert refuted == ["causality"]
