"""What is true of single layers with a decaying state: sizes, starts, options, refusals."""

from functools import partial

import pytest
import torch

import dsf
from dsf import layers
from dsf.layers.recurrent import ShortFilter
from dsf.runtime.shapes import ShapeError

REVERSED = partial(layers.QuasiLSTM, transition="reversed")


def sized(layer):
    return sum(parameter.numel() for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("build", "small", "large"),
    [
        (lambda d, n: layers.SelectiveStateSpace(d, state_size=n), 10880, 492544),
        (lambda d, n: layers.StateSpaceDuality(d, state_size=n), 8449, 395265),
        (lambda d, _: REVERSED(d), 74753, 4726785),
    ],
    ids=["S6", "SSD", "qLSTM"],
)
def test_sizes_of_published_runs(build, small, large):
    assert sized(build(64, 32)) == small
    with torch.device("meta"):
        counted = sized(build(512, 128))
    assert counted == large


def test_matrices_of_the_gated_layers_count_as_published():
    d = 64
    gla, meta = layers.GatedLinearAttention(d), layers.MetaLinearAttention(d, filter_width=None)
    matrices = [sum(p.numel() for p in layer.parameters() if p.ndim == 2) for layer in (gla, meta)]
    augmentation = meta.augmentation.numel()
    assert matrices == [4 * d**2 + 24 * d, 4 * d**2 + augmentation]


STEPPING = [layers.SelectiveStateSpace, layers.StateSpaceDuality, layers.Mamba]


@pytest.mark.parametrize("cls", STEPPING)
def test_the_intended_step_is_short_and_the_executed_one_long(cls):
    torch.manual_seed(0)
    layer = cls(256, state_size=4)
    if cls is layers.Mamba:
        torch.nn.init.zeros_(layer.filter.bias)
    silent = torch.zeros(1, 2, 256)
    step = layer.mixer(silent).step
    assert 1e-3 <= step.min() < 2e-3
    assert 0.05 < step.max() <= 0.1
    layers.as_executed(layer)
    step = layer.mixer(silent).step
    torch.testing.assert_close(step, torch.full_like(step, 0.6931472))
    decay = layer.mixer(silent).system().A.diagonal()[0, 0, 0]
    wanted = [0.5] * 4 if cls is layers.StateSpaceDuality else [0.5, 0.25, 0.125, 0.0625]
    torch.testing.assert_close(decay, torch.tensor(wanted))


def test_as_executed_sets_matrices_and_leaves_the_rest():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(500, 64), REVERSED(64), torch.nn.LayerNorm(64))
    kept = [model[1].exponent.clone(), model[1].filter.weight.clone()]
    layers.as_executed(model, depth=2)
    layer = model[1]
    for part, deviation in ((model[0], 0.02), (layer.gates, 0.02), (layer.out, 0.01)):
        assert part.weight.std().item() == pytest.approx(deviation, rel=0.05)
        assert part.weight.mean().abs() < 0.001
    assert not layer.gates.bias.any()
    assert torch.equal(layer.exponent, kept[0])
    assert torch.equal(layer.filter.weight, kept[1])


def test_open_gates_decay_by_what_is_published():
    decay = (-8 * torch.nn.functional.softplus(dsf.layers.RGLRU(32).rate.double())).exp()
    assert decay[0].item() == pytest.approx(0.999, abs=2e-4)
    assert decay[-1].item() == pytest.approx(0.9, abs=2e-4)
    assert (decay.diff() < 0).all()


