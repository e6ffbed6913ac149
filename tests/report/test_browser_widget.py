"""The widget's own module in a real browser: the page around it stays as it was."""

import base64
import json
from dataclasses import replace

import pytest
import torch

import dsf
from dsf.models import folder, recall
from dsf.report.content import embedded
from tests.report.drawn import HOSTILE, of_mixers

pytestmark = pytest.mark.slow
pytest.importorskip("anywidget", reason='needs pip install "dsf-toolkit[notebooks]"')

NOTEBOOK = """<!doctype html><html lang="en"><title>notebook</title>
<style>button { color: rgb(1, 2, 3); } [data-jp-theme-light="false"] { background: #111; }</style>
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
def drawn():
    """A widget of two layers."""
    rng = torch.Generator().manual_seed(0)
    mixers = [
        dsf.mixers.DeltaNet.draw(rng, steps=9),
        dsf.mixers.SoftmaxAttention.draw(rng, steps=9),
    ]
    return dsf.show(of_mixers(mixers, words=[*HOSTILE, "k01"]))


@pytest.fixture
def cell(visited, tmp_path, drawn):
    """Opens a page like a notebook's with a widget in it; what travels as bytes arrives so."""

    def visit(*, light, made=drawn):
        module = base64.b64encode(made._esm.encode()).decode()
        page = NOTEBOOK.replace("STATE", embedded(made.content)).replace("MODULE", module)
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


@pytest.mark.parametrize("light", [True, False])
def test_the_widget_shows_shares_paths_and_the_changed_run(cell, light):
    pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tokens = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens
    words, layer = recall.spell(tokens[0]), "model.layers.1.self_attn"
    stack = dsf.stack(folder("llama"), input_ids=tokens)
    share = stack.attribute(7)
    cut = dsf.intervene(folder("llama"), input_ids=tokens, edits=[dsf.edits.Cut(layer, query=[31])])
    page = cell(
        light=light,
        made=dsf.show(
            replace(stack.inspection, tokens=(tuple(words),)),
            layers=[layer],
            attribution=share,
            target="the logit of k07",
            paths=share.paths(2),
            intervention=cut,
        ),
    )
    page.get_by_role("button", name="Shares", exact=True).click()
    shaded = page.locator(".state .strip span").evaluate_all("(all) => all.map((e) => e.title)")
    seen = [float(title.rsplit(": ", 1)[1].replace("−", "-")) for title in shaded]
    assert seen == pytest.approx(share.tokens[0].tolist(), rel=1e-3, abs=1e-6)
    assert page.locator(".paths path").count() == 2
    page.get_by_role("button", name="Edits", exact=True).click()
    for name, logits in (("Clean", cut.clean), ("Changed", cut.output)):
        page.get_by_role("button", name=name, exact=True).click()
        largest = page.locator(".state tbody tr").first.locator("td").nth(1).inner_text()
        assert float(largest.replace("−", "-")) == pytest.approx(
            logits[0, -1].max().item(), rel=1e-3
        )
    found = axe.Axe().run(page, options={"rules": PAGE_RULES}).response["violations"]
    assert found == []


PAGE_RULES = {
    name: {"enabled": False} for name in ("landmark-one-main", "page-has-heading-one", "region")
}
"""What a page around a widget has to have, and the one of this test has not."""
