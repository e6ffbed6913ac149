"""The patch convolution of lfm3_vl's vision tower, over two images of other shapes."""

import pytest
import torch
import transformers

import dsf
from dsf.testing import redraw

GRIDS = [[1, 2, 4], [1, 4, 2]]


@pytest.fixture(scope="module")
def model():
    cls = getattr(transformers, "Lfm3VlVisionModel", None)
    if cls is None:
        pytest.skip(f"transformers {transformers.__version__} has no lfm3_vl")
    settings = {"hidden_size": 12, "intermediate_size": 20, "in_channels": 1, "patch_size": 2}
    settings |= {"num_hidden_layers": 1, "num_attention_heads": 3, "num_key_value_heads": 3}
    config = cls.config_class(**settings, layer_types=["conv"])
    model = cls(config).eval()
    redraw(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def call(model):
    width = model.patch_embed.in_features
    patches = torch.randn(16, width, generator=torch.Generator().manual_seed(1))
    return {"pixel_values": patches, "grid_thw": torch.tensor(GRIDS)}


def test_the_filter_of_every_frame_is_read(model, call):
    """No adapter names it: unit values in a recording of its call give its map."""
    layers = dsf.inspect(model, exact=True, **call)
    assert layers.unsupported == ()
    assert max(layer.error for layer in layers) < 1e-13
    assert all(layer.is_exact for layer in layers)
    assert [layer.map().shape[-1] for layer in layers] == [8, 8]
    kernel = model.layers[0].conv.spatial_conv.weight.double()
    token = torch.zeros(1, 12, 2, 4, dtype=torch.float64)
    token[..., 1, 2] = 1
    moved = torch.nn.functional.conv2d(token, kernel, padding=1, groups=12)
    blocks = torch.tensor([0, 1, 4, 5, 2, 3, 6, 7])  # patches are ordered block by block
    map = layers[0].map()[0][:, blocks][:, :, blocks].reshape(12, 2, 4, 2, 4)
    torch.testing.assert_close(map[..., 1, 2], moved[0], atol=1e-12, rtol=0)
