"""Laws that every trainable layer keeps: its map, its paper, decoding, number types, gradients."""

import pytest
import torch

import dsf
from dsf.runtime.shapes import ShapeError
from tests.layers.conftest import CASES

# Files that hold what the layers share.
DECODING = {name: case for name, case in CASES.items() if case.build().causal}
# Double precision: some hundred operations on numbers of one size.
EXACT = 1e-10


def assert_close(ours, expected, tolerance=EXACT):
    """Relative to the largest number that is expected, or to one."""
    assert ours.shape == expected.shape
    error = (ours - expected).abs().max() / expected.abs().max().clamp(min=1)
    assert error <= tolerance, f"relative error {error:.1e}"


def by_its_map(layer, x):
    """The layer's output, mixed by the matrix that its system applies."""
    mixer = layer.mixer(x)
    system, signal = mixer.system(), mixer.signal()
    weights = dsf.attention_map(system)
    mixed = (weights @ signal.flatten(-3, -2)).unflatten(-2, (system.steps, system.output_size))
    return layer.finish(x, mixed)


def decoded(layer, x):
    memory, tokens = None, []
    for token in x.unbind(dim=-2):
        mixed, memory = layer.step(token, memory)
        tokens.append(mixed)
    return torch.stack(tokens, dim=-2)


def test_every_layer_has_its_place():
    assert {type(case.build()) for case in CASES.values()} == set(dsf.layers.ALL)
    assert len(set(dsf.layers.ALL)) == len(dsf.layers.ALL)


def test_the_layer_is_what_its_paper_says(case, layer, x):
    assert_close(layer(x), case.literal(dict(layer.named_parameters()), x))


def test_the_layer_is_its_map_and_projections(layer, x):
    assert_close(layer(x), by_its_map(layer, x))


def test_gradients_are_those_of_the_map(layer, x):
    parts = [x.requires_grad_(), *layer.parameters()]
    grads = [
        torch.autograd.grad(out.square().sum(), parts, materialize_grads=True)
        for out in (layer(x), by_its_map(layer, x))
    ]
    for ours, expected in zip(*grads, strict=True):
        assert_close(ours, expected)


def test_every_parameter_counts_once_and_the_idle_ones_are_known(case, layer, x):
    sizes = [parameter.numel() for parameter in layer.parameters()]
    assert sum(sizes) == case.parameters
    grads = torch.autograd.grad(
        layer(x).square().sum(), list(layer.parameters()), materialize_grads=True
    )
    flat = torch.cat([grad.flatten() for grad in grads]).abs()
    assert (flat < 1e-10 * flat.max()).sum() == case.idle


def test_decoding_token_by_token_gives_the_same(layer, x):
    if layer.causal:
        assert_close(decoded(layer, x), layer(x))
    else:
        with pytest.raises(ValueError, match="whole sequence"):
            layer.step(x[:, 0])


@pytest.mark.parametrize("case", DECODING.values(), ids=list(DECODING))
def test_decoding_leaves_the_memory_it_was_given(layer, x):
    _, memory = layer.step(x[:, 0])
    kept = {name: part.clone() for name, part in memory.items()}
    first, _ = layer.step(x[:, 1], memory)
    again, _ = layer.step(x[:, 1], memory)
    assert torch.equal(first, again)
    assert kept.keys() == memory.keys()
    assert all(torch.equal(kept[name], memory[name]) for name in kept)


def test_only_layers_that_say_so_read_ahead(layer, x):
    changed = torch.cat([x[:, :3], x[:, 3:].flip(0)], dim=1)
    before, after = layer(x), layer(changed)
    assert torch.equal(before[:, :3], after[:, :3]) == layer.causal
    assert not torch.equal(before[:, 3:], after[:, 3:])


def test_two_sequences_know_nothing_of_each_other(layer, x):
    assert_close(layer(x[1:]), layer(x)[1:], 1e-12)


def test_single_precision_stays_single(layer, x):
    expected = layer(x)
    small = layer.float()(x.float())
    assert small.dtype == torch.float32
    assert_close(small.double(), expected, 2e-4)


def test_half_precision_stays_half(layer, x):
    """Compared with the same rounded numbers, calculated on in double precision."""
    small = x.bfloat16()
    expected = layer.bfloat16().double()(small.double())
    layer.bfloat16()
    for ours in (layer(small), decoded(layer, small[:, :3]) if layer.causal else layer(small)):
        assert ours.dtype == torch.bfloat16
        assert_close(ours.double(), expected[:, : ours.shape[1]], 0.1)


def test_a_saved_layer_comes_back(case, layer, x):
    other = case.build().double()
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_as_built_it_works_and_initialises_as_published(case, x):
    layer = case.build().double()
    assert layer(x).isfinite().all()
    dsf.layers.as_executed(layer, depth=2)
    assert layer(x).isfinite().all()
    assert layer.out.weight.std() < 0.02


@pytest.mark.usefixtures("our_own_errors")
def test_another_width_is_refused(layer, x):
    with pytest.raises(ShapeError, match="'model'"):
        layer(x[..., :7])
    with pytest.raises(ShapeError, match="'x'"):
        layer(x[0])
    with pytest.raises(ShapeError, match="'x'"):
        layer.step(x)


@pytest.mark.gpu
def test_a_graphics_card_gives_the_same(layer, x):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    expected = layer(x)
    assert_close(layer.cuda()(x.cuda()).cpu(), expected)
    if layer.causal:
        assert_close(decoded(layer, x.cuda()).cpu(), expected)
