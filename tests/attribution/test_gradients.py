"""Shares by gradient predict what a cut loses; held, direct and gradient agree where they must."""

import copy

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.inspection.errors import InspectionError
from dsf.models import folder, recall
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")
STEP = 1e-4


def prompt(samples=1, length=12):
    rng = torch.Generator().manual_seed(0)
    return recall.draw(rng, samples, pairs=length // 4, length=length).tokens


def model_of(name):
    if name in ("llama", "mamba", "mamba2"):
        return transformers.AutoModelForCausalLM.from_pretrained(folder(name)).double()
    return tiny_models.build(name).double()


def lost(model, ids, edit, target=7, against=9):
    """What the difference of two logits loses by an edit; another engine than attribution's."""
    return -dsf.intervene(model, input_ids=ids, edits=edit).effect(target, against)


def slope(model, ids, layer, **chosen):
    """The derivative of the number in a factor of some edges, by central differences."""
    up, down = (lost(model, ids, edits.Scale(layer, 1 + by, **chosen)) for by in (STEP, -STEP))
    return (down - up) / (2 * STEP)


@pytest.fixture(scope="module", params=["llama", "mamba2", "qwen3_next"])
def attributed(request):
    model, ids = model_of(request.param), prompt()
    stack = dsf.stack(model, input_ids=ids)
    return model, ids, stack, stack.attribute(7, against=9)


def test_an_edge_by_gradient_is_the_derivative_in_its_factor(attributed):
    """Oracle: finite differences of edited runs."""
    model, ids, stack, share = attributed
    for mixer in stack.mixers:
        sums = share.edge_sums(mixer.name, by="gradient")
        for written, read in ((11, 2), (5, 5)):
            expected = slope(model, ids, mixer.name, query=written, key=read)
            torch.testing.assert_close(sums[:, written, read], expected, rtol=1e-5, atol=1e-8)
        edges = share.edges(mixer.name, by="gradient")
        total = edges.flatten(1, -3).sum(dim=1) if edges.ndim > 3 else edges
        torch.testing.assert_close(total, sums)


def test_a_head_by_gradient_is_the_derivative_in_the_factor_of_all_its_edges(attributed):
    model, ids, _, share = attributed
    heads = share.heads(by="gradient")
    for layer in range(heads.shape[1]):
        expected = slope(model, ids, layer, heads=[1])
        torch.testing.assert_close(heads[:, layer, 1], expected, rtol=1e-4, atol=1e-7)


def test_heads_sum_to_their_layer(attributed):
    _, _, stack, share = attributed
    for by, whole in (("held", share.total), ("direct", share.layers)):
        sums = share.heads(by).nansum(dim=-1)
        for row, layer in enumerate(stack.inspection):
            torch.testing.assert_close(sums[:, row], whole[layer.name])


class Without(nn.Module):
    """Puts out zeros, so that nothing that is not linear is behind the last mixer."""

    def forward(self, x):
        return torch.zeros_like(x)


@pytest.fixture(params=["llama", "mamba"])
def linear_behind(request):
    model = copy.deepcopy(model_of(request.param))
    if request.param == "llama":
        model.model.layers[-1].mlp, model.model.norm = Without(), nn.Identity()
    else:
        model.backbone.norm_f = nn.Identity()
    return request.param, model


def test_what_is_predicted_is_what_is_measured_where_all_behind_is_linear(linear_behind):
    """The bias of the values is counted, since a cut takes it along."""
    name, model = linear_behind
    ids = prompt()
    share = dsf.stack(model, input_ids=ids).attribute(7, against=9)
    predicted = share.edge_sums(-1, by="gradient")
    for read in (0, 4, 11):
        cut = edits.Cut(-1, query=-1, key=read)
        torch.testing.assert_close(
            predicted[:, -1, read], lost(model, ids, cut), rtol=1e-9, atol=1e-9
        )
    if name == "llama":  # whose values have no bias
        torch.testing.assert_close(share.edges(-1, by="gradient"), share.edges(-1, by="held"))
        torch.testing.assert_close(share.edges(-1, by="direct"), share.edges(-1, by="held"))


def test_an_agreement_has_the_losses_that_edited_runs_have(attributed):
    model, ids, _, share = attributed
    found = share.agreement(edits=6)
    assert len(found.edges) == 6
    for edge in (found.edges[0], found.edges[5]):
        cut = edits.Cut(edge["layer"], query=edge["query"], key=edge["key"])
        assert edge["measured"] == pytest.approx(lost(model, ids, cut).item(), abs=1e-10)
        for by in ("held", "gradient"):
            sums = share.edge_sums(edge["layer"], by)
            assert edge[by] == sums[0, edge["query"], edge["key"]].item()
    for by in ("held", "gradient"):
        assert -1 <= found.spearman(by) <= 1
        assert -1 <= found.pearson(by) <= 1


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_an_integrated_gradient_is_what_is_lost(name):
    """A gated delta rule bends too sharply for few points, where its norm divides by little."""
    model, ids = model_of(name), prompt()
    share = dsf.stack(model, input_ids=ids).attribute(7, against=9)
    (edge,) = share.strongest_edges(1, by="gradient", steps=12)
    cut = edits.Cut(edge["layer"], query=edge["query"], key=edge["key"])
    measured = lost(model, ids, cut).item()
    assert abs(edge["integrated"] - measured) < 0.1 * abs(edge["share"] - measured)
    assert "integrated" not in share.strongest_edges(1, by="gradient", steps=0)[0]
    (head,) = share.strongest_heads(1, by="gradient", steps=12)
    measured = lost(model, ids, edits.Ablate(head["layer"], heads=[head["head"]])).item()
    assert abs(head["integrated"] - measured) < 0.1 * abs(head["share"] - measured)


def test_a_number_of_a_stream_has_gradients_too():
    model, ids = model_of("llama"), prompt()
    vector = torch.linspace(-1, 1, model.config.hidden_size, dtype=torch.float64)
    stack = dsf.stack(model, input_ids=ids)
    share = stack.attribute(vector, stream=1)
    first, second = (layer.name for layer in stack.inspection)
    assert share.edge_sums(first, by="gradient").any()
    with pytest.raises(KeyError):
        share.edges(second, by="gradient")
    assert share.heads(by="gradient")[:, 1].isnan().all()


def test_layers_are_named_by_number_and_pattern(attributed):
    _, _, stack, share = attributed
    name = stack.inspection[0].name
    for layer in (0, name, "*.0.*"):
        assert torch.equal(share.edges(layer), share.edges(name))
    for wrong in (99, "*.9.*", "*"):
        with pytest.raises(KeyError, match="layer"):
            share.edges(wrong)


def test_every_sample_has_a_position_of_its_own():
    model, ids = model_of("mamba2"), prompt(samples=2)
    stack = dsf.stack(model, input_ids=ids)
    both = stack.attribute(7, against=9, position=[3, -2])
    for sample, position in enumerate((3, -2)):
        alone = stack.attribute(7, against=9, position=position)
        torch.testing.assert_close(both.tokens[sample], alone.tokens[sample])
        sums = (each.edge_sums(0, by="gradient")[sample] for each in (both, alone))
        torch.testing.assert_close(*sums)


def test_the_last_position_is_the_last_token_that_is_no_padding():
    model, ids = model_of("llama"), prompt()
    padding = torch.zeros(1, 3, dtype=torch.long)
    right, left = torch.cat([ids, padding], dim=1), torch.cat([padding, ids], dim=1)
    shown = torch.ones_like(right)
    shown[:, -3:] = 0
    masks = torch.cat([shown, shown.flip(1)])
    batch = {"input_ids": torch.cat([right, left]), "attention_mask": masks}
    stack = dsf.stack(model, **batch)
    share, alone = (each.attribute(7, 9) for each in (stack, dsf.stack(model, input_ids=ids)))
    torch.testing.assert_close(share.value, alone.value.expand(2))
    torch.testing.assert_close(share.tokens[0, :12], alone.tokens[0])
    for by in ("held", "gradient"):
        sums, expected = share.edge_sums(1, by), alone.edge_sums(1, by)[0]
        torch.testing.assert_close(sums[0, :12, :12], expected)
        torch.testing.assert_close(sums[1, 3:, 3:], expected)
    edit = edits.Ablate(1, heads=[0])
    effects = dsf.sweep(model, edits=[edit], target=7, against=9, **batch)[0]
    torch.testing.assert_close(effects, -lost(model, ids, edit).expand(2))
    with pytest.raises(ValueError, match="padding"):
        stack.attribute(7, position=13)


def test_a_mixer_that_feeds_back_has_no_edges_by_gradient():
    torch.manual_seed(0)
    blocks = nn.ModuleList([nn.LSTM(8, 8, batch_first=True)])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = blocks

        def forward(self, x):
            return x + self.blocks[0](x)[0]

    share = dsf.stack(Model().double(), torch.randn(1, 5, 8).double()).attribute(2)
    with pytest.raises(InspectionError):
        share.edges(0, by="gradient")
    assert "note" in share.strongest_edges(1, by="gradient")[0]
