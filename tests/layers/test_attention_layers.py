"""What each attention layer promises besides the laws of every layer."""

import pytest
import torch

import dsf
from dsf import layers
from dsf.layers.attention import rotated
from dsf.layers.layer import merge, split
from dsf.runtime.shapes import ShapeError
from tests.layers.attention_cases import CASES
from tests.layers.test_every_layer import EXACT, assert_close, by_its_map, decoded


def noise(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("name", ["SoftmaxAttention", "InLineAttention", "ZeroSumAttention"])
def test_more_tokens_than_a_window_holds(name):
    layer, x = CASES[name].drawn(), noise(1, 70, 8)
    assert_close(layer(x), by_its_map(layer, x))


def test_heads_lie_side_by_side():
    x = torch.arange(12.0).reshape(1, 2, 6)
    assert split(x, 2)[0, 1].tolist() == [[3, 4, 5], [9, 10, 11]]
    assert torch.equal(merge(split(x, 2).unsqueeze(-2)), x)


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("cls", layers.ALL[:6], ids=lambda cls: cls.__name__)
def test_heads_that_do_not_share_evenly_are_refused(cls):
    with pytest.raises(ShapeError, match="model_size"):
        cls(8, key_size=6, heads=3)
    with pytest.raises(ShapeError, match="key_size"):
        cls(8, key_size=5, heads=2)
    with pytest.raises(ShapeError, match="heads"):
        cls(8, heads=0)


def test_odd_widths_do_not_turn():
    with pytest.raises(ShapeError, match="rotary"):
        layers.ZeroSumAttention(8, key_size=6, heads=2)
    layers.ZeroSumAttention(8, key_size=6, heads=2, rotary=False)
    layers.ZeroSumAttention(8, key_size=6, heads=2, angle=False)


def test_turned_vectors_keep_length_and_know_the_lag():
    q, k = noise(2, 1, 6).expand(2, 9, 6)
    position = torch.arange(9, dtype=torch.float64)
    turned_q, turned_k = rotated(q, position), rotated(k, position)
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
    products = turned_q @ turned_k.mT
    for lag in range(-8, 9):
        band = products.diagonal(lag)
        torch.testing.assert_close(band, band[:1].expand_as(band))
    assert (products[0] - products[0, 0]).abs()[1:].min() > 1e-3
    assert torch.equal(turned_q[0], q[0])


def test_half_precision_turns_far_positions_too():
    x, far = noise(1, 2, 4).bfloat16(), torch.tensor([1000.0, 1001.0])
    expected = rotated(x.double(), far.double())
    assert_close(rotated(x, far).double(), expected, 1e-2)


def test_the_first_token_of_zero_sum_attention_is_the_bias():
    layer = CASES["ZeroSumAttention"].drawn()
    first = layer(noise(2, 5, 8))[:, 0]
    torch.testing.assert_close(first, layer.out.bias.expand_as(first))


def test_a_late_large_logit_leaves_earlier_tokens_alone():
    """A maximum over the whole sequence would lose the digits of all others in single precision."""
    layer, x = CASES["ZeroSumAttention"].drawn().float(), noise(1, 8, 8).float()
    loud = x.clone()
    loud[:, -1] *= 30
    assert torch.equal(layer(x)[:, :-1], layer(loud)[:, :-1])
    assert layer.mixer(loud).logit.abs().max() > 80
    exact = CASES["ZeroSumAttention"].drawn()(loud.double())
    assert_close(layer(loud).double(), exact, 1e-4)
    assert_close(decoded(layer, loud).double(), exact, 1e-4)


def test_zero_logits_of_the_orders_give_half_of_softmax_less_an_equal_share():
    layer = CASES["ZeroSumAttention, radial"].drawn()
    torch.nn.init.zeros_(layer.orders.weight)
    torch.nn.init.zeros_(layer.orders.bias)
    mixer = layer.mixer(noise(1, 5, 8))
    last = dsf.attention_map(mixer.system())[..., -1, :]
    assert_close(last, (mixer.logit.softmax(dim=-1) - 1 / 5) / 2, 1e-13)


def test_a_causal_layer_has_no_local_residual():
    residual = layers.LocalResidual(8, heads=2, grid=(2, 3))
    with pytest.raises(ValueError, match="causal"):
        layers.InLineAttention(8, heads=2, residual=residual)


@pytest.mark.parametrize("class_token", [False, True])
def test_the_local_map_is_the_residual_and_sums_to_the_filter_inside(class_token):
    residual = layers.LocalResidual(4, heads=2, grid=(5, 5), class_token=class_token).double()
    x, value = noise(2, 25 + class_token, 4), noise(2, 25 + class_token, 4, seed=1)
    weights, filters = residual.local_map(x), residual.filters(x)
    assert_close(torch.einsum("bcij,bjc->bic", weights, value), residual(x, value), EXACT)
    sums = weights.sum(dim=-1)[..., int(class_token) :].unflatten(-1, (5, 5))
    whole = filters.sum(dim=(-2, -1))[..., None, None]
    assert_close(sums[..., 1:-1, 1:-1], whole.expand(2, 4, 3, 3), 1e-12)
    assert_close(sums[..., 0, 0], filters[..., 1:, 1:].sum(dim=(-2, -1)), 1e-12)
    assert_close(sums[..., 2, 4], filters[..., :, :2].sum(dim=(-2, -1)), 1e-12)
    if class_token:
        assert weights[..., 0, :].abs().max() == weights[..., :, 0].abs().max() == 0


@pytest.mark.usefixtures("our_own_errors")
def test_a_sequence_that_is_not_the_grid_is_refused():
    residual = layers.LocalResidual(4, heads=2, grid=(5, 5), class_token=True)
    with pytest.raises(ShapeError, match="'time'"):
        residual.local_map(torch.zeros(1, 25, 4))
    with pytest.raises(ShapeError, match="columns"):
        layers.LocalResidual(4, heads=2, grid=(5, 0))


def test_published_sizes_of_the_residual():
    """DeiT-T with InLine attention: 12 blocks of 192 channels and 6 heads."""
    residual = layers.LocalResidual(192, heads=6, grid=(14, 14), class_token=True)
    assert 12 * sum(part.numel() for part in residual.parameters()) == 760_320
