"""The digits experiment: its data, its windows, its masks and what it reads off a model."""

import dataclasses

import pytest
import torch

pytest.importorskip("sklearn")

from dsf.evaluate import attention_map
from dsf.mixers import InLineAttention, LinearAttention, Retention, SoftmaxAttention
from papers.in_line.experiments.digits import (
    digits,
    masking,
    neighbours,
    peaked,
    reading,
    run,
    settings,
    vision,
)
from papers.in_line.experiments.windows import run as windows

TOKENS = 64
MIXERS = {
    "softmax": SoftmaxAttention,
    "linear": LinearAttention,
    "in-line": InLineAttention,
}


@pytest.fixture(scope="module")
def data():
    return digits.digits()


def drawn_mixer(kind, tokens=TOKENS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, 2, 1, tokens, 4, generator=generator, dtype=torch.float64)
    return MIXERS[kind](query=query, key=key, value=value, causal=False)


def test_every_digit_is_in_one_part_and_every_part_has_all_ten(data):
    assert [len(part.targets) for part in data] == [1097, 200, 500]
    assert all(part.targets.unique().tolist() == list(range(10)) for part in data)
    images = torch.cat([part.inputs.squeeze(-1) for part in data])
    sums = images.double() @ torch.rand(TOKENS, dtype=torch.float64)
    assert len(sums.unique()) == len(images)
    assert (images.min(), images.max()) == (0, 1)


def test_tokens_run_along_the_rows_of_the_image(data):
    """A column of pixels at the left edge is dark in every digit; the top row is not."""
    pixels = data.trained.inputs.unflatten(1, digits.GRID).squeeze(-1)
    assert pixels[:, :, 0].mean() < 0.01
    assert pixels[:, 0, :].mean() > 0.1


def test_a_window_in_the_corner_on_the_edge_and_inside():
    near = neighbours.within(1)
    assert near[0].nonzero().flatten().tolist() == [0, 1, 8, 9]
    assert near[7].nonzero().flatten().tolist() == [6, 7, 14, 15]
    assert near[8].nonzero().flatten().tolist() == [0, 1, 8, 9, 16, 17]
    assert near[9].nonzero().flatten().tolist() == [0, 1, 2, 8, 9, 10, 16, 17, 18]


def test_random_tokens_are_as_many_as_the_window_holds_and_lie_anywhere():
    window = neighbours.within(2)
    drawn = neighbours.as_many_at_random(window, 50, seed=0)
    assert drawn.shape == (50, 1, TOKENS, TOKENS)
    assert (drawn.sum(dim=-1) == window.sum(dim=-1)).all()
    frequency = drawn.double().mean(dim=(0, 1))[0]
    assert abs(frequency[:32].mean() - frequency[32:].mean()) < 0.05
    assert not torch.equal(drawn, neighbours.as_many_at_random(window, 50, seed=1))


@pytest.mark.parametrize("kind", MIXERS)
def test_hidden_tokens_leave_the_same_attention_over_the_others(kind):
    """The same tokens hidden from every query: what is left is attention without these tokens."""
    mixer = drawn_mixer(kind)
    left = torch.ones(TOKENS, dtype=torch.bool)
    left[[0, 5, 63]] = False
    found = masking.map_without(mixer, ~left.expand(TOKENS, TOKENS))
    shorter = dataclasses.replace(
        mixer,
        query=mixer.query[..., left, :],
        key=mixer.key[..., left, :],
        value=mixer.value[..., left, :],
    )
    torch.testing.assert_close(found[..., left, :][..., left], attention_map(shorter.system()))
    assert (found[..., ~left] == 0).all()


@pytest.mark.parametrize("kind", MIXERS)
def test_nothing_hidden_changes_nothing(kind):
    mixer = drawn_mixer(kind)
    nothing = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
    torch.testing.assert_close(
        masking.mix_without(nothing)(mixer), vision.as_trained(mixer), rtol=1e-10, atol=1e-12
    )


def test_a_mixer_without_a_rule_is_refused():
    mixer = Retention.draw(torch.Generator().manual_seed(0), steps=TOKENS)
    with pytest.raises(TypeError, match="Retention"):
        masking.map_without(mixer, neighbours.within(1))


def small(attention, *, residual, seed=0):
    return settings.Setting(attention, residual, seed).model().double()


@pytest.mark.parametrize("attention", settings.COMPARED)
@pytest.mark.parametrize("residual", [False, True])
def test_a_model_is_its_maps_its_filters_and_nothing_else(attention, residual):
    """One block by hand: the map of each head, plus the local filters, on the values."""
    model = small(attention, residual=residual)
    block, x = next(iter(model.entered(torch.rand(2, TOKENS, 1, dtype=torch.float64))))
    normed = block.before_attention(x)
    mixer = block.mixer(x)
    mixed = attention_map(mixer.system()) @ mixer.value
    merged = mixed.transpose(1, 2).flatten(-2)
    if residual:
        values = mixer.value.transpose(1, 2).flatten(-2)
        local = block.residual.local_map(normed)
        merged = merged + torch.einsum("bcij,bjc->bic", local, values)
    after = x + block.attention.out(merged)
    expected = after + block.perceptron(block.before_perceptron(after))
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-12)


