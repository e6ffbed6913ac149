"""The widget's own module in a real browser: the page around it stays as it was."""

import base64
import json

import pytest
import torch

import dsf
from dsf.report.content import embedded
from tests.report.drawn import HOSTILE, of_mixers

pytestmark = pytest.mark.slow
pytest.importorskip("anywidget", reason='needs pip install "dsf-toolkit[notebooks]"')

NOTEBOOK = """<!doctype html><html lang="en"><title>notebook</title>
<style>button { color: rgb(1, 2, 3); }</style>
<body data-jp-theme-light="THEME"><button>theirs</button><div id="cell"></div>
<script type="application/json" id="state">STATE</script>
<script type="module">
const { default: widget } = await import("data:text/javascript;base64,MODULE");
const content = JSON.parse(document.getElementById("state").textContent, (key, value) => (
  key === "codes" || key === "values"
    ? new DataView(Uint8Array.from(atob(value), (each) => each.charCodeAt(0)).buffer) : value));
const el = document.getElementById("cell");
window.leave = await widget.render({ model: { get: () => content }, el });
document.documentElement.dataset.ready = "true";
</script>"""


@pytest.fixture
def cell(visited, tmp_path):
    """Opens a page like a notebook's with the widget in it; what travels as bytes arrives so."""
    rng = torch.Generator().manual_seed(0)
    mixers = [
        dsf.mixers.DeltaNet.draw(rng, steps=9),
        dsf.mixers.SoftmaxAttention.draw(rng, steps=9),
    ]
    made = dsf.view(of_mixers(mixers, words=[*HOSTILE, "k01"]))
    module = base64.b64encode(made._esm.encode()).decode()
    page = NOTEBOOK.replace("STATE", embedded(made.content)).replace("MODULE", module)

    def visit(*, light):
        path = tmp_path / "notebook.html"
        path.write_text(page.replace("THEME", json.dumps(light)), encoding="utf-8")
        return visited(path)

    return visit


def test_the_widget_draws_in_a_shadow_and_follows_the_notebook(cell):
    page = cell(light=False)
    host = page.locator(".dsf")
    dark = host.evaluate(
        "(each) => getComputedStyle(each.shadowRoot.querySelector('.stage')).color"
    )
    assert dark == "rgb(232, 230, 225)"
    theirs = page.get_by_role("button", name="theirs")
    assert theirs.evaluate("each => getComputedStyle(each).color") == "rgb(1, 2, 3)"
    ours = host.get_by_role("button", name="State", exact=True)
    assert ours.evaluate("each => getComputedStyle(each).color") == dark
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    page.locator(".dsf[data-theme=light]").wait_for()


def test_the_widget_is_moved_by_keys_and_reads_the_map(cell):
    page = cell(light=True)
    page.locator(".lines .thumb").nth(0).click()
    canvas = page.locator(".canvases canvas").nth(1)
    for key in ("Home", *["ArrowUp"] * 9):
        canvas.press(key)
    told = page.locator(".readout").inner_text()
    visible = HOSTILE[0].replace(" ", "␣")
    assert told.startswith(f"Query “{visible}” (0), key")
    assert page.locator("img, iframe").count() == 0
