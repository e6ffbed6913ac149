"""What is written on a map: whole, in the picture, and nothing over anything else."""

from itertools import combinations

import pytest
import torch

import dsf
from dsf.report import show

pytestmark = pytest.mark.slow

WATCH = """() => {
    const kind = CanvasRenderingContext2D.prototype, write = kind.fillText;
    globalThis.written = [];
    kind.fillText = function (text, x, y) {
        const size = this.measureText(text), turned = this.getTransform();
        const corners = [-size.actualBoundingBoxLeft, size.actualBoundingBoxRight].flatMap((dx) =>
            [-size.actualBoundingBoxAscent, size.actualBoundingBoxDescent].map((dy) =>
                turned.transformPoint(new DOMPoint(x + dx, y + dy))));
        const across = corners.map((each) => each.x), down = corners.map((each) => each.y);
        globalThis.written.push({ text, left: Math.min(...across), right: Math.max(...across),
            top: Math.min(...down), bottom: Math.max(...down),
            width: this.canvas.width, height: this.canvas.height });
        return write.call(this, text, x, y);
    };
    document.querySelectorAll(".pane canvas")[1].dispatchEvent(
        new KeyboardEvent("keydown", { key: "0" }));
    return globalThis.written; }"""
"""Every text of the map, which is drawn again, with the box of its ink in pixels of the canvas."""


def lies_outside(each):
    least, most = min(each["left"], each["top"]), (each["width"], each["height"])
    return least < -0.5 or each["right"] > most[0] + 0.5 or each["bottom"] > most[1] + 0.5


def lie_over_each_other(one, other):
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return across > 1 and down > 1


def check_texts(page):
    """The axes have their names, and no text is cut or lies over another."""
    written = page.evaluate(WATCH)
    assert {"query", "key", "key →", "← query"} <= {each["text"] for each in written}
    assert [each["text"] for each in written if lies_outside(each)] == []
    over = [pair for pair in combinations(written, 2) if lie_over_each_other(*pair)]
    assert [(one["text"], other["text"]) for one, other in over] == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 3), (1, 200), (2, 30), (200, 1)])
def test_maps_of_few_queries_or_keys_have_room_for_their_positions(
    visited, of, tmp_path, rows, columns, width
):
    bias = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(0))
    mixer = dsf.mixers.SoftmaxAttention(
        query=torch.zeros(1, rows, 1), key=torch.zeros(1, columns, 1),
        value=torch.ones(1, columns, 2), bias=bias, causal=False,
    )  # fmt: skip
    path = show(of([mixer]), tmp_path / "r.html")
    page = visited(path, viewport={"width": width, "height": 800})
    check_texts(page)


@pytest.mark.sampled(count=2)
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(
    "words", [None, ["wide letter", *["e\u0301" * 8] * 6]], ids=["positions", "accents"]
)
def test_no_text_is_cut_or_lies_over_another(visited, of, softmax, tmp_path, words, width):
    """Positions are narrower than the word above them; accents are characters without a width."""
    scores = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    path = show(of([softmax(scores)], words=words), tmp_path / "r.html")
    page = visited(path, viewport={"width": width, "height": 800})
    check_texts(page)
