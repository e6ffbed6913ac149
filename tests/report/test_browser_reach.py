"""What a reader tries first: zooming in, keys without a click, the overview on a small screen."""

from itertools import combinations

import pytest
import torch

from dsf.report import show
from tests.report.test_browser_labels import WATCH, lie_over_each_other

pytestmark = pytest.mark.slow


@pytest.fixture
def path(of, softmax, tmp_path, monkeypatch):
    """Two layers of 40 tokens, whose weights are stored in eight bits but for the largest."""
    monkeypatch.setattr("dsf.report.selection.EXACT_CELLS", 0)
    rng = torch.Generator().manual_seed(0)
    layers = [softmax(torch.randn(40, 40, generator=rng)) for _ in range(2)]
    return show(of(layers, words=[f"w{k}" for k in range(40)]), tmp_path / "r.html")


def test_numbers_of_cells_keep_off_the_labels(visited, path):
    page = visited(path)
    page.locator(".pane canvas").nth(1).focus()
    for _ in range(9):
        page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    written = page.evaluate(WATCH.replace('key: "0"', 'key: "+"'))
    assert {"← query", "key →"} <= {each["text"] for each in written}
    numbers = [each["text"] for each in written if "." in each["text"]]
    assert numbers
    assert any(text.startswith("≈") for text in numbers)  # stored in eight bits
    over = [pair for pair in combinations(written, 2) if lie_over_each_other(*pair)]
    assert [(one["text"], other["text"]) for one, other in over] == []


def test_keys_work_without_a_click_and_after_the_table(visited, path):
    page = visited(path)
    layers = [page.locator(".pane h2", has_text=f"layers.{at}.") for at in range(2)]
    there, back = (0, 1) if layers[0].count() else (1, 0)
    page.keyboard.press("v")
    assert page.get_by_role("button", name="State").get_attribute("aria-pressed") == "true"
    page.keyboard.press("np"[there])
    layers[back].wait_for()
    page.keyboard.press("t")
    page.keyboard.press("t")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    page.keyboard.press("np"[back])
    layers[there].wait_for()
    page.keyboard.press("/")
    page.keyboard.type("n")
    assert page.evaluate("document.activeElement.value") == "n"


@pytest.mark.parametrize("width", [1024, 390])
def test_the_overview_is_found_where_it_lies_below(visited, path, width):
    page = visited(path, viewport={"width": width, "height": 800}, reduced_motion="reduce")
    overview = page.locator(".overview")
    below = overview.bounding_box()["y"] > 800
    page.get_by_role("button", name="Show or hide the overview of all maps").click()
    if below:
        assert -1 < overview.bounding_box()["y"] < 400
        assert page.evaluate("document.activeElement.className") == "thumb"
    else:
        assert overview.is_hidden()


def test_models_of_other_inputs_are_not_compared_unasked(visited, of, softmax, tmp_path):
    both = [of([softmax(torch.zeros(n, n))], words=[f"w{k}" for k in range(n)]) for n in (5, 7)]
    page = visited(show(both, tmp_path / "r.html"))
    assert page.locator(".pane").count() == 1
    same = [of([softmax(torch.zeros(5, 5))], words=list("abcde")) for _ in range(2)]
    page = visited(show(same, tmp_path / "s.html"))
    assert page.locator(".pane").count() == 2


def test_the_map_that_opens_first_is_read_at_a_glance(visited, of, softmax, tmp_path):
    """Of a map whose queries spread over all keys and one whose queries read one, the latter."""
    one_key = torch.zeros(12, 12)
    one_key[torch.arange(4, 12), torch.arange(4, 12) - 3] = 20.0
    layers = [softmax(torch.zeros(12, 12)), softmax(one_key), softmax(torch.zeros(12, 12))]
    page = visited(show(of(layers), tmp_path / "r.html"))
    assert "layers.1." in page.locator(".pane h2").inner_text()
