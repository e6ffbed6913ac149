"""The zero-sum experiment, tiny: its variants, its floors and its page."""

import json

import pytest
import torch

from dsf.evaluate import attention_map
from dsf.layers import ZeroSumAttention
from experiments.training.fit import Schedule
from papers.zero_sum.experiments.ablation import ablation, contrast, figures, run, tables, variants


def map_of(name):
    """The map of a variant, divided by the cosines of its queries and keys."""
    torch.manual_seed(0)
    model = variants.layer(name, width=8, n=4).double()
    x = torch.randn(1, 6, 8, dtype=torch.float64)
    mixer = model.change(model.layer.mixer(x))
    unit = torch.nn.functional.normalize
    cosines = unit(mixer.query, dim=-1) @ unit(mixer.key, dim=-1).mT
    return (attention_map(mixer.system()) / cosines)[0, 0], mixer.logit[0, 0]


def test_all_orders_at_one_are_softmax():
    map, logit = map_of("plain softmax weights")
    scores = logit.expand(6, 6).masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(map.tril(), scores.softmax(dim=-1))


def test_the_first_order_alone_is_affine_in_the_logits():
    map, logit = map_of("first order only")
    weights = map[-1]
    share = (weights - weights.mean()) @ (logit - logit.mean()) / (logit - logit.mean()).norm()
    torch.testing.assert_close(share.abs(), (weights - weights.mean()).norm())


@pytest.mark.parametrize("name", ["full", "first order only", "higher orders only", "no gates"])
def test_without_the_zero_order_rows_sum_to_zero(name):
    map, _ = map_of(name)
    assert map.tril().sum(dim=-1).abs().max() < 1e-12


def test_the_full_variant_is_the_layer():
    torch.manual_seed(0)
    model = variants.layer("full", width=8, n=4)
    x = torch.randn(2, 5, 8)
    assert isinstance(model.layer, ZeroSumAttention)
    torch.testing.assert_close(model(x), model.layer(x))
    bare = variants.Reordered(model.layer, model.change, normalised=False)
    assert not torch.allclose(bare(x), model(x))


def test_the_floor_is_what_a_search_over_weights_finds():
    tokens = contrast.draw(torch.Generator().manual_seed(0), 50)
    target = contrast.contrasted(tokens, torch.tensor([2.0, -1.0]))
    share = torch.linspace(0, 1, 2001)[:, None, None]
    errors = (share * tokens[:, 0] + (1 - share) * tokens[:, 1] - target).square().sum(dim=-1)
    searched = float(errors.amin(dim=0).sum() / target.square().sum())
    found = contrast.floors(tokens, target)
    assert found["convex"] == pytest.approx(searched, rel=1e-4)
    assert found["sum one"] == pytest.approx(0, abs=1e-12)
    assert 0.01 < found["sum zero"] < found["convex"]


def test_zero_sum_weights_set_by_hand_pass_the_floor_that_softmax_keeps():
    """Gates 0.9 and 0.1, and a gap of 4.75427 between the logits of the two places."""
    head = contrast.HEADS["zero-sum"]()
    gates = torch.tensor([0.9, 0.1, 0.5]).logit()
    with torch.no_grad():
        for linear, bias in ((head.parts[0].logit, torch.zeros(1)), (head.parts[0].orders, gates)):
            linear.weight.zero_()
            linear.bias.copy_(bias)
        head.parts[0].logit.weight[0, -2] = 4.75427
    tokens = contrast.draw(torch.Generator().manual_seed(0), 50)
    target = contrast.contrasted(tokens, torch.tensor([1.0, -1.0]))
    floor = contrast.floors(tokens, target)
    with torch.inference_mode():
        untrained = contrast.HEADS["softmax"]()(tokens)
        assert contrast.relative_error(head(tokens), target) < 1e-10
    assert contrast.relative_error(untrained, target) >= floor["convex"]


CURVES = {
    "dilution": {"tokens": [16], "uniform_share": [0.5], "limit": 0.37},
    "largest_weight": {"tokens": [16], "t_max_w": [1.2], "limit": 1.54},
    "orders": {"scales": [0.1], "second": [1e-3], "third": [1e-4], "slopes": [2.0, 3.0]},
    "growth": {"scales": [1.0], "norms": {"softmax": [0.5]}},
}


def test_a_page_is_written_from_runs(tmp_path, monkeypatch):
    """Two steps of training are enough for every number that the page shows."""
    for name in ("TRAINED", "CHECKED", "TESTED"):
        monkeypatch.setattr(ablation, name, (64, 0))
    schedule = Schedule(rate=1e-3, steps=2, warm_up=1, check_every=1)
    trained = ablation.run(ablation.Setting("full", 0), schedule)
    assert trained["steps"] == [1, 2]
    contrasts = [
        contrast.run(contrast.Setting("softmax", target, 0), steps=1) for target in contrast.TARGETS
    ]
    results = {"contrast": contrasts, "ablation": [trained], "curves": CURVES}
    page = tmp_path / "README.md"
    names = tables.written(results)
    page.write_text("\n".join(f"<!-- {name} -->\nold\n<!-- end -->" for name in names))
    for _ in range(2):
        tables.fill(page, results)
    assert "old" not in page.read_text()
    assert page.read_text().count("| 16 | 0.50 | 1.20 |") == 1
    figures.draw(results, tmp_path)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_page_without_a_mark_is_refused(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="<!-- contrast -->"):
        tables.fill(page, {"contrast": [], "ablation": [], "curves": CURVES})


def test_the_page_holds_the_tables_of_the_results():
    results = json.loads((run.FOLDER / "results.json").read_text(encoding="utf-8"))
    page = (run.FOLDER / "README.md").read_text(encoding="utf-8")
    for lines in tables.written(results).values():
        assert "\n".join(lines) in page
