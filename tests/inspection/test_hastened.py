"""A copy that computes in shorter chunks counts only where layer and run both agree with it."""

import pytest
import torch
from torch import nn
from transformers import Mamba2Config, Mamba2Model

import dsf
from dsf.inspection.errors import ReconstructionError
from dsf.inspection.families import selective_scans

TOKENS = 130


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Mamba2Config(
        vocab_size=32,
        hidden_size=16,
        num_heads=4,
        head_dim=8,
        state_size=8,
        n_groups=1,
        num_hidden_layers=1,
    )
    return Mamba2Model(config).eval()


def inspect(model):
    tokens = torch.randint(0, 32, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    return dsf.inspect(model, input_ids=tokens)[0]


def altered(model, when, by=1e-3):
    """The output of the mixer is larger by a share wherever its chunks are as ``when`` says."""

    def change(module, _, output):
        return output * (1 + by) if when(module.chunk_size) else output

    model.layers[0].mixer.register_forward_hook(change)


def test_chunks_are_shortened_and_the_model_keeps_its_own(model):
    layer = inspect(model)
    assert layer.formula <= 1e-12
    assert model.layers[0].mixer.chunk_size == 256
    module = nn.Module()
    module.chunk_size = 256
    selective_scans.hasten(module)
    assert module.chunk_size == selective_scans.CHUNK == 64


def test_where_short_chunks_differ_the_module_decides(model):
    altered(model, lambda size: size == selective_scans.CHUNK)
    layer = inspect(model)
    assert layer.formula <= 1e-12
    assert layer.rounding < 1e-5


def test_a_mistake_of_the_long_chunks_is_not_hidden(model):
    altered(model, lambda size: size == 256)
    with pytest.raises(ReconstructionError, match="differs by"):
        inspect(model)
