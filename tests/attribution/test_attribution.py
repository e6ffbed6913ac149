"""Shares of a logit: complete in every family, edges as the formula says, wrong targets refused."""

import copy

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.capture.precision import guarded
from dsf.inspection.errors import InspectionError, UnreadableError
from dsf.models import NAMES, folder, recall
from tests.attribution.family_stacks import stack_of_family
from tests.inspection import literal_llama
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")


def prompt(samples=2, length=16):
    rng = torch.Generator().manual_seed(0)
    return recall.draw(rng, samples, pairs=length // 4, length=length).tokens


def model_of(name):
    return transformers.AutoModelForCausalLM.from_pretrained(folder(name)).double()


def logits_of(model, **inputs):
    """The model's own logits in float64."""
    with guarded(model), torch.no_grad():
        return model(**inputs).logits


def assert_complete(share, value, *, within=1e-10):
    """Both sums are the number that the model itself computes, in float64."""
    assert share.value.shape == value.shape
    size = share.tokens.abs().sum(dim=-1) + value.abs()
    assert ((share.value - value).abs() <= within * size).all()
    from_tokens = share.tokens.sum(dim=-1) + share.remainder
    directly = share.embedding + sum(share.layers.values()) + share.remainder
    for total in (from_tokens, directly):
        assert ((total - value).abs() <= within * size).all()


def assert_edges_sum_to_their_layer(share, stack):
    for mixer in stack.mixers:
        edges = share.edges(mixer.name)
        size = edges.abs().flatten(1).sum(dim=1) + 1e-12
        total = share.total[mixer.name]
        for sums in (edges, share.edge_sums(mixer.name)):
            assert ((sums.flatten(1).sum(dim=1) - total).abs() <= 1e-10 * size).all()


@pytest.fixture(scope="module", params=NAMES)
def embedded(request):
    return request.param, dsf.stack(folder(request.param), input_ids=prompt())


def test_shares_of_the_embedded_models_are_complete(embedded):
    name, stack = embedded
    logits = logits_of(model_of(name), input_ids=prompt())
    for target, against, position in ((7, 9, -1), (3, None, 5)):
        share = stack.attribute(target, against, position)
        wanted = logits[:, position, target]
        wanted = wanted if against is None else wanted - logits[:, position, against]
        assert_complete(share, wanted)
        assert_edges_sum_to_their_layer(share, stack)
        after = share.tokens[:, position + 1 :] if position >= 0 else share.tokens[:, :0]
        assert not after.any()
        assert {mixer.name for mixer in stack.mixers} <= set(share.layers)


@pytest.mark.sampled(count=2)
def test_a_share_of_a_token_is_its_gradient_times_it_where_the_run_is_held(embedded):
    """Oracle: the contributions to the last stream, which another pass computes forward."""
    _, stack = embedded
    vector = torch.linspace(-1, 1, stack.hidden[-1].shape[-1], dtype=torch.float64)
    share = stack.attribute(vector, position=9, stream=-1)
    expected = stack.contributions()[:, 9] @ vector
    torch.testing.assert_close(share.tokens, expected)
    torch.testing.assert_close(share.remainder, stack.remainder()[:, 9] @ vector)
    assert_complete(share, stack.hidden[-1][:, 9] @ vector)
    for number, stream in enumerate(share.streams[1:-1], start=1):
        later = stack.contributions(number, len(stack.blocks))[:, 9] @ vector
        torch.testing.assert_close(stream, later)


def test_edges_are_those_of_the_formula():
    """The slope of the logit in a factor of one weight, in blocks that are written out."""
    tokens = prompt()
    stack, model = dsf.stack(folder("llama"), input_ids=tokens), model_of("llama")
    share = stack.attribute(7, position=11)
    model.set_attn_implementation("eager")
    with guarded(model), torch.no_grad():
        run = model(input_ids=tokens, output_attentions=True)
    blocks = [dict(block.state_dict()) for block in model.model.layers]
    factors = [torch.ones_like(weights, requires_grad=True) for weights in run.attentions]
    stream = stack.hidden[0]
    for weights, attention, factor in zip(blocks, run.attentions, factors, strict=True):
        stream = literal_llama.block(weights, stream, attention * factor)
    normed = literal_llama.rms(stream, model.model.norm.weight)
    logit = normed[:, 11] @ model.lm_head.weight[7]
    torch.testing.assert_close(share.value, logit.detach())
    slopes = torch.autograd.grad(logit.sum(), factors)
    for mixer, expected in zip(stack.mixers, slopes, strict=True):
        torch.testing.assert_close(share.edges(mixer.name), expected)


@pytest.mark.sampled(count=9)
@pytest.mark.parametrize("name", sorted(tiny_models.FAMILIES))
def test_shares_are_complete_in_every_recurrent_family(name):
    stack = stack_of_family(name)
    share = stack.attribute(5, position=-1)
    within = max(1e-10, 10 * tiny_models.FAMILIES[name].exact)
    assert_complete(share, stack.logits[:, -1, 5], within=within)
    assert_edges_sum_to_their_layer(share, stack)
    assert stack.mixers


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))

    def forward(self, x):
        x = x + self.attention(x, x, x)[0]
        return self.norm(x + self.mlp(x))  # the norm stands behind the residual connection


