"""The state view: what a layer keeps of the past, against answers known beforehand."""

import math

import numpy as np
import pytest
import torch

import dsf
from dsf import mixers
from dsf.report import layer_content
from dsf.report.content import content


def state_of(inspection):
    return content(inspection)["layers"][0]["maps"][0]["state"]


def halving(steps=9):
    """One state that halves every token, written and read with weight one."""
    one = torch.ones(1, steps, 1, dtype=torch.float64)
    return dsf.mixers.GatedLinearAttention(
        query=one, key=one, value=one, log_decay=-one * math.log(2)
    )


def test_one_halving_state_by_hand(of):
    """The block after token t is an outer product of 2^-1, 2^-2, … and 2^-t, …, 1."""
    state = state_of(of([halving()]))
    assert state["states"] == 1
    assert state["exponents"] == [pytest.approx(-math.log(2), rel=1e-3)]
    assert state["horizon"] == 1
    assert state["left"] == [
        list(range(1, 10)),
        pytest.approx([2.0**-t for t in range(1, 10)], rel=1e-3),
    ]
    assert state["lags"] == [list(range(9)), pytest.approx([2.0**-t for t in range(9)], rel=1e-3)]
    assert [token for token, _ in state["hankel"]] == [2, 4, 6]
    for token, (value,) in state["hankel"]:
        read = sum(4.0**-t for t in range(token + 1))
        written = sum(4.0**-t for t in range(1, 9 - token))
        assert value == pytest.approx(math.sqrt(read * written), rel=1e-3)


def test_what_the_last_token_lost_is_listed_with_its_eraser(of):
    """Every token halves what is there: the first after a key takes the most, by decay."""
    erased = state_of(of([halving()]))["erased"]
    assert len(erased) == 10
    assert erased[0][1:] == [erased[0][0] + 1, -0.5, 0]
    assert [size for _, _, size, _ in erased] == [-0.5] * 8 + [-0.25] * 2
    assert all(size == -(0.5 ** (token - key)) for key, token, size, _ in erased)


@pytest.mark.parametrize("mixer", [mixers.GatedDeltaNet, mixers.RWKV7, mixers.GatedLinearAttention])
def test_a_page_holds_what_the_erasers_of_every_cell_follow_from(mixer, of):
    """As the page computes them, in plain loops on the numbers that it holds."""
    inspection = of([mixer.draw(torch.Generator().manual_seed(0), steps=7)])
    layer = inspection[0]
    traces = content(inspection)["layers"][0]["maps"][0]["state"]["traces"]
    parts = {name: np.array(part) for name, part in traces.items()}
    for query, key in ((6, 0), (5, 3)):
        trace = parts["write"][key]
        expected = {each.token: each for each in layer.erasers(query=query, key=key, head=0)}
        for token in range(key + 1, query + 1 - traces["before"]):
            kept = parts["decay"][token] * trace
            moved = 0 * trace
            for left, right in zip(
                parts.get("left", [[]] * 7)[token], parts.get("right", [[]] * 7)[token], strict=True
            ):
                moved = moved + left * (right @ trace)
            read = parts["read"][query]
            assert read @ (kept - trace) == pytest.approx(expected[token].decay, abs=1e-3)
            assert read @ moved == pytest.approx(expected[token].overwriting, abs=1e-3)
            trace = kept + moved
    long = of([mixer.draw(torch.Generator().manual_seed(0), steps=7)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_content, "MAX_TRACES", 8)
        assert "traces" not in state_of(long)


def test_softmax_keeps_every_token_and_has_a_spectrum(softmax, of):
    scores = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    inspection = of([softmax(scores)])
    state = state_of(inspection)
    assert state["states"] is None
    assert {"exponents", "left", "horizon"}.isdisjoint(state)
    block = inspection[0].map()[0, 4:, :4]
    token, values = state["hankel"][1]
    assert token == 3
    np.testing.assert_allclose(values, torch.linalg.svdvals(block).numpy(), rtol=1e-3)


def test_what_would_take_long_or_has_no_meaning_is_left_out(inspected, softmax, of, monkeypatch):
    cross = softmax(torch.zeros(3, 5), causal=False)
    reason = "since the queries are other tokens than the keys"
    assert state_of(of([cross])) == {"states": None, "unmeasured": reason}
    monkeypatch.setattr(layer_content, "MOST_WORK", 1)
    state = state_of(inspected(dsf.mixers.DeltaNet))
    assert set(state) == {"states", "lags", "unmeasured"}
    assert state["unmeasured"].endswith("states each over 9 tokens are too much work for a page")


def test_of_several_reasons_the_first_is_told(of, softmax, monkeypatch):
    monkeypatch.setattr(layer_content, "LONGEST", 4)
    assert "5 tokens are more than the 4" in state_of(of([halving(steps=5)]))["unmeasured"]
    assert state_of(of([halving(steps=1)]))["unmeasured"] == "since there is a single token"
    both = softmax(torch.zeros(3, 5), causal=False)
    assert "other tokens" in state_of(of([both]))["unmeasured"]
    assert "unmeasured" not in state_of(of([halving(steps=4)]))


def test_measures_that_a_page_leaves_out_are_told(of, monkeypatch):
    monkeypatch.setattr(layer_content, "MOST_CELLS", 30)
    map = content(of([halving(steps=6)]))["layers"][0]["maps"][0]
    assert map["measures"] == []
    assert "1 maps of 6 tokens have 36 weights" in map["unmeasured"]
    assert "inspection.measure()" in map["unmeasured"]


def test_a_long_curve_is_given_at_some_places_with_both_ends(of):
    lags, mass = state_of(of([halving(steps=300)]))["lags"]
    assert len(lags) == len(mass) == layer_content.POINTS
    assert (lags[0], lags[-1]) == (0, 299)


def test_a_chosen_cell_shows_who_erased_it(of, visited, tmp_path):
    inspection = of([mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=9)])
    page = visited(dsf.show(inspection, tmp_path / "page.html"))
    erased = page.locator("table", has_text="Erased before the last query")
    key = erased.locator(".link").first
    name = key.inner_text()
    key.click()
    shown = page.locator(".erasers figure")
    assert shown.locator("h3").inner_text() == f"Who erased {name.replace('token', 'key')}?"
    first, by_decay, by_overwriting = (
        erased.locator("tbody tr").first.locator("td").nth(k).inner_text() for k in (1, 2, 3)
    )
    assert by_decay == "0"
    values = shown.locator("details p").nth(1).text_content().replace("−", "-")
    assert f"{by_overwriting[:5]}".replace("−", "-") in values
    assert first
