"""Modules of anybody's that call torch's fused attention themselves."""

import pytest
import torch
from torch import nn
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers import FalconConfig, FalconForCausalLM

import dsf
from dsf.inspection import NothingCapturedError
from dsf.systems.composite import ExplicitMap

EXACT = 1e-14


class Block(nn.Module):
    """Self-attention as it is written by hand: one projection, heads, fused attention."""

    def __init__(self, **options):
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 24), nn.Linear(8, 8)
        self.options = options

    def forward(self, x):
        parts = self.inner(x).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
        mixed = scaled_dot_product_attention(query, key, value, **self.options)
        return x + self.outer(mixed.transpose(1, 2).flatten(-2))


class Bare(nn.Module):
    """Nothing but the function."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, query, key, value):
        return scaled_dot_product_attention(query, key, value, **self.options)


@pytest.fixture(autouse=True)
def _same_numbers_every_time():
    torch.manual_seed(0)


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def softmax_map(query, key, *, scale, seen=None):
    scores = scale * query @ key.mT
    return (scores if seen is None else scores.masked_fill(~seen, -torch.inf)).softmax(dim=-1)


def test_a_model_of_ones_own():
    model = nn.Sequential(Block(is_causal=True), Block(scale=0.3)).double()
    x = draw(3, 6, 8)
    first, second = dsf.inspect(model, x)
    assert (first.name, second.name) == ("0", "1")
    assert isinstance(first.system, dsf.System)
    assert isinstance(second.system, ExplicitMap)
    query, key, _ = (
        part.unflatten(-1, (2, 4)).transpose(1, 2) for part in model[0].inner(x).chunk(3, dim=-1)
    )
    seen = torch.ones(6, 6, dtype=torch.bool).tril()
    expected = softmax_map(query, key, scale=0.5, seen=seen)
    torch.testing.assert_close(first.map(), expected.detach())
    assert max(first.error, second.error) < EXACT


SEEN = torch.rand(5, 6, generator=torch.Generator().manual_seed(3)) > 0.4
SEEN[:, 0] = True


@pytest.mark.parametrize(
    ("shapes", "options", "batch"),
    [
        pytest.param([(5, 4), (6, 4), (6, 3)], {}, (1, 1), id="one head"),
        pytest.param([(2, 5, 4), (2, 6, 4), (2, 6, 3)], {"attn_mask": SEEN}, (2, 1), id="hidden"),
        pytest.param(
            [(2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 3)], {"is_causal": True}, (2, 3), id="c"
        ),
        pytest.param(
            [(2, 3, 4, 5, 4), (2, 3, 4, 6, 4), (2, 3, 4, 6, 3)], {}, (2, 12), id="windows"
        ),
        pytest.param([(2, 3, 5, 4), (2, 1, 6, 4), (2, 1, 6, 3)], {}, (2, 3), id="one key for all"),
        pytest.param(
            [(2, 4, 5, 4), (2, 2, 5, 4), (2, 2, 5, 4)],
            {"enable_gqa": True, "is_causal": True, "scale": 2.0},
            (2, 4),
            id="groups",
        ),
    ],
)
def test_shapes_and_options(shapes, options, batch):
    query, key, value = (draw(*shape) for shape in shapes)
    (layer,) = dsf.inspect(Bare(**options).double(), query, key, value)
    assert layer.error < EXACT
    assert layer.name == "Bare"
    assert tuple(layer.system.batch) == batch
    heads = query.shape[-3] // key.shape[-3] if "enable_gqa" in options else 1
    key = key.repeat_interleave(heads, dim=-3) if heads > 1 else key
    seen = options.get("attn_mask")
    if options.get("is_causal"):
        seen = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    expected = softmax_map(query, key, scale=options.get("scale", 0.5), seen=seen)
    torch.testing.assert_close(layer.map(), expected.reshape(layer.map().shape))


def test_several_calls_in_one_module():
    class Twice(Bare):
        def forward(self, query, key, value):
            return super().forward(query, key, super().forward(query, key, value))

    inspection = dsf.inspect(Twice().double(), draw(1, 2, 5, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 4))
    assert [layer.name for layer in inspection] == ["Twice", "Twice (call 2)"]


def test_dropout_that_is_never_off():
    given = (draw(1, 2, 5, 4), draw(1, 2, 5, 4), draw(1, 2, 5, 4))
    words = r"dropout, also in evaluation mode: its weights are random\. Pass dropout_p=0\.0"
    with pytest.raises(NothingCapturedError, match=words):
        dsf.inspect(Bare(dropout_p=0.5), *given)


def test_a_library_model_outside_the_interface():
    config = FalconConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, alibi=True
    )
    model = FalconForCausalLM(config).eval()
    for part in model.parameters():
        part.data.mul_(20)
    inspection = dsf.inspect(model, input_ids=torch.arange(9)[None], exact=True)
    assert [layer.family for layer in inspection] == ["falcon", "falcon"]
    assert all(layer.error < EXACT for layer in inspection)
    assert all(layer.mixer.bias is not None for layer in inspection)
    assert (inspection[0].map().triu(1) == 0).all()


def test_what_is_read_in_another_way_is_not_read_twice():
    blocks = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(blocks, 1), Block())
    inspection = dsf.inspect(model, torch.randn(2, 5, 8))
    assert [layer.name for layer in inspection] == ["0.layers.0.self_attn", "1"]
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


class Functional(nn.Module):
    """Torch's functional multi-head attention on weights of one's own, time first (as WavLM)."""

    def __init__(self, separate):
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 24), nn.Linear(8, 8)
        self.separate = separate
        self.places = nn.Parameter(torch.randn(2, 6, 6))

    def forward(self, x, hidden):
        x = x.transpose(0, 1)
        weights = self.inner.weight.chunk(3)
        named = dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), weights, strict=True))
        mixed, self.seen = nn.functional.multi_head_attention_forward(
            x,
            x,
            x,
            8,
            2,
            None if self.separate else self.inner.weight,
            self.inner.bias,
            None,
            None,
            False,
            0.1,
            self.outer.weight,
            self.outer.bias,
            training=self.training,
            key_padding_mask=hidden,
            attn_mask=self.places.repeat(len(hidden), 1, 1),
            use_separate_proj_weight=self.separate,
            average_attn_weights=False,
            **(named if self.separate else {}),
        )
        return mixed.transpose(0, 1)


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("separate", [True, False])
def test_functional_multi_head_attention(separate):
    model = nn.Sequential(Functional(separate)).double()
    hidden = torch.zeros(3, 6, dtype=torch.bool)
    hidden[-1, 4:] = True
    x = draw(3, 6, 8)
    expected = model.eval()[0](x, hidden)
    weights = model[0].seen.detach()
    (layer,) = dsf.inspect(model[0], x, hidden)
    assert layer.error < EXACT
    torch.testing.assert_close(layer.map(), weights)
    assert (layer.map()[-1, ..., 4:] == 0).all()
    assert expected.isfinite().all()


def test_a_mask_of_a_class_of_its_own_is_refused_for_what_it_is():
    class Lower(Block):
        def forward(self, x):
            self.options = {"attn_mask": causal_lower_right(5, 5)}
            return super().forward(x)

    with pytest.raises(NothingCapturedError, match="its mask is of a class of its own"):
        dsf.inspect(Lower(), torch.randn(2, 5, 8))