class Classifier(nn.Module):
    """Two blocks, the mean over tokens, three classes."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block() for _ in range(2)])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(torch.tanh(x.mean(dim=1)))


@pytest.fixture(scope="module")
def classified():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier().double()
        for part in model.parameters():  # biases that are not zero
            nn.init.normal_(part, std=0.5)
        x = torch.randn(3, 6, 8, dtype=torch.float64)
    return model, x, dsf.stack(model, x)


def test_a_classifier_with_pooling_and_biases(classified):
    model, x, stack = classified
    share = stack.attribute(2, against=0)
    put_out = model(x).detach()
    assert_complete(share, put_out[:, 2] - put_out[:, 0])
    assert_edges_sum_to_their_layer(share, stack)
    assert set(share.layers) == {
        f"blocks.{k}.{part}" for k in "01" for part in ("attention", "mlp")
    }
    assert share.remainder.abs().min() > 1e-3


def test_one_sample_has_the_shares_that_it_has_among_several(classified):
    """Its remainder comes from the adjoint pass; that of several from a run from zero."""
    model, x, stack = classified
    several = stack.attribute(2, against=0)
    for sample in range(3):
        alone = dsf.stack(model, x[sample : sample + 1]).attribute(2, against=0)
        for name in ("value", "tokens", "embedding", "remainder"):
            expected = getattr(several, name)[sample : sample + 1]
            torch.testing.assert_close(getattr(alone, name), expected, rtol=1e-10, atol=1e-12)
        assert_complete(alone, alone.value)


@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_one_sample_with_padding_is_complete(name):
    tokens, shown = prompt()[:1], torch.ones(1, prompt().shape[1], dtype=torch.long)
    shown[:, :3] = 0
    stack = dsf.stack(folder(name), input_ids=tokens, attention_mask=shown)
    share = stack.attribute(7, against=9)
    assert_complete(share, stack.logits[:, -1, 7] - stack.logits[:, -1, 9])


def test_a_number_that_is_zero_has_shares(classified):
    """The last norm takes the mean away, so that the sum over its output is zero."""
    model, x, _ = classified
    plain = copy.deepcopy(model)
    plain.blocks[1].norm = nn.LayerNorm(8, elementwise_affine=False)
    share = dsf.stack(plain.double(), x).attribute(torch.ones(8, dtype=torch.float64), stream=-1)
    assert share.value.abs().max() < 1e-12
    assert share.error < 1e-12


def test_one_target_for_every_sample_and_functions(classified):
    model, x, stack = classified
    put_out = model(x).detach()
    several = stack.attribute([2, 0, 1])
    assert_complete(several, put_out[torch.arange(3), torch.tensor([2, 0, 1])])
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    by_function = stack.attribute(lambda logits: logits @ weights)
    assert_complete(by_function, put_out @ weights)


def test_targets_that_are_none_are_refused(classified):
    _, _, stack = classified
    with pytest.raises(ValueError, match="token 3"):
        stack.attribute(3)
    with pytest.raises(ValueError, match="3 samples"):
        stack.attribute([0, 1])
    with pytest.raises(ValueError, match="no tokenizer"):
        stack.attribute(" Paris")
    with pytest.raises(ValueError, match="not linear"):
        stack.attribute(lambda logits: logits.log_softmax(-1)[:, 0])
    with pytest.raises(ValueError, match="not linear"):
        stack.attribute(lambda logits: logits[:, 0] + 1)
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        stack.attribute(lambda logits: logits)
    with pytest.raises(ValueError, match="'against'"):
        stack.attribute(lambda logits: logits[:, 0], against=1)
    with pytest.raises(TypeError, match="it is bool"):
        stack.attribute(True)
    with pytest.raises(TypeError, match="'stream'"):
        stack.attribute(2, stream=1)
    with pytest.raises(ValueError, match=r"\(8,\)"):
        stack.attribute(torch.ones(4), stream=1)
    with pytest.raises(IndexError, match="stream="):
        stack.attribute(torch.ones(8), stream=9)
    with pytest.raises(IndexError, match="position="):
        stack.attribute(torch.ones(8), stream=1, position=6)
    with pytest.raises(KeyError, match="'nowhere'"):
        stack.attribute(0).edges("nowhere")


def test_logits_that_bend_the_stream_are_refused(classified):
    class Squared(Classifier):
        def forward(self, x):
            return super().forward(x).exp()

    model, x, _ = classified
    bent = Squared().double()
    bent.load_state_dict(model.state_dict())
    stack = dsf.stack(bent, x)
    with pytest.raises(UnreadableError, match="linearly"):
        stack.attribute(0)
    vector = torch.ones(8, dtype=torch.float64)
    assert_complete(stack.attribute(vector, stream=-1), stack.hidden[-1][:, -1] @ vector)


def test_the_strongest_edges_are_those_of_all_layers():
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    share = dsf.stack(model, torch.randn(2, 5, 8)).attribute(torch.arange(8.0), stream=-1)
    everything = [
        (name, i, j, share.edges(name)[1, :, i, j].sum().item())
        for name in share.total
        if "self_attn" in name
        for i in range(5)
        for j in range(5)
    ]
    everything.sort(key=lambda edge: -abs(edge[-1]))
    found = share.strongest_edges(7, sample=1)
    assert [tuple(row.values())[:3] for row in found] == [edge[:3] for edge in everything[:7]]
    assert [row["share"] for row in found] == pytest.approx([edge[-1] for edge in everything[:7]])
    assert len(share.strongest_edges(999)) == 50
    with pytest.raises(ValueError, match="'count'"):
        share.strongest_edges(0)


def tiny(cls, **settings):
    """A model of the library whose parameters are all drawn, so that its biases are not zero."""
    cls = getattr(transformers, cls, None) or pytest.skip(f"no {cls} in this release")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(cls.config_class(vocab_size=20, hidden_size=16, **settings)).double().eval()
        for part in model.parameters():
            nn.init.normal_(part, std=0.3)
    return model


SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize("first", [True, False], ids=["norm first", "norm last"])
def test_a_feed_forward_layer_that_joins_samples_and_tokens(first):
    """OPT computes it on all tokens of all samples as one axis."""
    model = tiny("OPTForCausalLM", ffn_dim=24, word_embed_proj_dim=16, do_layer_norm_before=first,
                 **SMALL)  # fmt: skip
    ids = torch.arange(12).reshape(3, 4)
    share = dsf.stack(model, input_ids=ids).attribute(5, position=2)
    assert_complete(share, logits_of(model, input_ids=ids)[:, 2, 5])
    assert all(each.shape == (3,) for each in (*share.layers.values(), *share.total.values()))
    alone = dsf.stack(model, input_ids=ids[1:2]).attribute(5, position=2)
    for name, expected in alone.layers.items():
        torch.testing.assert_close(share.layers[name][1:2], expected, rtol=1e-9, atol=1e-12)


class Scaled(nn.Module):
    """A block whose residual connection has a factor, which is applied after the branch."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.factor = nn.Parameter(torch.full((8,), 0.7))

    def forward(self, x):
        mixed = self.attention(x, x, x)[0]
        x = self.factor * x + mixed
        branch = self.mlp(x)
        return self.factor * x + branch


