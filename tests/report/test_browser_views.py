"""The views of the explorer in a real browser: what they show is what the map holds."""

import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch

import dsf
from dsf.report import show
from tests.report.controls import open_menu

pytestmark = pytest.mark.slow


@pytest.fixture
def shown(visited, tmp_path):
    """Opens a page about an inspection."""

    def visit(inspection, **options):
        return visited(show(inspection, tmp_path / "r.html", **options))

    return visit


def press(page, *keys):
    page.locator(".pane canvas").nth(1).focus()
    for key in keys:
        page.keyboard.press(key)


def number_in(text):
    return float(text.replace("−", "-"))


def test_two_models_are_looked_at_through_one_cell(shown, of):
    rng = partial(torch.Generator().manual_seed)
    both = [of([dsf.mixers.DeltaNet.draw(rng(seed), steps=9)]) for seed in (0, 1)]
    page = shown(both)
    assert page.locator(".pane").count() == 2
    for pane, thumb in ((1, 2), (0, 0)):
        page.locator(".pane canvas:last-child").nth(pane).focus()
        page.locator(".lines .thumb").nth(thumb).click()
    for row, column in ((8, 2), (6, 6)):
        press(page, "Home", *["ArrowUp"] * 9, *["ArrowDown"] * row, *["ArrowRight"] * column)
        weights = [each[0].map()[0, row, column].item() for each in both]
        seen = page.locator(".pane")
        for pane, weight in zip((seen.nth(0), seen.nth(1)), weights, strict=True):
            shown_weight = number_in(pane.locator(".readout b").last.inner_text())
            assert shown_weight == pytest.approx(weight, rel=1e-5)
    press(page, "+")
    under = page.locator(".pane .canvases canvas:first-child")
    assert page.get_by_role("button", name="Zoom out").is_enabled()
    assert under.nth(0).bounding_box()["y"] == under.nth(1).bounding_box()["y"]


def test_a_minus_b_is_the_difference_of_the_maps(shown, of):
    rng = torch.Generator().manual_seed(0)
    inspection = of([dsf.mixers.DeltaNet.draw(rng, steps=9) for _ in range(2)])
    page = shown(inspection)
    page.locator(".lines .thumb").first.click()
    page.locator(".pane h2", has_text="layers.0.mixer · head 0").wait_for()
    assert page.get_by_role("button", name="Show A minus B").is_hidden()
    press(page, "c")
    page.locator(".pane").nth(1).locator("canvas:focus").wait_for()
    page.keyboard.press("d")
    page.locator(".pane h2", has_text="A − B: ").wait_for()
    apart = inspection[0].map()[0] - inspection[1].map()[0]
    second = page.locator(".pane").nth(1)
    for row, column in ((8, 2), (6, 6), (8, 0)):
        press(page, "Home", *["ArrowUp"] * 9, *["ArrowDown"] * row, *["ArrowRight"] * column)
        told = second.locator(".readout").inner_text()
        assert "A − B is" in told
        seen = number_in(second.locator(".readout b").last.inner_text())
        assert seen == pytest.approx(apart[row, column].item(), rel=1e-4)
    ends = second.locator(".ramp span").all_inner_texts()
    assert "−" in ends[0]
    assert "+" in ends[2]
    second.locator("canvas").nth(1).focus()
    page.keyboard.press("t")
    page.keyboard.press("t")
    largest = number_in(page.locator(".numbers .link").first.inner_text())
    assert abs(largest) == pytest.approx(apart.abs().max().item(), rel=1e-4)
    page.get_by_role("button", name="State", exact=True).click()
    assert "no state of its own" in second.locator(".state .summary").inner_text()
    page.get_by_role("button", name="Map", exact=True).click()
    second.locator("canvas").nth(1).focus()
    page.keyboard.press("c")
    page.locator(".pane h2", has_text="layers.0.mixer · head 0").wait_for()
    assert page.locator(".pane").count() == 1


def test_maps_of_other_sizes_are_not_subtracted(shown, of):
    rng = torch.Generator().manual_seed(0)
    page = shown(of([dsf.mixers.DeltaNet.draw(rng, steps=steps) for steps in (9, 7)]))
    page.locator(".lines .thumb").first.click()
    page.get_by_role("button", name="Compare with another map").click()
    page.locator(".lines .thumb").last.click()
    page.get_by_role("button", name="Show A minus B").click()
    page.locator(".apart", has_text="different numbers of tokens").wait_for()


def test_zooming_into_a_long_map_shows_single_tokens(shown, of, softmax):
    """At 300 tokens the page pools; the map with most weight far away is kept whole.

    The strongest weight is the second of its cell, which joins the queries 217, 218, the keys 5, 6.
    """
    steps = 300
    scores = torch.zeros(steps, steps)
    scores[218, 6] = 12
    words = [f" t{k}" for k in range(steps)]
    page = shown(of([softmax(torch.zeros(steps, steps)), softmax(scores)], words=words))
    page.locator(".pane h2", has_text="layers.1").wait_for()
    page.locator(".pane .about:not(:has-text('Pooled'))").wait_for()
    told = page.locator(".readout").inner_text()
    assert "Query “␣t218” (218), key “␣t6” (6): weight" in told
    assert page.locator(".lines .thumb").count() == 2


