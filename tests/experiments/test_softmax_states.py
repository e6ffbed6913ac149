"""How many states softmax takes: approximations, tables, and the numbers on record."""

import json

import pytest
import torch

from dsf.evaluate import attention_map
from dsf.mixers import LinearAttention
from dsf.mixers.ingredients import relu
from experiments.softmax_states import approximations, figure, heads, run, table


@pytest.fixture(scope="module")
def group():
    return heads.gaussian(2, 1.0, tokens=16, maps=2)


def test_the_summed_series_is_the_map_of_the_monomials(group):
    for order in (0, 1, 4):
        expected = attention_map(group.heads.expansion(order).system())
        torch.testing.assert_close(approximations.series_map(group.heads, order), expected)


def test_no_reduced_system_beats_the_bound_and_half_the_length_suffices(group):
    map = attention_map(group.heads.system())
    least = approximations.least_errors(map, (1, 2, 4, 8))
    reduced = approximations.reduced_errors(map, (1, 2, 4, 8))
    assert (least <= reduced + 1e-14).all()
    assert (reduced.diff(dim=0) < 0).all()
    assert (least[:3] > 1e-3 * reduced[:3]).all()
    assert reduced[-1].max() < 1e-12


def test_two_features_take_two_states():
    key = torch.rand(1, 12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixer = LinearAttention(query=key.flip(1), key=key, value=key, feature_map=relu)
    map = attention_map(mixer.system())
    one, two = approximations.least_errors(map, (1, 2)).flatten().tolist()
    assert one > 1e-2
    assert two < 1e-12


def test_the_bound_of_a_block_of_rank_two_by_hand():
    map = torch.eye(4, dtype=torch.float64)
    map[2, 0], map[3, 1] = 3.0, 2.0
    error = approximations.least_errors(map.unsqueeze(0), (1,)).item()
    assert error == pytest.approx(2 / (4 + 9 + 4) ** 0.5)


def test_more_random_features_are_closer(group):
    errors = approximations.random_feature_errors(group.heads, (4, 1024), draws=3)
    assert (errors[1] < 0.5 * errors[0]).all()


def test_the_fewest_states_within_an_error():
    curve = {"states": [1, 2, 4000], "errors": [[0.5, 0.9], [0.2, 0.1], [0.01, 0.03]]}
    assert table.states_for(curve, 0.16) == "2"
    assert table.states_for(curve, 0.02) == "4,000"
    assert table.states_for(curve, 0.01) == "> 4,000"


def test_a_table_takes_the_place_of_the_old_one(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}old\n{table.END}\nafter\n")
    table.put_into(page, "new")
    assert page.read_text() == f"before\n{table.BEGIN}new\n{table.END}\nafter\n"


def test_one_small_group_from_heads_to_picture(group, tmp_path):
    found = run.measured(group, states=(1, 2, 8, 9), orders=(0, 2), widths=(4,), draws=1)
    assert found["reduced"]["states"] == [1, 2]
    assert found["series"]["states"] == [1, 6]
    assert found["maps"] == 2
    figure.draw({group.name: found}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_trained_layer_takes_a_state_for_every_pair():
    pytest.importorskip("transformers")
    last = heads.trained(2, pairs=3)[-1].heads
    below, enough = approximations.least_errors(attention_map(last.system()), (2, 3)).median(dim=1)[
        0
    ]
    assert below > 0.15
    assert enough < 0.1


def test_the_page_shows_the_results_on_record():
    record = json.loads((run.FOLDER / "results.json").read_text())
    page = (run.FOLDER / "README.md").read_text()
    by_pairs = {int(pairs): curve for pairs, curve in record["by_pairs"].items()}
    assert table.table(record["groups"]) in page
    assert table.pair_table(by_pairs) in page