def test_queries_are_those_before_features_and_scale():
    """InLine attention's mixer holds them divided by tokens and width."""
    model = small("in-line-identity", residual=False)
    block, x = next(iter(model.entered(torch.rand(2, TOKENS, 1, dtype=torch.float64))))
    width = vision.WIDTH // vision.HEADS
    torch.testing.assert_close(block.query(x), block.mixer(x).query * TOKENS * width**0.5)


def test_uniform_attention_has_the_uniform_locality():
    """Queries of zero make every row of softmax attention uniform."""
    model = small("softmax", residual=False)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.project.query_key.weight.zero_()
            block.attention.project.query_key.bias.zero_()
        curves = reading.locality(model, torch.rand(3, TOKENS, 1, dtype=torch.float64))
        spread = reading.weight_spread(model, torch.rand(3, TOKENS, 1, dtype=torch.float64))
    assert curves["interior"] == pytest.approx([9 / TOKENS] * vision.DEPTH)
    assert curves["signed"] == pytest.approx([9 / TOKENS] * vision.DEPTH)
    assert curves["edge_aware"] == pytest.approx([22**2 / 64 / TOKENS] * vision.DEPTH)
    assert spread == pytest.approx([0] * vision.DEPTH, abs=1e-12)


class HalfScaled(torch.nn.Module):
    """Projections whose second half of the queries is the first half times 2.5."""

    def __init__(self, project):
        super().__init__()
        self.project = project

    def forward(self, x):
        query, key, value = self.project(x)
        half = query[..., : TOKENS // 2, :]
        return torch.cat([half, 2.5 * half], dim=-2), key, value


@pytest.mark.parametrize(("attention", "pairs"), [("linear-relu", 64), ("softmax", 0)])
def test_confusions_are_the_scaled_queries_of_linear_attention(attention, pairs):
    """32 in each of the two heads of one block, and softmax tells all of them apart."""
    model = small(attention, residual=False)
    block = model.blocks[0]
    block.attention.project = HalfScaled(block.attention.project)
    del model.blocks[1:]
    with torch.no_grad():
        found = reading.confusions_per_image(model, torch.rand(2, TOKENS, 1, dtype=torch.float64))
    assert found["absolute"] == [pairs, pairs]


@pytest.mark.parametrize(("factor", "share"), [(0, 0), (1e4, 1)])
def test_rows_are_peaked_where_scores_are_large_and_only_there(factor, share):
    """All scores zero, or so large that one token has everything."""
    model = small("softmax", residual=False)
    for block in model.blocks:
        block.attention.project.query_key.weight.data *= factor
        block.attention.project.query_key.bias.data *= factor
    with torch.no_grad():
        found = peaked.confusions_of_peaked_rows(model, torch.rand(1, TOKENS, 1).double())
    assert found["peaked_rows"] == pytest.approx(share, abs=0.05)
    assert (found["between_peaked_rows"] > 0) == (share == 1)


def test_a_short_run_leaves_what_the_tables_need():
    schedule = dataclasses.replace(run.SCHEDULE, steps=2, warm_up=1, check_every=2)
    result = run.run(settings.Setting("softmax", residual=False, seed=0), schedule)
    assert result["steps"] == 2
    assert 0 <= result["accuracy"] <= 1
    assert len(result["confusions"]["absolute"]) == run.READ
    assert set(result["masked"]) == {"1", "3", "5"}
    assert result["peaked"]["between_peaked_rows"] <= result["peaked"]["confusions"]


def test_the_runs_have_different_names_and_three_seeds_each():
    every = settings.settings()
    assert len(every) == 39
    seeds = {}
    for each in every.values():
        seeds.setdefault(each.variant, []).append(each.seed)
    assert all(sorted(found) == [0, 1, 2] for found in seeds.values())


def test_windows_are_quarters_of_the_image_and_come_back():
    tokens = torch.arange(2.0 * TOKENS).view(2, TOKENS, 1)
    parts = windows.windows(tokens)
    assert parts.shape == (8, 16, 1)
    assert parts[1].flatten().tolist() == [
        8 * row + column for row in range(4) for column in range(4, 8)
    ]
    assert torch.equal(windows.image(parts), tokens)


@pytest.mark.parametrize("variant", windows.VARIANTS)
def test_tokens_of_two_windows_meet_where_the_variant_says(variant):
    """The derivative of block 1 and of the last block at the first token by the last one."""
    torch.manual_seed(0)
    model = windows.built(variant).double()
    for block, in_windows in (
        (0, "in windows" in variant and "last" not in variant and "two" not in variant),
        (-1, "windows" in variant),
    ):
        x = torch.randn(1, TOKENS, vision.WIDTH, dtype=torch.float64, requires_grad=True)
        (moved,) = torch.autograd.grad(model.blocks[block](x)[0, 0].sum(), x)
        assert (moved[0, -1].abs().max() == 0) == in_windows
