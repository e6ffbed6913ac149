"""Keys and clicks that come before the map they concern is there are errors of nobody."""

import pytest

pytestmark = pytest.mark.slow

HASTE = """(acts) => {
    const over = document.querySelector(".pane canvas[role='application']");
    for (const act of acts) {
        const named = document.querySelector(`.stage [title='${act}']`);
        if (named) named.click();
        else over.dispatchEvent(new KeyboardEvent("keydown", { key: act, bubbles: true }));
    } }"""
"""All in one go: nothing that is awaited has come when the next one is there."""
NAMED = """(count) => [...document.querySelectorAll(".pane h2")]
    .filter((each) => each.textContent).length === count"""


@pytest.fixture
def hasty(opened):
    """Does things in one go, and returns the page once the last of them is to be seen."""

    def act(*acts, headings):
        page = opened()
        page.evaluate(HASTE, acts)
        page.wait_for_function(NAMED, arg=headings)
        page.wait_for_timeout(200)
        return page

    return act


def headings(page):
    return page.locator(".pane h2").all_inner_texts()


def test_a_difference_of_a_map_that_is_still_opening(hasty):
    page = hasty("c", "d", headings=2)
    assert "minus" in headings(page)[1]
    assert page.locator("[title^='Show A minus B']").get_attribute("aria-pressed") == "true"


def test_a_difference_taken_back_at_once(hasty):
    page = hasty("c", "d", "d", headings=2)
    assert "minus" not in headings(page)[1]


def test_a_comparison_closed_before_it_opened_leaves_the_map(hasty, opened):
    (before,) = headings(opened())
    assert headings(hasty("c", "c", headings=1)) == [before]


@pytest.mark.sampled(count=2)
@pytest.mark.parametrize("act", ["v", "Zoom in", "Whole map", "t", "/", "n"])
def test_what_concerns_the_shown_map_waits_for_no_other(hasty, act):
    hasty("c", act, headings=2)
