"""The rollout over the layers of a page: its numbers, what it says, and where there is none."""

import numpy as np
import pytest
import torch

import dsf
from dsf.report import write_report
from tests.report.drawn import of_mixers

STEPS = 9
SOFT, SIGNED, CHANNELS = (
    getattr(dsf.mixers, name) for name in ("SoftmaxAttention", "DeltaNet", "SelectiveStateSpace")
)


def page_of(place, reading, mixers, **options):
    shown = of_mixers(mixers, **options)
    path = write_report(shown, place / "r.html")
    return path, reading.content(path.read_text(encoding="utf-8"))


def drawn(*kinds, steps=STEPS):
    rng = torch.Generator().manual_seed(0)
    return [kind.draw(rng, steps=steps) for kind in kinds]


def product(mixers):
    """With whole matrices, as the paper has it; magnitudes for signed maps."""
    found = np.eye(mixers[0].system().steps)
    for mixer in mixers:
        mean = dsf.attention_map(mixer.system()).abs().mean(dim=0).numpy()
        found = (mean / mean.sum(axis=1, keepdims=True) + np.eye(len(mean))) / 2 @ found
    return found


def test_its_numbers_are_the_product_of_the_maps(tmp_path, reading):
    mixers = drawn(SOFT, SIGNED, SOFT, SIGNED, SOFT)
    _, data = page_of(tmp_path, reading, mixers)
    (rollout,) = data["rollouts"]
    labels = [map["label"] for map in rollout["maps"]]
    counts = ["first 2 of", "first 3 of", "first 4 of", "all"]
    assert labels == [f"{count} 5 layers" for count in counts]
    for map, count in zip(rollout["maps"], (2, 3, 4, 5), strict=True):
        values = reading.unpacked(map["view"]["values"], np.float32, (STEPS, STEPS))
        np.testing.assert_allclose(values, product(mixers[:count]), rtol=1e-5, atol=1e-7)
        facts = {"layers": 5, "signed": 2, "chosen": False, "left_out": 0}
        assert map["rollout"] == facts


def test_pooled_it_sums_keys_and_averages_queries(tmp_path, reading):
    steps = 300
    mixers = drawn(SOFT, SOFT, steps=steps)
    _, data = page_of(tmp_path, reading, mixers)
    whole = product(mixers)
    map = data["rollouts"][0]["maps"][-1]
    side = map["view"]["rows"]
    assert side < steps
    starts = np.arange(side) * steps // side
    lengths = np.diff(np.append(starts, steps))[:, None]
    wanted = np.add.reduceat(np.add.reduceat(whole, starts, axis=1), starts, axis=0) / lengths
    values = reading.unpacked(map["view"]["values"], np.float32, (side, side))
    np.testing.assert_allclose(values, wanted, rtol=1e-4, atol=1e-7)
    assert map["row_sums"] == pytest.approx([1, 1], rel=1e-5)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ((CHANNELS, CHANNELS), "has a map for every channel"),
        ((CHANNELS,), None),
    ],
)
def test_where_there_is_none_the_page_says_why(tmp_path, reading, kinds, said):
    shown = of_mixers(drawn(*kinds), axes=("sample", "channel"))
    data = reading.content(write_report(shown, tmp_path / "r.html").read_text(encoding="utf-8"))
    reasons = [each["reason"] for each in data["rollouts"]]
    assert reasons == [] if said is None else said in reasons[0]


def test_a_weight_that_is_not_finite_ends_it(tmp_path, reading, softmax, of):
    broken = softmax(torch.zeros(4, 4))
    broken.bias[0, 2, 1] = torch.nan
    shown = of([softmax(torch.zeros(4, 4)), broken])
    data = reading.content(write_report(shown, tmp_path / "r.html").read_text(encoding="utf-8"))
    (rollout,) = data["rollouts"]
    assert rollout["reason"] == "a weight of model.layers.1.mixer is not finite"


@pytest.mark.slow
def test_the_page_shows_it_and_says_what_it_leaves_out(tmp_path, reading, visited):
    path, _ = page_of(
        tmp_path,
        reading,
        drawn(SOFT, SIGNED),
        words=[f" w{k}" for k in range(STEPS)],
        unsupported=[("odd", "Odd", "not known")],
    )
    page = visited(path)
    assert page.locator(".pane h2").inner_text().startswith("model.layers")
    page.locator(".rollout .thumb").last.click()
    page.locator(".pane h2", has_text="Rollout · ").wait_for()
    about = page.locator(".about").inner_text()
    for words in (
        "Values, output projections, norms and feed-forward layers are ignored.",
        "In 1 of the 2 layers some weights are negative. They count by their magnitude",
        "1 mixer that was not read is left out.",
        "stack(model, ...).rollout()",
    ):
        assert words in about
    page.locator(".pane canvas").nth(1).press("ArrowUp")
    assert "by rollout" in page.locator(".readout").inner_text()
    page.get_by_role("button", name="State").click()
    assert "Layers together have no state" in page.locator(".state").inner_text()
    page.get_by_role("button", name="Map", exact=True).click()
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="Show A minus B").click()
    page.locator(".pane h2", has_text="A − B: Rollout").wait_for()


def test_a_sink_does_not_hide_the_other_tokens(tmp_path, reading, softmax, of):
    """After 24 layers the first key has all but a millionth of most queries."""
    scores = torch.zeros(12, 12)
    scores[:, 0] = 9
    shown = of([softmax(scores) for _ in range(24)])
    data = reading.content(write_report(shown, tmp_path / "r.html").read_text(encoding="utf-8"))
    map = data["rollouts"][0]["maps"][-1]
    _, codes = reading.weights(map["view"], map["scale"])
    values = reading.unpacked(map["view"]["values"], np.float32, (12, 12))
    inner = [(row, column) for row in range(12) for column in range(1, row)]
    assert max(values[at] for at in inner) < 1e-3
    assert sum(abs(codes[at] - 129) > 60 for at in inner) > len(inner) / 2
    np.testing.assert_allclose(values[2:, 0], 1, atol=1e-3)
    assert map["links"][0][2] == pytest.approx(1)
