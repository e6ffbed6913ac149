"""What the states of layers hold: layers whose answer is known, and every recurrent family."""

import json
import math

import matplotlib
import pytest
import torch

import dsf
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.mixers import DeltaNet, ScalarGatedAttention, SoftmaxAttention
from tests.inspection.families import tiny_models

STEPS = 64


def inspection_of(*mixers):
    layers = [
        InspectedLayer(f"layers.{k}", "drawn", mixer, ("sample", "head"), error=0.0, tolerance=1.0)
        for k, mixer in enumerate(mixers)
    ]
    return Inspection(layers=tuple(layers), model="drawn")


def memory(key, decay, value=1.0):
    """One head that writes ``key`` at every token."""
    return ScalarGatedAttention(
        query=torch.ones_like(key)[None, None],
        key=key[None, None],
        value=torch.full((1, 1, len(key), 1), value, dtype=key.dtype),
        log_decay=torch.full((1, 1, len(key)), math.log(decay), dtype=key.dtype),
    )


def state_of(mixer):
    (layer,) = dsf.report.report_state(inspection_of(mixer)).layers
    return layer


ONE = torch.ones(STEPS, 1, dtype=torch.float64)


def test_a_sum_in_one_state_is_full_and_grows_as_fast_as_it_can():
    layer = state_of(memory(ONE, 1.0))
    assert (layer.loss, layer.length) == ("full", "grows")
    assert layer.growth == pytest.approx(1)
    assert layer.norms == pytest.approx(range(1, STEPS + 1))
    kept, decayed, overwritten, taken = layer.shares
    assert overwritten == 0
    assert (kept, taken) == pytest.approx((1 / STEPS, 1 - 1 / STEPS), abs=1e-3)
    assert decayed < 1e-3
    assert layer.left == ((1.0, 1.0, 1.0),) * 6


def test_a_fast_decay_is_a_plateau_that_forgets():
    layer = state_of(memory(ONE, 0.01))
    assert (layer.loss, layer.length) == ("decays", "plateau")
    assert layer.kept[0] > 0.9
    assert layer.decayed[10] > 0.99
    assert layer.left[0][0] == pytest.approx(0.01)
    assert layer.norms[-1] == pytest.approx(1 / 0.99)


def test_a_delta_rule_without_decay_is_overwritten():
    rng = torch.Generator().manual_seed(0)
    which = torch.randint(0, 4, (STEPS,), generator=rng)
    key = torch.eye(16, dtype=torch.float64)[:4][which][None, None]
    value = torch.randn(1, 1, STEPS, 4, generator=rng, dtype=torch.float64)
    rate = torch.ones(1, 1, STEPS, dtype=torch.float64)
    layer = state_of(DeltaNet(query=key, key=key, value=value, rate=rate))
    assert layer.loss == "overwrites"
    assert layer.shares == pytest.approx((4 / STEPS, 0, 60 / STEPS, 0), abs=1e-3)
    assert sum(layer.erased_by_overwriting) == pytest.approx(1)
    assert not any(layer.erased_by_decay)


def test_a_place_for_every_token_loses_little():
    layer = state_of(memory(torch.eye(STEPS, dtype=torch.float64), 1.0))
    assert layer.loss == "little"
    assert layer.growth == pytest.approx(0.5)
    assert layer.shares[0] > 0.99


def test_a_state_that_leaves_its_range_overflows():
    loud = memory(ONE, 1.0, value=2e3)
    assert state_of(loud).length == "overflow"


def test_a_state_that_shrinks_fades():
    key = ONE * 0.97 ** torch.arange(STEPS)[:, None]
    assert state_of(memory(key, 0.97)).length == "fades"


def test_shares_of_every_age_sum_to_one():
    layer = state_of(ScalarGatedAttention.draw(torch.Generator().manual_seed(0), steps=40))
    for parts in zip(layer.kept, layer.decayed, layer.overwritten, layer.taken, strict=True):
        assert sum(parts) == pytest.approx(1)
        assert min(parts) >= -1e-12


def test_attention_has_no_state_of_fixed_size():
    rng = torch.Generator().manual_seed(0)
    softmax = SoftmaxAttention.draw(rng, steps=9)
    report = dsf.report.report_state(inspection_of(softmax, memory(ONE, 0.5)))
    assert [layer.name for layer in report.layers] == ["layers.1"]
    ((name, reason),) = report.without
    assert name == "layers.0"
    assert "keeps every token" in reason


def test_a_report_is_saved_and_has_a_form_for_files(tmp_path):
    report = dsf.report.report_state(inspection_of(memory(ONE, 1.0), memory(ONE, 0.5)), maps=1)
    assert repr(report) == "StateReport(drawn: 2 layers with a state, 1 of them full)"
    written = report.save(tmp_path)
    assert [path.name for path in written] == ["state-00.png", "state-01.png"]
    assert all(path.stat().st_size > 5000 for path in written)
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert record["layers"][0]["loss"] == "full"
    assert record["layers"][0]["shares"]["kept"] == report.layers[0].shares[0]
    with pytest.raises(KeyError, match="'x'"):
        report.figure("x")


def test_the_figure_shows_the_numbers():
    matplotlib.use("agg")
    report = dsf.report.report_state(inspection_of(memory(ONE, 0.5)))
    write, tokens, used, norm, eraser = report.figure("layers.0").axes
    layer = report.layers[0]
    assert list(norm.lines[0].get_ydata()) == list(layer.norms)
    assert list(write.lines[0].get_ydata()) == [middle for middle, _, _ in layer.left]
    assert list(used.lines[0].get_ydata()) == list(layer.occupancy)
    assert len(tokens.collections) == 4
    assert norm.get_title().startswith("plateau")
    heights = [bar.get_height() for bar in eraser.patches]
    assert heights == pytest.approx([*layer.erased_by_decay, *layer.erased_by_overwriting])


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="'maps'"):
        dsf.report.report_state(inspection_of(memory(ONE, 1.0)), maps=0)


@pytest.mark.sampled(count=9)
@pytest.mark.parametrize("name", sorted(tiny_models.FAMILIES))
def test_every_recurrent_family_is_reported(name):
    tiny_models.skip_a_known_defect(name)
    try:
        inspection = dsf.inspect(tiny_models.build(name), checks="none", **tiny_models.inputs(9))
    except InspectionError as error:
        pytest.skip(f"not read: {error}")
    report = dsf.report.report_state(inspection, maps=2)
    assert len(report.layers) + len(report.without) >= len(inspection)
    assert report.layers
    for layer in report.layers:
        assert sum(layer.shares) == pytest.approx(1)
        assert all(math.isfinite(number) for number in layer.norms)
        assert all(0 <= share <= 1 + 1e-9 for share in layer.kept)
