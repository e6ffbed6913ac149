"""The page of an attribution: its shares, edges and paths, all of them text and no markup."""

import json
import re

import numpy as np
import pytest
import torch

import dsf
from dsf.models import folder, recall
from dsf.report import show
from dsf.report.content import embedded
from tests.report.drawn import HOSTILE

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

LAYER = "model.layers.1.self_attn"
CUTS = {token: (-1) ** (token // 2) * token / 7 for token in range(2, 32, 2)}


class Explained:
    """The embedded model on one prompt, its shares, and its page."""

    def __init__(self, place):
        drawn = recall.draw(torch.Generator().manual_seed(0), samples=1)
        asked = (drawn.targets[0] != recall.SILENT).nonzero()[-1].item()
        words = [*HOSTILE, *recall.spell(drawn.tokens[0])[len(HOSTILE) :]]
        model = folder("llama")
        self.inspection = dsf.inspect(model, input_ids=drawn.tokens, tokens=[words], checks="none")
        stack = dsf.stack(model, input_ids=drawn.tokens)
        self.share = stack.attribute(drawn.targets[0, asked].item(), position=asked)
        self.paths = self.share.paths(3)
        self.shown = {
            "attribution": self.share,
            "target": HOSTILE[0],
            "paths": self.paths,
            "cuts": CUTS,
            "intervention": self.edited(model, drawn.tokens),
        }
        self.path = show(self.inspection, place / "r.html", **self.shown)

    def edited(self, model, ids):
        cut = dsf.edits.Cut(LAYER, heads=[0])
        self.intervention = dsf.intervene(model, input_ids=ids, edits=[cut])
        return self.intervention


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Explained(tmp_path_factory.mktemp("page"))


def test_the_page_holds_the_shares(made, reading):
    data = reading.content(made.path.read_text(encoding="utf-8"))
    told = data["attribution"]
    assert sum(told["tokens"][0]) + told["remainder"][0] == pytest.approx(told["value"][0])
    assert told["value"] == made.share.value.tolist()
    assert told["paths"]["paths"][0]["share"] == made.paths[0].share
    total = {name: whole[0] for name, _, whole in told["layers"]}
    assert total[LAYER] == pytest.approx(made.share.total[LAYER].item())
    strongest = made.share.strongest_edges(1).to_json()[0]
    assert told["edges"][0][0] == [strongest[name] for name in ("layer", "query", "key", "share")]


def test_the_edges_of_a_layer_are_its_first_picture(made, reading):
    layers = reading.content(made.path.read_text(encoding="utf-8"))["layers"]
    layer = next(each for each in layers if each["name"] == LAYER)
    map, sums = layer["maps"][0], made.share.edge_sums(LAYER)[0].numpy()
    assert map["label"] == "edges"
    size = (map["view"]["rows"], map["view"]["columns"])
    values = reading.unpacked(map["view"]["values"], np.float32, size)
    np.testing.assert_allclose(values, sums, rtol=1e-6)
    assert map["signed"]
    assert [each["label"] for each in layer["maps"][1:]] == ["head 0", "head 1"]


def test_an_attribution_of_other_tokens_is_refused(made, tmp_path):
    short = dsf.inspect(folder("llama"), input_ids=torch.arange(5)[None], checks="none")
    with pytest.raises(ValueError, match="'attribution'"):
        show(short, tmp_path / "r.html", attribution=made.share)
    with pytest.raises(ValueError, match="'result'"):
        show([made.inspection], tmp_path / "r.html", attribution=made.share)
    with pytest.raises(TypeError, match="attribution"):
        show(made.inspection, tmp_path / "r.html", attribution=made.share.tokens)
    assert not list(tmp_path.iterdir())


def test_an_intervention_on_other_tokens_is_refused(made, tmp_path):
    ids = torch.arange(5)[None]
    short = dsf.intervene(folder("llama"), input_ids=ids, edits=[])
    with pytest.raises(ValueError, match="'intervention'"):
        show(made.inspection, tmp_path / "r.html", intervention=short)
    with pytest.raises(TypeError, match="intervention"):
        show(made.inspection, tmp_path / "r.html", intervention=short.output)
    assert not list(tmp_path.iterdir())


def test_of_chosen_layers_the_edges_are_shown_and_all_shares(made, tmp_path, reading):
    path = show(made.inspection, tmp_path / "r.html", layers=[LAYER], **made.shown)
    data = reading.content(path.read_text(encoding="utf-8"))
    assert [layer["name"] for layer in data["layers"]] == [LAYER]
    whole = reading.content(made.path.read_text(encoding="utf-8"))
    assert data["layers"][0]["maps"][0]["links"] == whole["layers"][1]["maps"][0]["links"]
    assert data["attribution"] == whole["attribution"]


def test_a_notebook_shows_what_the_page_does(made, reading):
    pytest.importorskip("anywidget", reason='needs pip install "dsf-toolkit[notebooks]"')
    view = dsf.show(made.inspection, **made.shown)
    page = reading.content(made.path.read_text(encoding="utf-8"))
    assert json.loads(embedded(view.content)) == page
    with pytest.raises(ValueError, match="'result'"):
        dsf.show([made.inspection], attribution=made.share)
    with pytest.raises(TypeError, match="intervention"):
        dsf.show(made.inspection, intervention=made.share)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_shares_are_seen_by_keys_alone_and_open_the_edges(made, visited, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visited(made.path, color_scheme=scheme, viewport={"width": 390, "height": 844})
    page.locator(".shares").wait_for()  # it opens on them
    found = axe.Axe().run(page).response["violations"]
    serious = [each["id"] for each in found if each["impact"] in ("serious", "critical")]
    assert serious == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("img, iframe").count() == 0
    assert HOSTILE[0] in page.locator(".state .summary").inner_text()
    assert page.locator(".paths path").count() == 3
    rows = page.locator("table:has(caption:text('Tokens with')) tbody tr").all()
    for row in rows:
        token, _, cut = row.locator("td").all_inner_texts()
        wanted = CUTS.get(int(re.findall(r"\((\d+)\)$|^token (\d+)$", token)[0][0]))
        shown = float(cut.replace("−", "-")) if cut else None
        assert shown == (None if wanted is None else pytest.approx(wanted, rel=1e-3))
    strongest = page.locator(".state .link").first
    assert float(strongest.inner_text()) == pytest.approx(
        made.share.strongest_edges(1).to_json()[0]["share"], rel=1e-3
    )
    strongest.focus()
    page.keyboard.press("Enter")
    page.locator(".pane h2", has_text="· edges").wait_for()
    readout = page.locator(".readout")
    assert float(readout.locator("b").last.inner_text()) == pytest.approx(
        made.share.strongest_edges(1).to_json()[0]["share"], rel=1e-5
    )


def test_the_page_is_the_same_without_an_attribution(made, tmp_path, reading):
    path = show(made.inspection, tmp_path / "r.html")
    data = reading.content(path.read_text(encoding="utf-8"))
    assert data["attribution"] is None
    assert all("share" not in map for layer in data["layers"] for map in layer["maps"])


@pytest.mark.slow
def test_a_run_with_edits_is_switched_with_the_clean_one(made, visited):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visited(made.path)
    page.get_by_role("button", name="Edits", exact=True).click()
    assert "Cut" in page.locator(".state .summary").inner_text()
    for name, logits in (
        ("Changed", made.intervention.output),
        ("Clean", made.intervention.clean),
    ):
        page.get_by_role("button", name=name, exact=True).click()
        largest = page.locator(".state tbody tr").first.locator("td").nth(1).inner_text()
        told = float(largest.replace("−", "-"))
        assert told == pytest.approx(logits[0, -1].max().item(), rel=1e-3)
    moved = (made.intervention.output - made.intervention.clean)[0].abs().amax(-1).double()
    titles = page.locator(".state .strip span").evaluate_all("(all) => all.map((e) => e.title)")
    seen = [float(title.rsplit(": ", 1)[1]) for title in titles]
    assert seen == pytest.approx(moved.tolist(), rel=1e-2)
    found = axe.Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
    assert page.locator("img, iframe").count() == 0


def test_paths_are_shown_in_their_own_sample(tmp_path, visited):
    drawn = recall.draw(torch.Generator().manual_seed(0), samples=2)
    model = folder("llama")
    share = dsf.stack(model, input_ids=drawn.tokens).attribute(0)
    shown = dsf.inspect(model, input_ids=drawn.tokens, checks="none")
    found = share.paths(3, sample=-1)
    assert found.to_json()["sample"] == found.sample == 1
    agreed = share.agreement(edits=4)
    place = show(shown, tmp_path / "r.html", attribution=share, paths=found, agreement=agreed)
    page = visited(place)
    page.locator(".thumb[title$='sample 0, edges']").first.click()
    page.get_by_role("button", name="Shares", exact=True).click()
    page.locator(".state", has_text="They were searched for in sample 1.").wait_for()
    cuts = "Of 4 edges that were cut one by one, what was lost ranks with their shares at "
    shown_rank = page.locator(".state .summary").inner_text().replace("−", "-").split(cuts)[1]
    assert float(shown_rank.split(",")[0]) == pytest.approx(agreed.spearman("held"), abs=0.01)
    assert page.locator(".paths").count() == 0
    page.locator(".thumb[title$='sample 1, edges']").first.click()
    page.locator(".paths").wait_for()
    text = page.locator(".paths figcaption").inner_text()
    assert f"of {found.total:.3g}"[:6] in text.replace("−", "-")


def test_where_the_model_lies_is_not_in_the_page(made):
    assert str(folder("llama").parent) not in made.path.read_text(encoding="utf-8")
