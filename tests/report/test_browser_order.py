"""Keys go through the maps in the order in which the page shows them, also of several samples."""

import pytest
import torch

import dsf
from dsf.report import show
from tests.report.drawn import of_mixers

pytestmark = pytest.mark.slow

TITLES = "(all) => all.map((each) => each.title)"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Two layers of channels: of every sample a picture of all of them, and single ones."""
    rng = torch.Generator().manual_seed(0)
    mixers = [dsf.mixers.SelectiveStateSpace.draw(rng, steps=6) for _ in range(2)]
    assert mixers[0].system().batch[0] == 2
    found = of_mixers(mixers, axes=("sample", "channel"))
    return show(found, tmp_path_factory.mktemp("page") / "r.html")


def focused(page):
    return page.evaluate("document.activeElement.title")


def test_arrows_go_through_samples_as_they_stand(visited, path):
    page = visited(path)
    shown = page.locator(".thumb").evaluate_all(TITLES)
    page.locator(".thumb").first.focus()
    passed = [focused(page)]
    for _ in shown[1:]:
        page.keyboard.press("ArrowRight")
        passed.append(focused(page))
    assert passed == shown


def test_down_is_the_next_line_of_thumbnails(visited, path):
    page = visited(path)
    shown = page.locator(".thumbs > .thumb:nth-child(2)").evaluate_all(TITLES)
    page.locator(".thumbs > .thumb:nth-child(2)").first.focus()
    passed = [focused(page)]
    for _ in shown[1:]:
        page.keyboard.press("ArrowDown")
        passed.append(focused(page))
    assert passed == shown
    assert len(shown) == 4


def test_the_next_map_is_the_one_that_stands_next(visited, path):
    page = visited(path)
    shown = page.locator(".thumb").evaluate_all(TITLES)
    page.locator(".thumb").first.click()
    for title in shown:
        page.locator(".pane h2", has_text=title).wait_for()
        page.locator(".canvases canvas:focus").press("n")


def test_a_map_is_compared_with_that_of_its_sample_in_the_next_layer(visited, path):
    page = visited(path)
    page.get_by_title("model.layers.0.mixer · sample 1, all").click()
    page.locator(".pane h2", has_text="sample 1, all").wait_for()
    page.get_by_role("button", name="Compare with another map").click()
    other = page.locator(".pane").nth(1).locator("h2")
    other.filter(has_text="model.layers.1.mixer · sample 1, all").wait_for()


def test_after_a_difference_comes_the_map_after_b(visited, path):
    page = visited(path)
    shown = page.locator(".thumb").evaluate_all(TITLES)
    page.locator(".thumb").nth(1).click()
    page.locator(".pane h2", has_text=shown[1]).wait_for()
    page.get_by_role("button", name="Compare with another map").click()
    second = page.locator(".pane").nth(1)
    second.locator("canvas:focus").wait_for()
    after = shown[shown.index(second.locator("h2").inner_text()) + 1]
    page.keyboard.press("d")
    page.locator(".pane h2", has_text="A − B: ").wait_for()
    second.locator("canvas").nth(1).press("n")
    second.locator("h2", has_text=after).wait_for()
