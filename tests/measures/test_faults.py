"""Faults of measures that an adversary found once, each with its brothers, as permanent cases."""

import pytest
import torch

import dsf
from dsf import measures
from dsf.inspection.results.measurements import QUANTITIES, values
from dsf.systems.composite import ExplicitMap, StoredRows, SystemSum
from dsf.systems.transition import Dense, Diagonal
from tests.measures import oracle
from tests.soundness.measures import coefficients_of

DOUBLE = torch.float64
ONE = torch.ones(4, 1, dtype=DOUBLE)


def drawn(cls, steps=12, seed=0):
    return cls.draw(torch.Generator().manual_seed(seed), steps=steps).system()


def norm_of(map):
    return torch.linalg.matrix_norm(map, ord=2)


def test_energy_gain_leaves_out_the_initial_state():
    one = torch.ones(1, 1, dtype=DOUBLE)
    kept = dsf.System(
        Diagonal(one), 0 * one[None], one[None], initial=torch.full((1, 1), 5.0, dtype=DOUBLE)
    )
    assert measures.energy_gain(kept) == 0
    for steps in (1, 12):
        cell = drawn(dsf.mixers.LSTM, steps, seed=44)
        wanted = norm_of(dsf.attention_map(cell))
        for few in (1, 4, 40):
            found = measures.energy_gain(cell, steps=few)
            assert (found <= wanted * (1 + 1e-12)).all()
        torch.testing.assert_close(measures.energy_gain(cell), wanted)


def test_energy_gain_knows_every_kind_of_operator(mixer):
    system = mixer.system()
    wanted = norm_of(dsf.attention_map(system))
    torch.testing.assert_close(measures.energy_gain(system), wanted)
    found = measures.energy_gain(system, steps=2)
    assert (found <= wanted * (1 + 1e-12)).all()


