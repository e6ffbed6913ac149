"""Every built page in a real browser, wide and narrow: no error, no request, nothing sticks out."""

import os
import re
import shutil
from collections import defaultdict
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.slow
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FRAME, FRAMES = "new Promise((next) => requestAnimationFrame(next))", 60
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"


@pytest.fixture(scope="module")
def chromium():
    """Chromium as the system has it; nothing is downloaded."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs Chromium on the PATH")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visit(chromium):
    """Opens pages one after the other and returns what is wrong with them."""
    tab = chromium.new_page(viewport=WIDE)
    wrong = []
    tab.on("console", lambda message: wrong.append(message.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("request", lambda request: _foreign(request.url) and wrong.append(request.url))

    def see(path):
        wrong.clear()
        tab.set_viewport_size(WIDE)
        tab.goto(path.as_uri())
        wrong.extend(tab.evaluate(BROKEN))
        tab.set_viewport_size(NARROW)
        beyond = _beyond(tab)
        return [*wrong, *([f"sticks out by {beyond} pixels"] if beyond > 0 else [])]

    yield see
    tab.close()


SEEN = (
    "index.html",
    "playground.html",
    "syllabus.html",
    "comparison.html",
    "concepts/gauge.html",
    "papers.html",
    "_generated/gallery/index.html",
    "_generated/gallery/selective_state_space.html",
    "_generated/notebooks/07_delta_rules.html",
    "_generated/measures.html",
)
"""Pages of every kind; with DSF_EVERY_PAGE=1 all of them are looked at, and the numbers told."""


def _beyond(tab):
    """By how much a page sticks out, once what fits itself to the window has had its frames."""
    beyond, frames = tab.evaluate(OVERFLOW), 0
    while beyond > 0 and frames < FRAMES:
        tab.evaluate(FRAME)  # a page of the library lets no script wait for a condition in words
        beyond, frames = tab.evaluate(OVERFLOW), frames + 1
    return beyond


def _foreign(url):
    return not url.startswith(("file:", "data:"))


EVERY = bool(os.environ.get("DSF_EVERY_PAGE"))
LOOKS = [("light", WIDE), ("dark", NARROW), *([("dark", WIDE), ("light", NARROW)] if EVERY else [])]


@pytest.mark.timeout(3600 if EVERY else 300)
@pytest.mark.parametrize(("scheme", "size"), LOOKS)
def test_everybody_can_read_the_pages(site, chromium, capsys, scheme, size):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    tab = chromium.new_page(viewport=size, color_scheme=scheme)
    pages = sorted(site.rglob("*.html")) if EVERY else [site / name for name in SEEN]
    found, where = {}, defaultdict(list)
    for page in pages:
        tab.goto(page.as_uri())
        bad = axe.run(tab).response["violations"]
        for each in bad:
            node = each["nodes"][0]["html"][:160]
            where[f"{each['impact']} {each['id']}"].append((str(page.relative_to(site)), node))
        wrong = [
            (each["id"], [node["html"][:160] for node in each["nodes"]][:3])
            for each in bad
            if each["impact"] in ("serious", "critical")
        ]
        if wrong:
            found[str(page.relative_to(site))] = wrong
    tab.close()
    if EVERY:
        with capsys.disabled():
            print(f"\n    {scheme}, {size['width']} pixels: {len(pages)} pages")
            for finding, places in where.items():
                print(f"    {finding}: {len(places)} pages, first {places[0]}", flush=True)
    assert found == {}


def test_words_that_people_use_find_their_page(site, chromium):
    tab = chromium.new_page()
    for words, wanted in (
        ("attention map of Mamba", "SelectiveStateSpace"),
        ("RetNet", "Retention"),
        ("ZeroS", "ZeroSumAttention"),
        ("delta rule state", "Does my Mamba forget because it decays, is overwritten, or full?"),
        ("which token caused", "Which tokens and layers made the model say this?"),
        ("which token caused the prediction", "Which tokens and layers made the model say this?"),
        ("gain", "Measures"),
        ("Hankel", "Memory: Hankel ranks and singular values"),
        ("context length", "Work with long sequences"),
        ("install", "Quick start"),
    ):
        tab.goto(f"{(site / 'search.html').as_uri()}?q={quote(words)}")
        tab.wait_for_selector("#search-results li a")
        assert tab.locator("#search-results li a").first.text_content() == wanted, words
    tab.close()


def test_a_wide_table_scrolls_within_the_window(site, chromium):
    """Both scroll bars of a long table, and its head, stay in view; keys reach it."""
    tab = chromium.new_page(viewport=NARROW)
    tab.goto((site / "any_code.html").as_uri())
    box = tab.locator(".table-wrapper[tabindex='0']").last
    box.scroll_into_view_if_needed()
    assert box.bounding_box()["height"] <= NARROW["height"]
    box.evaluate("(each) => each.scrollTo(60, 300)")
    head = box.locator("thead th").first.bounding_box()
    assert abs(head["y"] - box.bounding_box()["y"]) < 6
    assert "scrolls" in box.get_attribute("aria-label")
    tab.close()


def test_a_table_that_fits_is_read_with_the_page(site, chromium):
    """It is not cut at the height of the window; in a narrow one it scrolls, and is named again."""
    tab = chromium.new_page(viewport=WIDE)
    tab.goto((site / "comparison.html").as_uri())
    box = tab.locator(".table-wrapper").last
    assert box.evaluate("(each) => getComputedStyle(each).overflow") == "visible"
    assert box.get_attribute("tabindex") is None
    tab.set_viewport_size(NARROW)
    tab.locator(".table-wrapper[tabindex='0']").last.wait_for()
    assert box.evaluate("(each) => getComputedStyle(each).overflow") == "auto"
    assert "scrolls" in box.get_attribute("aria-label")
    tab.set_viewport_size(WIDE)
    tab.locator(".table-wrapper.fits").last.wait_for()
    assert box.get_attribute("aria-label") is None
    tab.close()


def test_sentences_in_a_table_have_room_and_numbers_keep_their_line(site, chromium):
    tab = chromium.new_page(viewport=WIDE)
    tab.goto((site / "trained_models.html").as_uri())
    cells = tab.locator("td").evaluate_all(
        "(all) => all.map((one) => [one.textContent.trim(), one.offsetWidth, one.offsetHeight])"
    )
    tab.close()
    assert {text for text, width, _ in cells if len(text) > 60 and width < 180} == set()
    assert any(len(text) > 60 for text, _, _ in cells)
    numbers = [(text, width) for text, width, _ in cells if re.fullmatch(r"\de-\d\d", text)]
    assert numbers
    assert all(width > 45 for _, width in numbers)


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_the_playground_shows_its_map_when_it_opens(site, chromium, size):
    """Within its frame, without scrolling there."""
    tab = chromium.new_page(viewport=size)
    tab.goto((site / "playground.html").as_uri())
    frame = tab.locator("iframe.live")
    frame.scroll_into_view_if_needed()
    inside = tab.frame_locator("iframe.live")
    inside.locator("html[data-ready]").wait_for(state="attached")
    map = inside.locator(".map svg").bounding_box()
    seen = frame.bounding_box()
    assert map["y"] + map["height"] <= seen["y"] + seen["height"]
    tab.close()


def test_the_front_page_shows_a_live_report(site, chromium):
    tab = chromium.new_page(viewport=WIDE)
    tab.goto((site / "index.html").as_uri())
    tab.locator("iframe.live").scroll_into_view_if_needed()  # where it loads
    frame = tab.frame_locator("iframe.live")
    frame.locator("html[data-ready]").wait_for(state="attached")
    assert frame.locator(".thumb").count() > 3
    tab.close()


def test_every_page_is_well(site, visit):
    pages = sorted(site.rglob("*.html"))
    found = {str(page.relative_to(site)): visit(page) for page in pages}
    assert len(found) > 100
    assert {page: wrong for page, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<div style="width: 500px">wide</div>', "sticks out by"),
        ("<script>throw new Error('planted')</script>", "planted"),
        ("<script>console.error('told')</script>", "told"),
        ('<img alt="none" src="none.png">', "none.png"),
        ('<script src="https://example.invalid/x.js"></script>', "example.invalid"),
    ],
)
def test_what_is_wrong_is_seen(visit, tmp_path, body, said):
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><meta name=viewport content='width=device-width'>{body}")
    assert any(said in wrong for wrong in visit(page))


def test_the_page_of_results_has_a_field_of_its_own(site, chromium):
    """On a phone the only field lay in a closed drawer, and the page was empty."""
    tab = chromium.new_page(viewport={"width": 390, "height": 844})
    tab.goto((site / "search.html").as_uri())
    field = tab.locator("article").get_by_role("searchbox")
    field.fill("Mamba")
    field.press("Enter")
    tab.locator("#search-results li").first.wait_for()
    assert field.input_value() == "Mamba"
    tab.close()


def test_pictures_can_be_read_on_a_narrow_page(site, chromium):
    """A row of four maps was 350 pixels wide, with labels of two pixels."""
    tab = chromium.new_page(viewport={"width": 390, "height": 844})
    tab.goto((site / "index.html").as_uri())
    front = tab.locator("article img").evaluate_all(
        "(all) => all.filter((each) => each.checkVisibility()).map((each) => each.currentSrc)"
    )
    assert len(front) == 2
    assert all("-narrow" in each for each in front)
    tab.goto((site / "concepts" / "maps.html").as_uri())
    seen = tab.locator(".broad").first
    seen.wait_for()
    sizes = seen.evaluate("(box) => [box.scrollWidth, box.clientWidth, box.tabIndex]")
    assert sizes[0] > 600
    assert sizes[1] < 390
    assert sizes[2] == 0
    assert _beyond(tab) <= 0
    tab.close()
