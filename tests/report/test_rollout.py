"""The rollout over the layers of a page: its numbers, what it says, and where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import dsf
from dsf.report import show
from dsf.report.content import Rollout
from dsf.runtime.threads import limited_to
from tests.report.drawn import of_mixers

STEPS = 9
SOFT, SIGNED, CHANNELS = (
    getattr(dsf.mixers, name) for name in ("SoftmaxAttention", "DeltaNet", "SelectiveStateSpace")
)


def page_of(place, reading, mixers, **options):
    shown = of_mixers(mixers, **options)
    path = show(shown, place / "r.html")
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
    (map,) = rollout["maps"]
    assert map["label"] == "all 5 layers"
    values = reading.unpacked(map["view"]["values"], np.float32, (STEPS, STEPS))
    np.testing.assert_allclose(values, product(mixers), rtol=1e-5, atol=1e-7)
    facts = {"layers": 5, "signed": 2, "lengths": 0, "chosen": False, "left_out": 0}
    assert map["rollout"] == facts


def test_layers_are_multiplied_on_one_thread_beside_those_that_form_maps(tmp_path, monkeypatch):
    threads, add = [], Rollout.add

    def noted(together, rows, *, signed):
        threads.append(torch.get_num_threads())
        add(together, rows, signed=signed)

    monkeypatch.setattr(Rollout, "add", noted)
    with limited_to(2):
        show(of_mixers(drawn(SOFT, SOFT, SOFT)), tmp_path / "r.html")
        assert torch.get_num_threads() == 2
    assert threads == [1, 1, 1]


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


def lengths(mixer):
    """The mean map of heads; of channels the length of what they put out together for one token."""
    map, signal = dsf.attention_map(mixer.system()), mixer.signal()
    if map.ndim == 3:
        return map.abs().mean(dim=0, keepdim=True).numpy()
    return torch.einsum("scij,scj->scij", map, signal[..., 0, 0]).norm(dim=1).numpy()


def of_lengths(mixers, sample):
    found = np.eye(STEPS)
    for mixer in mixers:
        each = lengths(mixer)[min(sample, len(lengths(mixer)) - 1)]
        found = (each / each.sum(axis=1, keepdims=True) + np.eye(STEPS)) / 2 @ found
    return found


def named(shown, axes):
    layers = [replace(each, axes=names) for each, names in zip(shown, axes, strict=True)]
    return replace(shown, layers=tuple(layers))


@pytest.mark.parametrize("heads", [None, (0, 2)])
def test_of_channels_the_lengths_of_contributions_are_multiplied(tmp_path, reading, heads):
    mixers = drawn(CHANNELS, CHANNELS, CHANNELS)
    shown = of_mixers(mixers, axes=("sample", "channel"))
    whole = shown.layers
    if heads is not None:
        chosen = tuple(replace(layer, heads=heads) for layer in whole)
        shown = replace(shown, layers=chosen)
    data = reading.content(show(shown, tmp_path / "r.html").read_text(encoding="utf-8"))
    (rollout,) = data["rollouts"]
    assert len(rollout["maps"]) == 2
    for sample, map in enumerate(rollout["maps"]):
        values = reading.unpacked(map["view"]["values"], np.float32, (STEPS, STEPS))
        if heads is None:
            wanted = of_lengths(mixers, sample)
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)
        chosen = heads is not None
        facts = {"layers": 3, "signed": 0, "lengths": 3, "chosen": chosen, "left_out": 0}
        assert map["rollout"] == facts


def test_of_a_hybrid_each_layer_counts_as_its_maps_do(tmp_path, reading):
    (channels,) = drawn(CHANNELS)
    of_samples = ("value", "step", "write", "read")
    one = replace(channels, **{name: getattr(channels, name)[:1] for name in of_samples})
    mixers = [*drawn(SIGNED), one, *drawn(SOFT)]
    axes = [("head",), ("sample", "channel"), ("head",)]
    shown = named(of_mixers(mixers), axes)
    data = reading.content(show(shown, tmp_path / "r.html").read_text(encoding="utf-8"))
    map = data["rollouts"][0]["maps"][-1]
    values = reading.unpacked(map["view"]["values"], np.float32, (STEPS, STEPS))
    np.testing.assert_allclose(values, of_lengths(mixers, 0), rtol=1e-5, atol=1e-7)
    assert (map["rollout"]["lengths"], map["rollout"]["signed"]) == (1, 1)


def test_one_layer_has_none(tmp_path, reading):
    _, data = page_of(tmp_path, reading, drawn(CHANNELS), axes=("sample", "channel"))
    assert data["rollouts"] == []


def test_groups_of_tokens_are_not_multiplied_and_the_page_says_why(tmp_path, reading, monkeypatch):
    monkeypatch.setattr("dsf.report.layer_picture.MOST_WORK", 0)
    mixers = drawn(CHANNELS, CHANNELS, steps=60)
    _, data = page_of(tmp_path, reading, mixers, axes=("sample", "channel"))
    assert data["rollouts"][0]["reason"] == (
        "the channels of model.layers.0.mixer are drawn together for 48 groups of its 60 tokens, "
        "and shares of groups do not multiply like those of tokens"
    )


def test_products_of_groups_would_lose_what_is_read_from_other_groups():
    """Why they are refused: tokens early in a group read most of the group before it."""
    decay = torch.full((1, 1, 64, 1), -0.1, dtype=torch.float64)
    one = torch.ones(1, 1, 64, 1, dtype=torch.float64)
    head = dsf.mixers.GatedLinearAttention(query=one, key=one, value=one, log_decay=decay)
    (layer,) = of_mixers([head], axes=("sample", "channel"))
    single, joined = np.eye(64), np.eye(16)
    for _ in range(8):
        each, groups = (layer.contribution_norms(groups=count)[0].numpy() for count in (64, 16))
        single = (each / each.sum(axis=1, keepdims=True) @ single + single) / 2
        joined = (groups / groups.sum(axis=1, keepdims=True) @ joined + joined) / 2
    summed = np.add.reduceat(single[3::4], np.arange(0, 64, 4), axis=1)
    own, shown = (np.diag(each)[4:].mean() for each in (summed, joined))
    assert shown > 1.2 * own


def test_a_weight_that_is_not_finite_ends_it(tmp_path, reading, softmax, of):
    broken = softmax(torch.zeros(4, 4))
    broken.bias[0, 2, 1] = torch.nan
    shown = of([softmax(torch.zeros(4, 4)), broken])
    data = reading.content(show(shown, tmp_path / "r.html").read_text(encoding="utf-8"))
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


def test_a_sink_does_not_hide_the_other_tokens(tmp_path, reading, softmax, of):
    """After 24 layers the first key has all but a millionth of most queries."""
    scores = torch.zeros(12, 12)
    scores[:, 0] = 9
    shown = of([softmax(scores) for _ in range(24)])
    data = reading.content(show(shown, tmp_path / "r.html").read_text(encoding="utf-8"))
    map = data["rollouts"][0]["maps"][-1]
    _, codes = reading.weights(map["view"], map["scale"])
    values = reading.unpacked(map["view"]["values"], np.float32, (12, 12))
    inner = [(row, column) for row in range(12) for column in range(1, row)]
    assert max(values[at] for at in inner) < 1e-3
    assert sum(abs(codes[at] - 129) > 60 for at in inner) > len(inner) / 2
    np.testing.assert_allclose(values[2:, 0], 1, atol=1e-3)
    assert map["links"][0][2] == pytest.approx(1)
