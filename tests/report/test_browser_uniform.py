"""A map whose weights hardly differ looks so."""

import pytest
import torch

import dsf
from dsf.report import show
from tests.report.controls import open_menu
from tests.report.drawn import of_mixers

pytestmark = pytest.mark.slow

STEPS = 48
COLOURS = """(canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [...Array(data.length / 4).keys()].map((k) => [...data.subarray(4 * k, 4 * k + 3)]); }"""
PALEST, FULL = 246, 24  # blue at weight zero and at the end of the warm colours


def head(spread):
    scores = spread * torch.randn(STEPS, STEPS, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, STEPS, 1)
    return dsf.mixers.SoftmaxAttention(
        query=nothing,
        key=nothing,
        value=torch.ones(1, STEPS, 2),
        bias=scores[None],
        causal=False,
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = of_mixers([head(0.0), head(0.01), head(3.0)])
    return show(found, tmp_path_factory.mktemp("page") / "r.html")


def blues(thumb):
    """How much blue the cells of a thumbnail have; less is stronger."""
    return [blue for _, _, blue in thumb.locator("canvas").evaluate(COLOURS)]


def test_a_uniform_map_is_of_one_middle_colour(visited, path):
    page = visited(path)
    thumbs = page.locator(".lines .thumb")
    for k in (0, 1):
        found = blues(thumbs.nth(k))
        assert max(found) - min(found) < 30
        assert min(found) > FULL + 40
        assert max(found) < PALEST - 40
    varied = blues(thumbs.nth(2))
    assert max(varied) - min(varied) > 150


def test_a_common_scale_stays_common(visited, path):
    """One head beside another of larger weights: equal weights have equal colours."""
    page = visited(path)
    page.get_by_role("button", name="Compare with another map").click()
    open_menu(page)
    page.get_by_label("same scale").check()
    ends = [each.inner_text().split("\n")[2] for each in page.locator(".legend .ramp").all()]
    assert ends[0].removeprefix("≥ ") == ends[1].removeprefix("≥ ")