def test_a_residual_connection_with_a_factor(classified):
    torch.manual_seed(0)
    model = nn.Sequential(Scaled(), Scaled()).double()
    x = classified[1]
    share = dsf.stack(model, x).attribute(torch.ones(8).double(), stream=-1, position=4)
    assert_complete(share, model(x).detach()[:, 4].sum(dim=-1))
    assert set(share.layers) == {f"{k}.{part}" for k in "01" for part in ("attention", "mlp")}


class Bent(nn.Module):
    """Attention whose values go through an activation, so that no linear map makes them."""

    def __init__(self):
        super().__init__()
        self.values, self.out = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        values = nn.functional.gelu(self.values(x))
        parts = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in (x, x, values))
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


def test_a_mixer_that_is_not_known_as_a_whole_layer_is_told():
    """Its operations are followed, and it has no edges."""
    torch.manual_seed(0)
    model = nn.Sequential(Bent(), Bent()).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    stack = dsf.stack(model, x)
    share = stack.attribute(torch.ones(8).double(), stream=-1)
    assert_complete(share, model(x).detach()[:, -1].sum(dim=-1))
    names = [layer.name for layer in stack.inspection]
    noted = {edge["layer"]: edge["note"] for edge in share.strongest_edges(3)}
    assert len(names) == 2
    assert list(noted) == names
    assert "not known as linear maps" in noted[names[0]]
    with pytest.raises(InspectionError, match="has no edges"):
        share.edges(names[1])


