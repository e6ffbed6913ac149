"""The page in a real browser: silent, offline, deaf to what tokens say, usable by keys alone."""

import pytest
import torch

import dsf
from dsf.report import show
from tests.report.controls import open_menu
from tests.report.drawn import HOSTILE

pytestmark = pytest.mark.slow


def test_tokens_stay_text(opened):
    page = opened()
    assert page.locator("img, iframe, object").count() == 0
    assert page.locator("script").count() == 2
    assert HOSTILE[0] in page.locator(".strip").inner_text()
    assert page.title().startswith(HOSTILE[0])


def test_keys_alone_reach_everything(opened):
    page = opened()
    thumb, map, about = (
        page.locator(".lines .thumb"),
        page.locator(".canvases canvas").nth(1),
        ".pane h2",
    )
    thumb.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "head 1"
    page.keyboard.press("Enter")
    page.locator(".canvases canvas:focus").wait_for()
    assert "mixer · head 1" in page.locator(about).inner_text()
    page.keyboard.press("Home")
    for _ in range(10):
        page.keyboard.press("ArrowUp")
    assert "“</script>" in page.locator(".readout").inner_text()
    page.keyboard.press("End")
    assert "masked" in page.locator(".readout").inner_text()
    page.keyboard.press("n")
    page.locator(".pane h2", has_text="layers.1").wait_for()
    page.keyboard.press("+")
    assert page.get_by_role("button", name="Zoom out").is_enabled()
    page.keyboard.press("0")
    assert page.get_by_role("button", name="Zoom out").is_disabled()
    page.keyboard.press("v")
    assert page.locator(".choices [aria-pressed=true]").inner_text() == "State"
    page.keyboard.press("v")
    assert page.locator(".choices [aria-pressed=true]").inner_text() == "Map"
    page.keyboard.press("/")
    page.keyboard.type("k01")
    page.keyboard.press("Enter")
    assert page.locator(".search .count").inner_text() == "1 of 1"
    assert "k01" in page.locator(".readout b").nth(1).inner_text()
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.locator(".pane").nth(1).locator("canvas:focus").wait_for()
    page.keyboard.press("c")
    assert page.locator(".pane").count() == 1
    page.keyboard.press("t")
    assert not page.locator(".more").evaluate("each => each.open")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "thumb"
    assert map.count() == 1


def test_values_under_the_pointer_are_those_of_the_map(opened, inspected):
    page = opened()
    map = inspected(dsf.mixers.SoftmaxAttention, dsf.mixers.DeltaNet)[1].map()[0]
    page.locator(".lines .thumb").nth(2).click()
    page.locator(".pane h2", has_text="layers.1.mixer · head 0").wait_for()
    page.locator(".canvases canvas:focus").wait_for()
    for row, column in ((0, 0), (8, 0), (8, 8), (5, 3)):
        page.keyboard.press("Home")
        for key, count in (("ArrowUp", 9), ("ArrowDown", row), ("ArrowRight", column)):
            for _ in range(count):
                page.keyboard.press(key)
        shown = page.locator(".readout b").last.inner_text().replace("−", "-")
        assert float(shown) == pytest.approx(map[row, column].item(), rel=1e-5)


def test_the_pointer_finds_the_cell_under_it(opened):
    page = opened()
    page.locator(".lines .thumb").first.click()
    canvas = page.locator(".canvases canvas").nth(1)
    layout = page.evaluate(
        "() => { const c = document.querySelectorAll('.canvases canvas')[1]"
        ".getBoundingClientRect(); return [c.width, c.height]; }"
    )
    canvas.hover(position={"x": layout[0] - 46 - 3, "y": 46 + 3})  # inside the profiles
    assert "(0)" in page.locator(".readout").inner_text()
    assert "masked" in page.locator(".readout").inner_text()


def test_one_negative_link_among_many_tokens_is_seen_and_is_cool(browser, of, tmp_path):
    """Six hundred tokens on fewer pixels: whatever shares a pixel with the link must yield."""
    query, key = torch.zeros(1, 600, 1), torch.zeros(1, 600, 1)
    query[0, 511], key[0, 101] = -1, 1
    faint = torch.full((1, 600, 1), 0.02)
    mixer = dsf.mixers.LinearAttention(
        query=torch.cat([query, faint], -1),
        key=torch.cat([key, faint], -1),
        value=key,
        feature_map=lambda features: features,
        normalised=False,
    )
    page = browser.new_page(viewport={"width": 360, "height": 700})
    page.goto(show(of([mixer]), tmp_path / "r.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    cool = page.locator(".canvases canvas").first.evaluate(
        """(canvas) => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let count = 0;
        for (let k = 0; k < data.length; k += 4) count += data[k + 2] > data[k] + 80;
        return count; }"""
    )
    page.close()
    assert 1 <= cool <= 4


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_overflows_and_colours_follow_the_theme(opened, width):
    seen = set()
    for scheme in ("light", "dark"):
        page = opened(viewport={"width": width, "height": 780}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        seen.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        seen.add(page.locator(".canvases canvas").first.evaluate("each => each.toDataURL()"))
    assert len(seen) == 4


def test_another_scale_changes_the_colours_and_the_legend(opened):
    page = opened()
    under = page.locator(".canvases canvas").first
    seen = {under.evaluate("each => each.toDataURL()")}
    assert "square-root" in page.locator(".legend").inner_text()
    for curve, words in (
        ("linear", "linear colour scale"),
        ("logarithmic", "logarithmic"),
    ):
        open_menu(page)
        page.get_by_label("Colour scale").select_option(curve)
        page.locator(".legend", has_text=words).wait_for()
        seen.add(under.evaluate("each => each.toDataURL()"))
    assert len(seen) == 3


def test_every_control_and_picture_has_a_name(opened):
    page = opened()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, [role=application]")]
        .filter((each) => !(each.ariaLabel || each.textContent || each.labels?.length
            || each.getAttribute("aria-label")))
        .map((each) => each.outerHTML)"""
    )
    assert nameless == []


def test_an_old_browser_gets_a_sentence(browser, inspected, tmp_path):
    path = show(inspected(dsf.mixers.DeltaNet), tmp_path / "r.html")
    context = browser.new_context()
    context.add_init_script("delete globalThis.DecompressionStream")
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("#trouble:not([hidden])")
    assert "too old" in page.locator("#trouble").inner_text()
    assert page.locator("#maps").is_hidden()
    context.close()
