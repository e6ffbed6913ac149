"""The overview of all maps: captions keep their line, arrow keys follow what is seen."""

import pytest
import torch

import dsf
from dsf.report import show
from tests.report.drawn import of_mixers

pytestmark = pytest.mark.slow

FOCUSED = "document.activeElement.ariaLabel"


def heads(*batch, steps=16):
    rng = torch.Generator().manual_seed(0)
    nothing = torch.zeros(1, *batch, steps, 1)
    return dsf.mixers.SoftmaxAttention(
        query=nothing,
        key=nothing,
        value=torch.ones(1, *batch, steps, 2),
        bias=2 * torch.randn(1, *batch, steps, steps, generator=rng),
    )


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    """Two layers of attention in windows, as Swin has it."""
    found = of_mixers([heads(16, 3), heads(4, 6)], axes=("sample", "window", "head"))
    return show(found, tmp_path_factory.mktemp("page") / "r.html")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Two layers of 32 heads, which take four rows of eight each where there is room."""
    found = of_mixers([heads(32), heads(32)], axes=("sample", "head"))
    return show(found, tmp_path_factory.mktemp("page") / "r.html")


def test_no_layer_is_named_twice_before_every_layer_is_named_once(visited, tmp_path):
    near = dsf.mixers.SoftmaxAttention(
        query=torch.zeros(1, 4, 16, 1),
        key=torch.zeros(1, 4, 16, 1),
        value=torch.ones(1, 4, 16, 2),
        bias=(20 * torch.eye(16)).expand(1, 4, 16, 16),
    )
    page = visited(show(of_mixers([heads(32), near], axes=("sample", "head")), tmp_path / "r.html"))
    named = [text.partition(" head")[0] for text in page.locator(".first button").all_inner_texts()]
    assert named == ["layer 0", "layer 1", "layer 0", "layer 1", "layer 0"]


def test_maps_that_read_elsewhere_are_named_first(visited, many):
    """By the squares of weights away from the token, the one before it and the first key."""
    away = torch.ones(16, 16, dtype=torch.bool).tril(-2)
    away[:, 0] = False
    weights = dsf.attention_map(heads(32).system())[0]
    scaled = weights / weights.amax(dim=(1, 2), keepdim=True)
    order = (scaled * away).square().sum(dim=(1, 2)).argsort(descending=True)[:2].tolist()
    page = visited(many, viewport={"width": 1440, "height": 900})
    links = page.locator(".first button")
    assert links.count() == 5
    # Both layers have the same weights, so that every head is there twice.
    expected = [f"layer {layer} head {head}" for head in order for layer in (0, 1)]
    assert links.all_inner_texts()[:4] == expected
    links.nth(3).click()
    opened = page.locator(f".thumb[aria-pressed=true][aria-label$='head {order[1]}']")
    opened.first.wait_for()  # which is marked once its map is unpacked


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_the_caption_of_a_window_keeps_its_line(visited, windows, width):
    page = visited(windows, viewport={"width": width, "height": 900})
    captions = page.locator(".lines .thumb span")
    assert captions.nth(4).inner_text() == "1, 1"
    assert (
        page.locator(".lines .thumb")
        .nth(4)
        .get_attribute("aria-label")
        .endswith("window 1, head 1")
    )
    assert "window, head" in page.locator(".overview").inner_text()
    assert max(captions.evaluate_all("(all) => all.map((each) => each.offsetHeight)")) < 20


def test_arrow_keys_reach_every_row_of_thumbnails(visited, many):
    page = visited(many, viewport={"width": 1440, "height": 900})
    page.locator(".lines .thumb").nth(2).focus()
    seen = []
    for key in [*["ArrowDown"] * 4, "ArrowUp", "ArrowUp"]:
        page.keyboard.press(key)
        seen.append(page.evaluate(FOCUSED).removeprefix("model.layers."))
    down = ["0.mixer, head 10", "0.mixer, head 18", "0.mixer, head 26", "1.mixer, head 2"]
    assert seen == [*down, "0.mixer, head 26", "0.mixer, head 18"]


@pytest.mark.parametrize("width", [1440, 1024])
def test_numbers_stand_beside_a_map_that_leaves_room(visited, many, width):
    page = visited(many, viewport={"width": width, "height": 900})
    stage = page.locator(".stage").bounding_box()
    map = page.locator(".canvases canvas").first.bounding_box()
    numbers = page.locator(".more").bounding_box()
    assert numbers["y"] < map["y"]
    assert map["width"] + numbers["width"] > 0.93 * stage["width"]


def test_a_high_window_gives_the_whole_width_to_the_map(visited, many):
    page = visited(many, viewport={"width": 1024, "height": 1366})
    assert page.locator(".canvases canvas").first.bounding_box()["width"] > 900