@pytest.mark.usefixtures("our_own_errors")
def test_a_sample_that_there_is_not_is_refused(classified):
    share = classified[2].attribute(0)
    for asked in (share.strongest_edges, share.paths):
        with pytest.raises(IndexError, match=f"{asked.__name__}: sample=3, but there are 3"):
            asked(sample=3)
    for asked in (share.strongest_edges, share.paths):
        with pytest.raises(TypeError, match="'count'"):
            asked(1.5)


@pytest.mark.sampled(count=3)
@pytest.mark.parametrize("name", ["llama", "mamba2"])
@pytest.mark.parametrize("around", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_whatever_the_caller_does_about_gradients(around, name):
    expected = dsf.stack(folder(name), input_ids=prompt()).attribute(7, against=9)
    layer = next(iter(expected.total))
    cut = dsf.edits.Cut(layer, key=3)
    with around():
        stack = dsf.stack(folder(name), input_ids=prompt())
        share = stack.attribute(lambda logits: logits[:, -1, 7] - logits[:, -1, 9])
        result = dsf.intervene(folder(name), edits=[cut], input_ids=prompt())
    torch.testing.assert_close(share.tokens, expected.tokens)
    torch.testing.assert_close(share.edges(layer), expected.edges(layer))
    assert share.paths(2).to_json() == expected.paths(2).to_json()
    for part in (share.tokens, share.edges(layer), result.output, stack.hidden[-1]):
        assert not part.requires_grad
        assert not part.is_inference()
