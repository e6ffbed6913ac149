"""As the page opens the whole map lies in the window, and every control in one row or its menu."""

import pytest
import torch

import dsf
from dsf.report import show
from tests.report.conftest import SETTLED
from tests.report.controls import MAP
from tests.report.drawn import of_mixers

pytestmark = pytest.mark.slow

STEPS = 512
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1440, "height": 900}

ROWS = """(all) => {
    const middles = all.filter((each) => each.checkVisibility()).map((each) => {
        const { top, bottom } = each.getBoundingClientRect();
        return Math.round((top + bottom) / 2);
    });
    return new Set(middles).size; }"""


def attention(seed, heads=12):
    rng = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(1, heads, STEPS, 1)
    return dsf.mixers.SoftmaxAttention(
        query=nothing,
        key=nothing,
        value=torch.ones(1, heads, STEPS, 2),
        bias=torch.randn(1, heads, STEPS, STEPS, generator=rng),
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    words = [f" w{k % 50}" for k in range(STEPS)]
    found = of_mixers([attention(0), attention(1)], words=words, axes=("sample", "head"))
    page = tmp_path_factory.mktemp("page") / "r.html"
    return show(found, page, title="GPT-2 124M, 512 tokens")


@pytest.mark.sampled(count=4)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("width", "height", "least"),
    [(1440, 900, 640), (1920, 1080, 800), (1280, 800, 480), (1024, 900, 600), (390, 844, 240)],
)
def test_the_whole_map_is_in_the_window(visited, path, width, height, least, scheme):
    page = visited(path, viewport={"width": width, "height": height}, color_scheme=scheme)
    seen = page.locator(".canvases canvas").first.evaluate(MAP)
    assert seen["wide"] >= least
    assert seen["high"] == pytest.approx(seen["wide"], abs=2)
    assert seen["bottom"] <= height
    assert seen["right"] <= width
    assert page.evaluate("scrollY") == 0
    assert page.locator(".bar > *").evaluate_all(ROWS) == 1
    numbers = page.locator(".more .numbers")
    assert numbers.evaluate("(each) => each.scrollWidth - each.clientWidth") == 0


@pytest.mark.parametrize(("width", "height", "beside"), [(1440, 900, False), (1920, 1080, True)])
def test_thumbnails_get_what_the_map_leaves_free(visited, tmp_path, width, height, beside):
    """SmolLM2's nine heads left 150 pixels beside the map empty."""
    found = of_mixers([attention(0, heads=9)], axes=("sample", "head"))
    page = visited(show(found, tmp_path / "r.html"), viewport={"width": width, "height": height})
    canvas = page.locator(".canvases canvas").first
    assert canvas.evaluate(MAP)["wide"] >= (640 if height == 900 else 800)
    free = page.locator(".canvases").evaluate(
        "(box) => box.clientWidth - box.querySelector('canvas').clientWidth"
    )
    assert free <= 40
    assert page.locator(".thumb").first.bounding_box()["width"] >= 55
    numbers, panes = (page.locator(each).bounding_box() for each in (".more", ".panes"))
    assert (numbers["x"] > panes["x"] + panes["width"]) == beside
    page.set_viewport_size({"width": 1280, "height": 900})
    for _ in range(60):
        page.evaluate(SETTLED)
    assert page.locator(".thumb").first.bounding_box()["width"] < 50


def test_the_map_follows_the_height_of_the_window(visited, path):
    page = visited(path, viewport=DESK)
    canvas = page.locator(".canvases canvas").first
    before = canvas.evaluate(MAP)["wide"]
    page.set_viewport_size({**DESK, "height": 800})
    for _ in range(60):
        if canvas.evaluate(MAP)["wide"] < before:
            break
        page.evaluate(SETTLED)
    assert canvas.evaluate(MAP)["wide"] == before - 100


@pytest.mark.parametrize("viewport", [PHONE, DESK])
def test_controls_without_room_are_in_a_menu_that_keys_reach(visited, path, viewport):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visited(path, viewport=viewport)
    scale = page.get_by_label("Colour scale")
    assert scale.is_hidden()
    menu = page.locator(".menu summary")
    menu.focus()
    page.keyboard.press("Enter")
    assert scale.is_visible()
    assert axe.Axe().run(page).response["violations"] == []
    sheet = page.locator(".sheet").bounding_box()
    assert sheet["x"] >= 0
    assert sheet["x"] + sheet["width"] <= viewport["width"]
    for _ in range(10):
        page.keyboard.press("Tab")
        assert page.locator(".menu[open]").count() == 1
        if scale.evaluate("(each) => each === document.activeElement"):
            break
    page.keyboard.press("ArrowDown")
    page.locator(".legend", has_text="linear").wait_for()
    page.keyboard.press("Escape")
    assert scale.is_hidden()
    assert menu.evaluate("(each) => each === document.activeElement")


def test_nothing_vanishes_on_a_phone(visited, path):
    """Every control of a wide window is seen in a narrow one, once the menu is open."""
    names = """(all) => all.filter((each) => each.checkVisibility()).map((each) =>
        each.ariaLabel || each.labels?.[0]?.textContent || each.textContent).sort()"""
    controls = ".stage button, .stage input, .stage select"
    wide = visited(path, viewport={"width": 1920, "height": 1080})
    assert wide.locator(".menu").is_hidden()
    phone = visited(path, viewport=PHONE)
    phone.locator(".menu summary").click()
    seen = [page.locator(controls).evaluate_all(names) for page in (wide, phone)]
    assert seen[0] == seen[1]
    assert len(seen[0]) > 12


def test_the_key_of_the_search_opens_the_menu_in_which_it_waits(visited, path):
    page = visited(path, viewport=PHONE)
    field = page.get_by_label("Find a token by its text or position")
    assert field.is_hidden()
    page.locator(".pane canvas").nth(1).focus()
    page.keyboard.press("/")
    page.keyboard.type("w17")
    page.keyboard.press("Enter")
    assert page.locator(".search .count").inner_text() == "1 of 10"
    page.keyboard.press("Escape")
    assert field.is_hidden()
    assert page.locator(".pane canvas").nth(1).evaluate("(e) => e === document.activeElement")


def test_no_button_moves_when_another_view_is_chosen(visited, path):
    page = visited(path, viewport=DESK)
    names = ("Map", "State")
    buttons = [page.get_by_role("button", name=name, exact=True) for name in names]
    before = [button.bounding_box() for button in buttons]
    buttons[-1].click()
    assert page.get_by_role("button", name="Zoom out").is_hidden()
    assert [button.bounding_box() for button in buttons] == before


def test_the_map_keeps_its_place_while_the_sentence_above_it_changes(visited, path):
    page = visited(path, viewport={"width": 1280, "height": 800})
    canvas = page.locator(".pane canvas").nth(1)
    canvas.focus()
    tops = set()
    for key in ("Home", "End", *["ArrowUp"] * 3, "+", "0"):
        page.keyboard.press(key)
        tops.add(tuple(canvas.bounding_box()[name] for name in ("y", "height")))
    assert len(tops) == 1
