"""A run with edits is the clean run again, whatever a model or its hooks keep."""

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.inspection.errors import ReconstructionError
from dsf.loading import load_model
from tests.attribution.test_planted_layers import planted, scores_off


class Workspace(nn.Module):
    """Puts its output into a tensor that it keeps."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)])
        self.kept = torch.zeros(1, 6, 8)

    def forward(self, x):
        self.kept.copy_(x + self.blocks[0](x, x, x)[0])
        return self.kept


def test_an_output_that_the_next_run_writes_into_is_copied():
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    model = Workspace()
    result = dsf.intervene(model, x, edits=edits.Cut(0, key=[1]))
    torch.testing.assert_close(result.clean, model(x).detach())
    assert not torch.equal(result.output, result.clean)


def test_a_mistake_in_an_edited_layer_is_refused(monkeypatch):
    model = load_model(dsf.models.folder("llama")).model.double()
    ids = torch.arange(1, 10)[None]
    dsf.intervene(model, edits=edits.Ablate(1), input_ids=ids)
    planted(monkeypatch, read=scores_off)
    for layer in (0, -1, "*.1.*", slice(1, None)):
        with pytest.raises(ReconstructionError, match="differs"):
            dsf.intervene(model, edits=edits.Ablate(layer), input_ids=ids)