def test_the_reversed_transition_is_a_sigmoid_of_the_opposite_logit():
    torch.manual_seed(0)
    plain, turned = layers.QuasiLSTM(8).double(), REVERSED(8).double()
    weights = plain.state_dict()
    weights["gates.weight"][:16] *= -1
    weights["gates.bias"][:16] = 0
    turned.load_state_dict({**weights, "exponent": torch.ones(())})
    weights["gates.weight"][:16] *= -1
    plain.load_state_dict(weights)
    x = torch.randn(2, 6, 8).double()
    torch.testing.assert_close(turned(x), plain(x), rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        turned.exponent.fill_(-3.0)
    assert (turned.mixer(x).forget == 1).all()


def test_an_augmentation_that_starts_at_zero_is_normalised_away():
    torch.manual_seed(0)
    layer = layers.MetaLinearAttention(8, heads=2).double()
    without = layers.MetaLinearAttention(8, heads=2, augmentation=None).double()
    without.load_state_dict(layer.state_dict(), strict=False)
    with torch.no_grad():
        for part in (layer.value, without.value):
            part.weight.mul_(100)
    x = torch.randn(2, 6, 8).double()
    torch.testing.assert_close(layer(x), without(x), rtol=1e-9, atol=1e-12)


def test_only_the_linear_augmentation_is_in_the_map():
    torch.manual_seed(0)
    x = torch.randn(1, 5, 8)
    kinds = ("sigmoid", "linear")
    built = {kind: layers.MetaLinearAttention(8, augmentation=kind) for kind in kinds}
    for layer in built.values():
        torch.nn.init.ones_(layer.augmentation)
        layer.load_state_dict(built["sigmoid"].state_dict())
    maps = {kind: dsf.attention_map(layer.mixer(x).system()) for kind, layer in built.items()}
    extra = (maps["linear"] - maps["sigmoid"])[0, 0]
    assert torch.equal(extra, extra.diag().diag())
    assert (extra.diag() != 0).all()


def test_a_fixed_decay_takes_no_notice_of_the_input():
    layer = layers.MetaLinearAttention(8, fixed_decay=True)
    decay = layer.mixer(torch.randn(2, 5, 8)).decay
    assert torch.equal(decay, decay[:1, :, :1].expand_as(decay))
    assert len(decay.unique()) == 4


def test_what_is_erased_and_written_in_delta_net_expands_nothing():
    mixer = layers.DeltaNet(8, heads=2).mixer(100 * torch.randn(2, 5, 8))
    torch.testing.assert_close(mixer.key.norm(dim=-1), torch.ones(2, 2, 5))
    assert torch.linalg.matrix_norm(mixer.system().A.dense(), ord=2).max() <= 1 + 1e-6


@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_filter_goes_on_from_its_tail(width):
    torch.manual_seed(0)
    short = ShortFilter(3, width, bias=True)
    x, memory = torch.randn(2, 7, 3), {}
    whole = short(x)
    parts = [short(part, memory) for part in x.split([1, 2, 4], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    assert memory["tail"].shape == (2, width - 1, 3)
    now = short.weight[:, 0, -1] * x[:, 0] + short.bias
    torch.testing.assert_close(whole[:, 0], now)


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (partial(layers.GatedLinearAttention, 8, heads=3), ShapeError, "heads"),
        (partial(layers.DeltaNet, 8, key_size=5, heads=2), ShapeError, "key_size"),
        (partial(layers.MetaLinearAttention, 8, heads=0), ShapeError, "head"),
        (partial(layers.SelectiveStateSpace, 8, state_size=0), ShapeError, "state_size"),
        (partial(layers.StateSpaceDuality, 0), ShapeError, "model_size"),
        (partial(layers.Mamba, 8, filter_width=0), ValueError, "'width'"),
        (
            partial(layers.QuasiLSTM, 8, transition="tanh"),
            ValueError,
            "one of 'sigmoid', 'reversed'",
        ),
        (partial(layers.RGLRU, 0), ShapeError, "model_size"),
        (
            partial(layers.MetaLinearAttention, 8, augmentation="exp"),
            ValueError,
            "'exp'",
        ),
        (
            partial(layers.MetaLinearAttention, 8, augmentation="linear", with_key=True),
            ValueError,
            "separate key",
        ),
    ],
)
def test_wrong_sizes_and_words_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()