def test_energy_gain_of_sums_and_of_more_inputs_than_outputs():
    wide = drawn(dsf.mixers.GatedDeltaProduct, 1, seed=31)
    torch.testing.assert_close(measures.energy_gain(wide), norm_of(dsf.attention_map(wide)))
    forward = drawn(dsf.mixers.Retention, 60)
    both = SystemSum((forward, dsf.systems.algebra.reverse(forward)))
    torch.testing.assert_close(
        measures.energy_gain(both), norm_of(dsf.attention_map(both)), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("size", [1, 8, 130])
def test_a_map_is_causal_as_a_whole_whatever_the_blocks(size):
    rng = torch.Generator().manual_seed(0)
    map = torch.rand(130, 130, generator=rng, dtype=DOUBLE).tril()
    map[:5, :5] = torch.rand(5, 5, generator=rng, dtype=DOUBLE)
    map = map - 0.3 * (map > 0)
    blocks = list(dsf.evaluate.row_blocks(map, size=size))
    whole = (map < 0).double().mean()
    torch.testing.assert_close(measures.negative_entries(blocks), whole)
    row = map[100]
    wanted = (row - 1 / 130).norm()
    torch.testing.assert_close(measures.uniformity_gap(blocks)[100], wanted)
    wanted = row.sum() ** 2 / (130 * row.square().sum())
    for source in (map, blocks):
        torch.testing.assert_close(measures.uniform_share(source)[100], wanted)
    two = torch.stack([map, map.tril()])
    below = (map.tril() < 0).sum().double() / (130 * 131 / 2)
    torch.testing.assert_close(measures.negative_entries(two)[1], below)


def test_backward_systems_are_followed_from_their_last_token():
    decay = torch.tensor([[0.1], [1.0], [1.0], [1.0]], dtype=DOUBLE)
    ahead = dsf.System(Diagonal(decay), ONE[..., None], ONE[..., None, :], runs_backward=True)
    assert measures.product_norms(ahead).tolist() == [0.1, 1, 1, 1]
    assert measures.memory_horizon(ahead) == 4
    found = measures.controllability_gramians(ahead).flatten()
    torch.testing.assert_close(found, torch.tensor([1.03, 3, 2, 1], dtype=DOUBLE))
    seen = measures.observability_gramians(ahead).flatten()
    torch.testing.assert_close(seen, torch.tensor([0, 0.01, 1.01, 2.01], dtype=DOUBLE))


def test_backward_and_forward_agree_when_tokens_are_reversed():
    forward = drawn(dsf.mixers.DeltaNet)
    back = dsf.systems.algebra.reverse(forward)
    for measure in (measures.product_norms, measures.lyapunov_exponents):
        flip = measure is measures.product_norms
        wanted = measure(forward)
        torch.testing.assert_close(measure(back), wanted.flip(-1) if flip else wanted)
    assert measures.memory_horizon(back).equal(measures.memory_horizon(forward))
    for gramians in (measures.controllability_gramians, measures.observability_gramians):
        torch.testing.assert_close(gramians(back), gramians(forward).flip(-3))


SCALES = [
    (1e-200, torch.float64),
    (1e200, torch.float64),
    (1e-30, torch.float32),
    (1e20, torch.float32),
    (300.0, torch.float16),
    (1e-6, torch.float16),
    (1e30, torch.bfloat16),
]


@pytest.mark.parametrize(("scale", "dtype"), SCALES)
def test_scales_change_norms_and_nothing_else(scale, dtype):
    map = (torch.tensor([[3.0, 0.0], [4.0, 5.0]], dtype=DOUBLE) * scale).to(dtype)
    exact = map.double() / scale
    loose = {"rtol": 1e-5, "atol": 0}
    for source in (map, ExplicitMap(StoredRows(map))):
        rows, columns = measures.row_norms(source), measures.column_norms(source)
        torch.testing.assert_close(rows.double() / scale, exact.norm(dim=-1), **loose)
        torch.testing.assert_close(columns.double() / scale, exact.norm(dim=-2), **loose)
        assert measures.map_distance(source, torch.zeros_like(map)) == 1
        share = exact.sum(-1) ** 2 / (torch.tensor([1, 2]) * exact.square().sum(-1))
        torch.testing.assert_close(measures.uniform_share(source).double(), share, **loose)
        assert (measures.row_entropy(source) >= 0).all()
    if dtype.itemsize >= 4:
        assert measures.states_needed(map, error=0.1) == 1
        torch.testing.assert_close(dsf.attention_map(dsf.evaluate.realise(map)), map)
        torch.testing.assert_close(dsf.attention_map(dsf.evaluate.reduce(map, order=1).system), map)


def test_scaled_systems_with_compiled_loops_keep_their_norms():
    steps = 300
    one = torch.ones(steps, 1, dtype=DOUBLE)
    for scale in (1e-200, 1e200):
        system = dsf.System.from_write_and_read(Diagonal(0.9 * one), scale * one, one)
        wanted = (0.81 ** torch.arange(steps).double()).cumsum(0).sqrt() * scale
        torch.testing.assert_close(measures.row_norms(system), wanted)


def test_nan_is_never_hidden():
    map = torch.tensor([[1.0, 0], [torch.nan, 1]], dtype=DOUBLE)
    for measure in (measures.negative_entries, measures.sink_rate, measures.smallest_entry):
        assert measure(map).isnan()
    for measure in (measures.previous_token, measures.self_token, measures.first_token):
        assert measure(map).isnan()
    rows = ExplicitMap(StoredRows(map))
    found = {name: quantity(rows) for name, quantity in QUANTITIES.items() if "mean" in name}
    assert all(value.isnan() for value in found.values())
    for measure in (measures.energy_gain, measures.effective_rank):
        with pytest.raises(ValueError, match="NaN"):
            measure(map)
    broken = dsf.System(
        Diagonal(torch.tensor([[1.0], [torch.nan]], dtype=DOUBLE)),
        torch.ones(2, 1, 1, dtype=DOUBLE),
        torch.ones(2, 1, 1, dtype=DOUBLE),
    )
    assert measures.product_norms(broken)[1].isnan()
    assert measures.memory_horizon(broken) == -1


def test_more_tokens_written_than_read_and_the_other_way():
    for written, read in ((8, 3), (3, 8)):
        weights = torch.rand(written, read, dtype=DOUBLE)
        lags = [weights.diagonal(-lag).mean() for lag in range(written)]
        found = measures.mass_by_lag(ExplicitMap(StoredRows(weights)))
        torch.testing.assert_close(found, torch.stack(lags))
        assert measures.half_life(ExplicitMap(StoredRows(weights))) >= 0


@pytest.mark.parametrize("feature_map", ["softplus", "elu_plus_one", "exp", "identity"])
@pytest.mark.parametrize("query", [1000.0, 3.0, -3.0, -30.0, -45.0, -1000.0])
def test_colliding_queries_stay_finite(feature_map, query):
    given = torch.tensor([query], dtype=DOUBLE)
    other = measures.colliding_query(given, feature_map=feature_map)
    assert other.isfinite().all()
    assert not other.equal(given)
    mpmath = pytest.importorskip("mpmath")
    features = {
        "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
        "elu_plus_one": lambda x: x + 1 if x > 0 else mpmath.exp(x),
        "exp": mpmath.exp,
        "identity": lambda x: x,
    }
    with mpmath.workdps(700):
        first, second = (features[feature_map](mpmath.mpf(x.item())) for x in (given, other))
        assert abs(second / first / 2.5 - 1) < 1e-12 * max(1, abs(query))


NUMBERS = [torch.bool, torch.int8, torch.uint8, torch.int64]


@pytest.mark.parametrize("dtype", NUMBERS)
def test_whole_numbers_are_refused_in_words(dtype):
    for measure in (measures.row_entropy, measures.column_sums, measures.effective_rank):
        with pytest.raises(TypeError, match=r"Convert it first"):
            measure(torch.eye(3).to(dtype))


def test_numbers_of_sixteen_and_eight_bits_are_widened():
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        map = torch.tensor([[1.0, 0], [0.5, 1.5]]).to(dtype)
        wide = map.float()
        for measure in (measures.row_entropy, measures.column_norms, measures.energy_gain):
            torch.testing.assert_close(measure(map), measure(wide))


def test_complex_and_empty_maps_get_an_answer_or_a_named_error():
    rotated = torch.eye(3, dtype=torch.complex64)
    with pytest.raises(ValueError, match="complex"):
        measures.row_sum_spread(rotated)
    assert measures.energy_gain(rotated) == 1
    empty = torch.zeros(0, 0)
    for measure in (measures.absolute_gain, measures.row_sums, measures.column_norms):
        with pytest.raises(ValueError, match="at least one"):
            measure(empty)
    with pytest.raises(ValueError, match="at least one"):
        measures.map_distance(empty, empty)


def test_strided_negated_and_conjugated_maps_measure_as_their_copies():
    rng = torch.Generator().manual_seed(0)
    real = torch.randn(12, 40, generator=rng, dtype=DOUBLE)
    turned = torch.randn(6, 6, generator=rng, dtype=torch.complex128)
    views = [real[::2, ::7], real[:6, :6].mT, torch._neg_view(real[:6, :6]), turned.conj()]
    for view in views:
        copy = view.resolve_neg().resolve_conj().clone(memory_format=torch.contiguous_format)
        for measure in (measures.row_entropy, measures.column_norms, measures.mean_distance):
            torch.testing.assert_close(measure(view), measure(copy))


@pytest.mark.parametrize("cls", [dsf.mixers.LRU, dsf.mixers.ElmanRNN, dsf.mixers.LSTM])
def test_a_map_with_several_ports_measures_as_its_system(cls):
    system = drawn(cls)
    ports = {"outputs": system.output_size, "inputs": system.input_size}
    map = dsf.attention_map(system)
    for measure in (measures.mean_distance, measures.half_life, measures.largest_ahead):
        torch.testing.assert_close(measure(dsf.evaluate.row_blocks(map, **ports)), measure(system))
    assert (measures.largest_ahead(dsf.evaluate.row_blocks(map, **ports)) == 0).all()
    with pytest.raises(ValueError, match="ports"):
        dsf.evaluate.row_blocks(system, outputs=2)


def test_an_inspection_measures_the_system_where_the_map_does_not_know_its_ports():
    system = drawn(dsf.mixers.LRU)
    for whole in (None, dsf.attention_map(system)):
        found, _ = values(system, whole=whole)
        assert (found["largest_ahead"] == 0).all()
        torch.testing.assert_close(found["half_life"], measures.half_life(system))


def test_the_bound_of_a_reduction_holds_where_rounding_rules():
    rng = torch.Generator().manual_seed(4)
    delta = dsf.systems.algebra.select(drawn(dsf.mixers.DeltaNet, seed=4), 0)
    left, right = (
        torch.linalg.qr(torch.randn(13, 4, 4, generator=rng, dtype=DOUBLE))[0] for _ in range(2)
    )
    cases = []
    for worst in (0, 4, 8):
        basis = left @ torch.diag(torch.logspace(0, -worst, 4, dtype=DOUBLE)) @ right
        inverse = torch.linalg.inv(basis)
        A = basis[1:] @ delta.A.dense() @ inverse[:-1]
        cases.append(dsf.System(Dense(A), basis[1:] @ delta.B, delta.C @ inverse[1:], delta.D))
    decay = torch.tensor([0.9, 0.9, 0.5], dtype=DOUBLE).expand(24, 3)
    write = torch.tensor([1.0, -1.0, 1e-6], dtype=DOUBLE).view(1, 3, 1).expand(24, 3, 1)
    read = torch.tensor([1e12, 1e12, 1.0], dtype=DOUBLE).view(1, 1, 3).expand(24, 1, 3)
    cases.append(dsf.System(Diagonal(decay), write, read))
    for case in cases:
        reduction = dsf.evaluate.reduce(case, order=4 if case.state_size == 4 else 3)
        maps = [oracle.followed(coefficients_of(each, ())) for each in (case, reduction.system)]
        pairs = zip(*map(oracle.everything, maps), strict=True)
        true = oracle.length([a - b for a, b in pairs])
        assert true <= reduction.bound.item()
        assert reduction.bound <= 1.01 * float(true) + 1e-10 * reduction.size
    tiny = torch.ones(4, 4, dtype=DOUBLE).tril() * 1e-200 + torch.eye(4, dtype=DOUBLE) * 1e-200
    reduction = dsf.evaluate.reduce(tiny, order=1)
    assert 0 < reduction.bound < 1e-12 * reduction.size
