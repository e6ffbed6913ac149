"""The page at real size in a real browser: the map is large, its colours show what it does."""

import pytest
import torch

import dsf
from dsf.inspection.results.table import Table
from dsf.report import show
from tests.report.controls import MAP, open_menu
from tests.report.drawn import of_mixers

pytestmark = pytest.mark.slow

STEPS = 200
WORDS = [f" w{k % 50}" for k in range(STEPS)]

WARM = """(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let k = 0; k < data.length; k += 4) count += data[k] > data[k + 2] + 60;
    return count; }"""


def sinking(seed):
    """Twelve heads; each gives nine tenths to the first key and the rest to a few others."""
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randn(1, 12, STEPS, STEPS, generator=rng)
    scores[..., 0] = 9
    nothing = torch.zeros(1, 12, STEPS, 1)
    return dsf.mixers.SoftmaxAttention(
        query=nothing, key=nothing, value=torch.ones(1, 12, STEPS, 2), bias=scores
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    mixers = [sinking(seed) for seed in range(3)]
    found = of_mixers(mixers, words=WORDS, axes=("sample", "head"))
    return show(found, tmp_path_factory.mktemp("page") / "r.html")


@pytest.fixture
def page(visited, path):
    return visited(path, viewport={"width": 1440, "height": 900})


def test_the_map_is_640_pixels_wide_beside_the_overview(page):
    assert page.locator(".canvases canvas").first.evaluate(MAP)["wide"] >= 640
    assert page.locator(".lines .thumb").count() == 36
    smallest = page.locator(".lines .thumb canvas").evaluate_all(
        "(all) => Math.min(...all.map((each) => each.getBoundingClientRect().width))"
    )
    assert smallest >= 40


def test_the_panels_fold_away_and_leave_the_map_their_width(page):
    before = page.locator(".stage").bounding_box()["width"]
    canvas = page.locator(".canvases canvas").first
    whole = canvas.evaluate(MAP)["wide"]
    page.get_by_role("button", name="Show or hide the overview").click()
    assert page.locator(".overview").is_hidden()
    assert page.locator(".stage").bounding_box()["width"] > before + 400
    assert canvas.evaluate(MAP)["high"] > whole + 80
    assert canvas.bounding_box()["height"] < 900
    beside = page.locator(".numbers").bounding_box()
    assert beside["y"] < 400
    page.locator(".more > summary").click()
    assert page.locator(".numbers").is_hidden()
    page.locator(".pane canvas").nth(1).focus()
    page.keyboard.press("o")
    assert page.locator(".overview").is_visible()
    assert canvas.evaluate(MAP)["wide"] == whole


def test_beside_a_sink_the_other_weights_are_seen_and_linear_is_one_choice_away(page):
    under = page.locator(".canvases canvas").first
    robust = under.evaluate(WARM)
    open_menu(page)
    page.get_by_label("Colour scale").select_option("linear")
    page.locator(".legend", has_text="linear").wait_for()
    assert robust > 5 * under.evaluate(WARM)


def test_a_map_without_negative_weights_has_a_scale_from_zero(page):
    ends = page.locator(".legend .ramp span").all_inner_texts()
    assert ends[0] == "0"
    assert "−" not in "".join(ends)


def test_tokens_show_their_spaces_and_are_found_with_and_without(page):
    table = page.locator(".numbers table", has_text="Largest weights").inner_text()
    assert "“␣w" in table
    assert "␣w" in page.locator(".readout").inner_text()
    open_menu(page)
    field = page.get_by_label("Find a token by its text or position")
    for wanted in (" w17", "␣w17", "w17"):
        field.fill(wanted)
        assert page.locator(".search .count").inner_text() == "4 found"


def test_samples_are_named_once_over_their_thumbnails(visited, tmp_path):
    rng = torch.Generator().manual_seed(0)
    parts = {
        name: torch.randn(2, 12, 9, 3, generator=rng, dtype=torch.float64)
        for name in ("query", "key", "value")
    }
    mixers = [dsf.mixers.SoftmaxAttention(**parts) for _ in range(2)]
    page = visited(show(of_mixers(mixers), tmp_path / "r.html"))
    named = ["sample 0", "sample 1"] * 2
    assert page.locator(".lines p.sample").all_text_contents() == named
    assert page.locator(".lines .thumb").all_text_contents() == [""] * 48
    columns = [str(k) for k in range(12)]
    assert page.locator(".lines .columns span").all_text_contents() == columns
    page.locator(".lines .thumb").nth(15).click()
    assert "sample 1, head 3" in page.locator(".stage h2, .stage h3").first.text_content()
    lines = page.locator(".lines .layer").first
    pictures = 2 * lines.locator("canvas").first.bounding_box()["height"]
    assert lines.bounding_box()["height"] < 1.7 * pictures


def test_a_long_verdict_stays_in_its_column(visited, inspected, tmp_path):
    inspection = inspected(dsf.mixers.DeltaNet)
    about = {"level": "data", "observed": None, "claim": "none", "limits": ""}
    names = {"property": "nonexpansive", "verdict": "NOT APPLICABLE"}
    verdicts = Table(({"layer": inspection[0].name, **names, **about},))
    path = show(inspection, tmp_path / "r.html", verdicts=verdicts)
    page = visited(path, viewport={"width": 1024, "height": 768})
    place = "(each) => each.getBoundingClientRect().right"
    chip = page.locator(".verdict .chip").evaluate(place)
    assert chip <= page.locator(".verdict").evaluate(place)