@pytest.mark.parametrize("kept", [0, 2**20], ids=["pooled", "whole"])
def test_a_listed_weight_is_as_exact_on_the_map(shown, of, softmax, kept):
    """The largest weights are in the list with all digits, so that the sentence has them too."""
    scores = torch.randn(420, 420, generator=torch.Generator().manual_seed(0))
    page = shown(of([softmax(4 * scores)]), full_resolution=kept)
    page.locator(".pane .about", has_text="Kept" if kept else "keeps 0").wait_for()
    for link in page.locator(".numbers .link").all()[:12:5]:
        link.click()
        told = page.locator(".readout").inner_text()
        assert "≈" not in told
        assert f" {link.inner_text()}" in told


def test_a_long_map_that_is_not_kept_whole_says_so(shown, of, softmax):
    page = shown(of([softmax(torch.zeros(300, 300))]), full_resolution=0)
    about = page.locator(".about").inner_text()
    assert "Of 1 pooled maps this page keeps 0 without pooling" in about
    assert "full_resolution" in about


def test_the_state_is_told_in_words_and_values(shown, of):
    steps = 9
    one = torch.ones(1, steps, 1, dtype=torch.float64)
    halving = dsf.mixers.GatedLinearAttention(
        query=one, key=one, value=one, log_decay=-one * math.log(2)
    )
    page = shown(of([halving]))
    page.get_by_role("button", name="State", exact=True).click()
    assert page.locator(".state .chart svg[role=img]").count() == 4
    assert "fallen to a half after 1 token." in page.locator(".state .summary").inner_text()
    decay = page.locator(".chart", has_text="Decay spectrum")
    decay.locator("summary").click()
    assert "1: 0.6931" in decay.locator("details").inner_text()
    assert page.locator(".canvases").is_hidden()


def test_a_token_is_found_and_its_strongest_reader_shown(shown, of, softmax):
    scores = torch.full((5, 5), -1000.0)
    scores[:, 0] = 0
    scores[3, 1] = 1000
    inspection = of([softmax(scores)], words=["the", "Cat", "sat", "on", "the"])
    page = shown(inspection)
    open_menu(page)
    field = page.get_by_label("Find a token by its text or position")
    field.fill("cAt")
    assert page.locator(".search .count").inner_text() == "1 found"
    assert page.locator(".strip .found").inner_text() == "Cat"
    field.press("Enter")
    assert (
        "Query “on” (3), key “Cat” (1): weight 1 · key 2 tokens before the query."
        in page.locator(".readout").inner_text()
    )
    field.fill("the")
    field.press("Enter")
    field.press("Enter")
    assert page.locator(".search .count").inner_text() == "2 of 2"
    field.fill("dog")
    assert page.locator(".search .count").inner_text() == "none"


def test_what_is_not_finite_is_counted_and_has_a_colour_of_its_own(shown, of):
    mixer = dsf.mixers.LinearAttention.draw(torch.Generator().manual_seed(0), steps=5)
    query = mixer.query.clone()
    query[..., 2, :] = torch.nan
    inspection = of([type(mixer)(**{**vars(mixer), "query": query})])
    count = int(inspection[0].map()[0].isnan().sum())
    page = shown(inspection)
    assert count > 0
    assert f"Not finite: {count} NaN, 0 infinite." in page.locator(".about").inner_text()
    assert f"not finite ({count})" in page.locator(".legend").inner_text()


def test_a_layer_of_channels_opens_with_all_of_them_together(shown, of):
    rng = torch.Generator().manual_seed(0)
    mixer = dsf.mixers.SelectiveStateSpace.draw(rng, steps=6)
    inspection = of([mixer], axes=("sample", "channel"), words="abcdef")
    channels = inspection[0].system.batch[-1]
    page = shown(inspection)
    assert page.locator(".pane h2").inner_text().endswith(f"all {channels} channels")
    about = page.locator(".about").inner_text()
    assert f"through all {channels} channels: the length of what a token (column)" in about
    assert "the mixer's response" in about
    press(page, *["ArrowDown"] * 6, "End")
    told = page.locator(".readout").inner_text()
    assert f"the mixer's response at “f” (5), through all {channels} channels" in told
    press(page, "Home")  # of the row of the last token
    told = page.locator(".readout").inner_text()
    assert told.startswith("Key “a” (0) adds to the mixer's response")
    length = inspection[0].contribution_norms()[0, 5, 0]
    told_length = number_in(told.partition("a vector of length ")[2].split()[0].rstrip("."))
    assert told_length == pytest.approx(length.item(), rel=1e-5)
    legend = page.locator(".legend").inner_text()
    assert "length of a contribution, in the unit of the mixer's response" in legend
    assert "−" not in legend
    page.get_by_role("button", name="State", exact=True).click()
    assert "choose a single channel" in page.locator(".state .summary").inner_text()
    page.get_by_role("button", name="Map", exact=True).click()
    page.locator(".lines .thumb").last.click()
    page.wait_for_selector(f".pane h2:has-text('channel {channels - 1}')")
    assert "weight, without unit" in page.locator(".legend").inner_text()


def test_columns_that_are_no_tokens_are_named_as_what_they_are(shown, of, softmax):
    inspection = of([softmax(torch.randn(6, 6, generator=torch.Generator().manual_seed(3)))])
    slots = [replace(layer, columns="slot") for layer in inspection]
    page = shown(replace(inspection, layers=tuple(slots), tokens=(tuple("abcdef"),)))
    press(page, "Home")
    said = page.locator(".readout").inner_text()
    assert re.search(r"^Query “e” \(4\), column slot 0: weight [\d.]+\.$", said)
    assert "token" not in said
