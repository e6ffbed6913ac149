"""Results of this project about the mixers of the papers, which no paper states."""

import math
from itertools import pairwise

import numpy as np
import pytest
import sympy
import torch

import dsf
from dsf import attention_map, measures, mixers
from papers.drawn import apart, generator, hankel_rank, normal, output, uniform, weights
from papers.dynamical_systems.checks import duality_map, row_sums_in_reach
from papers.dynamical_systems.forms import separable
from papers.in_line.checks import drawn, in_line_rows, linear_rows, softmax_rows
from papers.meta_linear.checks import TABLES, some_mixer
from papers.tables import mean
from papers.zero_sum.weighing import causal_map, defined_row, drawn_mixer, radial, read_factors


def softmax_weights(steps, scale=2.0):
    query, key = normal(0, 2, steps, 4)
    return weights(mixers.SoftmaxAttention(query=query, key=key, value=key, scale=scale))


def projected():
    rng = generator(1)
    u = normal(rng, 20, 6)
    to_query, to_key = 0.5 * normal(rng, 2, 4, 6)
    return {"query": u @ to_query.T, "key": u @ to_key.T, "value": u @ normal(rng, 6, 6).T}


@pytest.mark.parametrize("steps", [8, 9, 12, 13])
def test_the_least_states_of_a_softmax_map(steps):
    """⌊L/2⌋ with D free and ⌈L/2⌉ with D = 0 where the read follows the update."""
    map = softmax_weights(steps)
    forced = [int(torch.linalg.matrix_rank(map[i:, : i + 1], rtol=1e-10)) for i in range(steps)]
    assert hankel_rank(map) == steps // 2
    assert max(forced) == -(-steps // 2)


def test_monomials_approach_softmax():
    softmax = mixers.SoftmaxAttention(**projected())
    near = [softmax.expansion(order) for order in range(11)]
    errors = [apart(output(each), output(softmax)) for each in near]
    assert [each.system().state_size for each in near] == [math.comb(4 + p, p) for p in range(11)]
    assert errors[3:] == sorted(errors[3:], reverse=True)
    assert errors[-1] < 1e-3


def test_no_reduction_is_below_the_discarded_singular_value():
    map = softmax_weights(32, scale=0.5)
    values = measures.hankel_singular_values(map, positions=[15])[0]
    for states in (2, 4, 8):
        small = attention_map(dsf.evaluate.reduce(map, order=states).system)
        error = float(torch.linalg.matrix_norm((map - small)[16:, :16], ord=2))
        assert error >= float(values[states]) * (1 - 1e-10)
    assert int((values > 1e-2 * values[0]).sum()) < 16


def test_states_of_attention_and_of_the_duality():
    """(n / heads) d states in attention of key width n, n d in a duality whatever the heads."""
    for heads in (1, 2, 4):
        rng = generator(heads)
        query, key = normal(rng, 2, heads, 20, 4 // heads)
        value = normal(rng, heads, 20, 4 // heads)
        attention = mixers.LinearAttention(query=query, key=key, value=value).system()
        write, read = normal(rng, 2, 1, 20, 4)
        duality = mixers.StateSpaceDuality(
            value=value,
            step=uniform(rng, heads, 20, low=0.1, high=0.9),
            pole=-uniform(rng, heads, low=0.5, high=1.0),
            write=write,
            read=read,
        ).system()
        assert heads * attention.state_size * (4 // heads) == 4 // heads * 4
        assert heads * duality.state_size * (4 // heads) == 16
        assert hankel_rank(attention_map(attention)[0]) == attention.state_size
        assert hankel_rank(attention_map(duality)[0]) == duality.state_size


def test_a_token_wise_ratio_of_normalisers_is_a_step():
    tokens = projected()
    read, write = (dsf.mixers.ingredients.elu_plus_one(tokens[name]) for name in ("query", "key"))
    ratio = uniform(generator(), 20, low=0.3, high=1.0)
    eta, step = 1 / ratio.cumprod(dim=0), -ratio.log()
    duality = duality_map(step, write / (eta * step).unsqueeze(-1), read, rate=1.0)
    assert apart(duality, attention_map(separable(read, write, eta))) < 1e-12
    of_linear = row_sums_in_reach(read, write)
    assert bool((of_linear[:-1] / of_linear[1:] > 1).any())


def test_the_scale_of_griffin_keeps_unit_variance():
    a, v = sympy.symbols("a v", positive=True)
    assert sympy.solve(sympy.Eq(v, a**2 * v + 1 - a**2), v) == [1]
    rng = generator()
    value, decay = normal(rng, 4000, 64), uniform(rng, 64, low=0.8, high=0.999)
    gate = torch.ones_like(value)
    unit = mixers.RGLRU(value=value, decay=decay.expand(4000, 64), input_gate=gate)
    assert float(output(unit).square().mean()) == pytest.approx(1, abs=0.1)


def test_squared_scores_have_finitely_many_states():
    query, key = normal(0, 2, 16, 3)
    i, j = torch.triu_indices(3, 3)
    factor = (2 - (i == j).double()).sqrt()
    read, write = (part[:, i] * part[:, j] * factor for part in (query, key))
    linear = mixers.LinearAttention(
        query=read,
        key=write,
        value=key,
        feature_map=dsf.mixers.ingredients.identity,
        normalised=False,
    )
    assert apart(weights(linear), (query @ key.T).square().tril()) < 1e-12
    assert hankel_rank((query @ key.T).square().tril()) == 6


def test_in_line_is_the_beginning_of_the_series_of_softmax():
    query, key = drawn(1)
    gaps = [
        apart(softmax_rows(size * query, key), in_line_rows(size * query, key, scale=1 / 40))
        for size in (0.1, 0.01, 0.001)
    ]
    slopes = [math.log10(a / b) for a, b in pairwise(gaps)]
    assert slopes == pytest.approx([2, 2], abs=0.05)


def test_in_line_is_zero_sum_attention_with_gates():
    query, key = drawn(1)
    scores, value = key @ query[0], torch.ones_like(key[:, :1])
    one = torch.ones_like(scores)
    zero_sum = mixers.ZeroSumAttention(
        value=value, logit=scores, first_order=one, higher_order=0 * one, zero_order=one
    )
    in_line = mixers.InLineAttention(query=query.expand_as(key) / 40, key=key, value=value)
    assert apart(*(attention_map(each.system(), rows=-1) for each in (zero_sum, in_line))) < 1e-14


def test_causal_in_line_has_one_state_more_than_keys():
    query, key, value = normal(0, 3, 30, 8)
    mixer = mixers.InLineAttention(query=query, key=key, value=value, causal=True)
    assert mixer.system().state_size == hankel_rank(weights(mixer)) == 9


@pytest.mark.parametrize("name", ["identity", "elu_plus_one", "exp", "softplus"])
def test_ranks_of_the_jacobian(name):
    """d for softmax and InLine attention, d - 1 for linear attention with d features."""
    query, key = drawn(1)
    feature_map = getattr(dsf.mixers.ingredients, name)

    def rank(rows):
        return int(measures.jacobian_rank(lambda single: rows(single.unsqueeze(0))[0], query)[0])

    assert rank(lambda q: softmax_rows(q, key)) == 8
    assert rank(lambda q: in_line_rows(q, key, feature_map=feature_map)) == 8
    assert rank(lambda q: linear_rows(q, key, feature_map=feature_map)) == 7


def test_features_of_both_signs():
    """They leave the weights of linear attention unbounded, those of InLine attention not."""
    query, key = drawn(1000)
    identity = dsf.mixers.ingredients.identity
    assert float(linear_rows(query, key, feature_map=identity).abs().max()) > 10
    assert float(in_line_rows(query, key, scale=8**-0.5 / 40).abs().max()) < 1


def test_rows_with_the_local_residual():
    torch.manual_seed(0)
    residual = dsf.layers.LocalResidual(6, heads=2, grid=(5, 5))
    layer = dsf.layers.InLineAttention(6, heads=2, causal=False, residual=residual).double()
    x = torch.randn(1, 25, 6, dtype=torch.float64)
    with torch.no_grad():
        map = weights(layer.mixer(x)).repeat_interleave(3, dim=1) + residual.local_map(x)
        mixed = torch.einsum("bcij,bjc->bic", map, layer.project.value(x))
        filters = residual.filters(x)
        assert apart(layer.out(mixed), layer(x)) < 1e-12
    inside = map.sum(dim=-1)[..., 12]
    assert apart(inside, 1 + filters.sum(dim=(-2, -1))) < 1e-12


def test_sums_of_rows_with_the_key_tied_to_the_decay():
    mixer = some_mixer(64, 5, 1)
    let_go = 1 - mixer.decay.cumprod(dim=0)
    sums = measures.row_sums(mixer.system())
    assert apart(sums, (mixer.query * let_go).sum(dim=-1)) < 1e-12


def test_the_parallel_form_overflows_in_float32():
    passed = torch.exp2(-torch.arange(1, 4000, dtype=torch.float64) / 16).float()
    key = 1 - torch.tensor(2.0).pow(-1 / 16)
    assert int(torch.isinf(key / passed).nonzero()[0]) + 1 == 2121
    assert int((passed < torch.finfo(torch.float32).tiny).nonzero()[0]) + 1 == 2017


def test_zero_sum_attention_has_three_keys_of_state():
    mixer = drawn_mixer(steps=30, width=3, heads=1)
    map, bare = causal_map(mixer), radial(mixer.logit, mixer.first_order, mixer.higher_order)
    assert apart(weights(mixer), map) < 1e-12
    assert (hankel_rank(map), hankel_rank(causal_map(bare))) == (9, 3)
    write = torch.stack([mixer.logit.exp(), mixer.logit, torch.ones_like(mixer.logit)], dim=-1)
    plain = (read_factors(mixer) @ write.mT).tril()
    assert apart(plain, causal_map(bare)) < 1e-12


@pytest.mark.parametrize("tokens", [8, 4096])
def test_the_printed_bound_on_zero_sum_weights(tokens):
    """With ρ the exact remainder some weight exceeds it, by less than σ¹ + σʰ."""
    logits = -torch.ones(tokens, dtype=torch.float64)
    logits[0] = 1.0
    deviation = logits - logits.mean()
    remainder = 2 * (tokens * logits.softmax(dim=0) - 1 - deviation)
    largest = max(1.0, float(deviation.abs().max()), float(remainder.abs().max()) / 2)
    ratio = float(defined_row(logits, 1.0, 1.0).abs().max()) * tokens / largest
    assert 1 < ratio <= 2


def test_the_uniform_part_of_linear_attention_does_not_grow():
    rng = np.random.default_rng(0)
    shares = []
    for tokens in (64, 1024, 16384):
        query, key = torch.from_numpy(rng.standard_normal((2, tokens, 8)))
        phi = dsf.mixers.ingredients.elu_plus_one
        row = phi(key) @ phi(query[-1])
        shares.append(float(row.sum().square() / (tokens * row.square().sum())))
    assert min(shares) > 0.5
    assert max(shares) <= 1.1 * shares[0]


def test_the_mean_of_values_may_lie_in_the_span_of_their_differences():
    points = np.array([[1.0, 0.0], [3.0, 0.0]])
    span = points - points.mean(axis=0)
    both = np.vstack([span, points.mean(axis=0)])
    assert np.linalg.matrix_rank(span) == np.linalg.matrix_rank(both)


# ---- Softmax maps from half as many channels as tokens, almost all of them
#
# Every channel makes one of the last ⌈n/2⌉ rows by the decay of a row of probabilities. Until it is
# complete its weights are the beginning of that row up to a factor, and an earlier row of t tokens
# is a combination of such beginnings as soon as t of them are independent.


def from_later_rows(target):
    """Queries and decays of ⌈n/2⌉ channels with key 1 - α that make ``target``."""
    steps = len(target)
    channels = -(-steps // 2)
    early = steps - channels
    query, decay = target.new_zeros(steps, channels), target.new_ones(steps, channels)
    for channel, row in enumerate(range(early, steps)):
        sums = torch.cat([target.new_zeros(1), target[row, : row + 1].cumsum(dim=0)])
        decay[: row + 1, channel] = sums[:-1] / sums[1:]
        query[row, channel] = 1
    for t in range(early):
        begun = target[early:, : t + 1]
        held = begun / begun.sum(dim=-1, keepdim=True)
        solved = torch.linalg.lstsq(held.mT, target[t, : t + 1, None], driver="gelsd")
        query[t] = solved.solution.squeeze(-1)
    return query, decay


def remade(target):
    query, decay = from_later_rows(target)
    return weights(
        mixers.MetaLinearAttention(query=query, decay=decay, value=torch.ones_like(target[:, :1]))
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("seed", range(3))
def test_half_as_many_channels_as_tokens_make_a_random_map(steps, seed):
    logits = 2 * normal(seed, steps, steps)
    hidden = torch.ones_like(logits, dtype=torch.bool).triu(1)
    target = logits.masked_fill(hidden, -torch.inf).softmax(dim=-1)
    torch.testing.assert_close(remade(target), target, rtol=0, atol=1e-10)


def test_an_early_row_outside_what_later_rows_begin_with_is_missed():
    """Rows 3 and 4 begin alike; row 2 is no multiple of that beginning."""
    rows = [[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.4, 0.4, 0.2, 0], [0.3, 0.3, 0.3, 0.1]]
    target = torch.tensor(rows, dtype=torch.float64)
    missed = (remade(target) - target).abs()
    assert missed[1].max() > 0.1
    assert missed[[0, 2, 3]].max() < 1e-12


def test_the_mean_mass_of_a_window():
    """Of 3 x 3 patches on a 14 x 14 grid with a class token, those at the border smaller."""
    found = measures.uniform_neighbourhood(grid=(14, 14), edge_aware=True, extra_tokens=1)
    sizes = [2 if i in (0, 13) else 3 for i in range(14)]
    assert found == pytest.approx((sum(sizes) / 14) ** 2 / 197)


def test_the_averages_that_metala_prints_are_the_means_of_their_rows():
    """Path-X of the Transformer counts as zero, and LAMBADA does not count in Table A5."""
    averaged = [table for table in TABLES.values() if table.columns == ("average",)]
    errors = [
        abs(mean(table.tasks(name)) - table.at(name)) for table in averaged for name in table.rows
    ]
    assert len(errors) == 57
    assert max(errors) <= 0.011
