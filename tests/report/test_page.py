"""The page: complete, self-contained, safe whatever the tokens say, small at any length."""

import base64
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import dsf
from dsf.inspection.results.table import Table
from dsf.report import show
from dsf.report.content import content, embedded

FAMILIES = (
    dsf.mixers.SoftmaxAttention,
    dsf.mixers.DeltaNet,
    dsf.mixers.SelectiveStateSpace,
    dsf.mixers.S5,
)


@pytest.fixture
def page(inspected, reading, tmp_path):
    """A page whose every text is hostile."""
    words = [*reading.hostile, "k01"]
    inspection = inspected(
        *FAMILIES, words=words, unsupported=[(reading.hostile[0], "Odd", "<b>not linear</b>")]
    )
    facts = {reading.hostile[0]: reading.hostile[0]}
    path = show(inspection, tmp_path / "r.html", title=reading.hostile[0], facts=facts)
    return path.read_text(encoding="utf-8")


def test_no_text_becomes_an_element(page, reading):
    parsed = reading.elements(page)
    assert {tag for tag, _ in parsed.elements}.isdisjoint({"img", "b", "iframe", "link", "base"})
    assert [tag for tag, _ in parsed.elements].count("script") == 2
    assert not [name for _, attrs in parsed.elements for name in attrs if name.startswith("on")]
    assert "49" not in json.dumps(reading.content(page)["models"])


def test_nothing_is_asked_for(page, reading):
    assert "http:" not in page
    assert "https:" not in page
    addresses = [
        attrs[name]
        for _, attrs in reading.elements(page).elements
        for name in ("src", "href", "action")
        if name in attrs
    ]
    assert all(address.startswith("#") for address in addresses)


def test_the_policy_admits_our_script_and_style_alone(page, reading):
    parsed = reading.elements(page)
    (policy,) = [a["content"] for _, a in parsed.elements if "http-equiv" in a]
    rules = dict(reading.policy.findall(policy))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (ours,) = [text for name, attrs, text in parsed.inside if name == tag and not attrs]
        digest = base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
        assert "eval(" not in ours
        assert "innerHTML" not in ours


def test_characters_that_do_not_show_are_written_out(page, reading):
    tokens = reading.content(page)["models"][0]["tokens"][0]
    assert tokens[3] == "\\u202eevil\\u2028"
    assert "\u202e" not in page
    assert tokens[7] == "\\ud800"


def test_every_layer_stands_with_its_error_and_what_was_not_read(page):
    for number in ("1.0e-09", "4.0e-09", "1e-06"):
        assert number in page
    assert "model.layers.3.mixer" in page
    assert "&lt;b&gt;not linear&lt;/b&gt;" in page
    assert "Exact for this prompt." in page


@pytest.mark.parametrize("cls", FAMILIES, ids=lambda cls: cls.__name__)
def test_exact_maps_come_back_as_they_were(cls, inspected, reading):
    inspection = inspected(cls)
    maps = inspection[0].map().double()
    steps, system = inspection[0].system.steps, inspection[0].system
    by_token = maps.flatten(0, -3).unflatten(-1, (steps, system.input_size))
    by_token = by_token.unflatten(-3, (steps, system.output_size)).transpose(-2, -3).flatten(-2)
    expected = by_token.gather(-1, by_token.abs().argmax(-1, keepdim=True)).squeeze(-1)
    for map, drawn in zip(expected, content(inspection)["layers"][0]["maps"], strict=True):
        values = reading.unpacked(drawn["view"]["values"], "<f4", map.shape)
        np.testing.assert_allclose(values, map.numpy(), rtol=1e-6)
        row, column, weight = drawn["links"][0]
        assert weight == pytest.approx(map[row, column].item(), rel=1e-12)
        assert abs(weight) == map.abs().max().item() == drawn["scale"]


def test_sums_by_hand(softmax, of):
    map = content(of([softmax([[0.0, 0, 0], [0, 0, 0], [0, 0, 0]])]))["layers"][0]["maps"][0]
    assert map["columns"] == [[0, pytest.approx(11 / 6)], [1, pytest.approx(5 / 6)], [2, 1 / 3]]
    assert map["row_sums"] == [pytest.approx(1), pytest.approx(1)]


def test_masked_differs_from_zero(softmax, of, reading):
    hidden = -torch.inf
    scores = [[0, 0, 0, 0], [hidden, 0, 0, 0], [-2000, 0, 0, 0], [hidden, hidden, 0, 0]]
    layer = content(of([softmax(scores)]))["layers"][0]
    codes = reading.weights(layer["maps"][0]["view"], 1.0)[1]
    masked = [[0, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 0, 0]]
    assert (codes == 0).astype(int).tolist() == masked
    assert codes[2, 0] == 129


def test_a_row_that_reads_nothing_is_marked(softmax, of):
    scores = [[0, 0, 0], [-torch.inf, -torch.inf, 0], [0, 0, 0]]
    map = content(of([softmax(scores)]))["layers"][0]["maps"][0]
    assert map["empty"] == [1]
    assert map["empty_total"] == 1


def test_maps_that_are_not_finite_are_counted_and_kept_out_of_the_json(of, reading):
    mixer = dsf.mixers.LinearAttention.draw(torch.Generator().manual_seed(0), steps=5)
    broken = type(mixer)(**{**vars(mixer), "query": torch.full_like(mixer.query, torch.nan)})
    data = content(of([broken]))
    map = data["layers"][0]["maps"][0]
    assert map["nans"] > 0
    assert map["scale"] == 0
    assert map["state"].pop("unmeasured") == "since a weight is not finite"
    assert dict(map["measures"])["half of the weight is within this lag, tokens"] is None
    assert map["links"] == []
    assert map["row_sums"] == [None, None]
    assert map["state"] == {"states": 4}
    embedded(data)
    assert (reading.weights(map["view"], 1.0)[1] == 1).any()


def of_channels(of, *, steps=6, channels=40, heads=None):
    """Channels whose decays differ: the higher the number, the more they mix."""
    value = torch.ones(1, steps, channels, dtype=torch.float64)
    mixer = dsf.mixers.SelectiveStateSpace(
        value=value,
        step=torch.full_like(value, 0.5),
        pole=-torch.linspace(9, 1, channels, dtype=torch.float64)[:, None].expand(-1, 2),
        write=torch.linspace(1, 2, steps, dtype=torch.float64)[None, :, None].expand(1, -1, 2),
        read=torch.ones(1, steps, 2, dtype=torch.float64),
    )
    inspection = of([mixer], axes=("sample", "channel"))
    return replace(inspection, layers=(replace(inspection[0], heads=heads),))


def test_of_many_channels_those_that_mix_most_are_drawn(of):
    layer = content(of_channels(of))["layers"][0]
    assert layer["total"] == 40
    labels = [map["label"] for map in layer["maps"]]
    assert labels == ["all 40 channels", *(f"channel {k}" for k in range(39, 31, -1))]
    assert "off the diagonal" in layer["chosen"]


def test_channels_that_were_asked_for_are_drawn_and_act_alone(of, reading):
    inspection = of_channels(of, heads=(3, 20))
    all_, *single = content(inspection)["layers"][0]["maps"]
    assert [map["label"] for map in single] == ["channel 3", "channel 20"]
    assert all_["label"] == "all 2 chosen channels"
    assert all_["together"] == {"channels": 2, "total": 40, "onto": "the mixer's response"}
    found = reading.unpacked(all_["view"]["values"], np.float32, (6, 6))
    system, signal = inspection[0].system, inspection[0].signal
    for query in range(6):
        for key in range(6):
            alone = torch.zeros_like(signal)
            alone[:, :, key] = signal[:, :, key]
            expected = dsf.respond(system, alone)[0, :, query].norm()
            assert found[query, key] == pytest.approx(expected.item(), rel=1e-6)


def test_layers_and_heads_of_a_page_are_chosen(of, tmp_path, reading):
    first, second = (of_channels(of, channels=40)[0] for _ in range(2))
    second = replace(second, name="another", heads=(3, 20, 31))
    inspection = replace(of_channels(of), layers=(first, second))
    path = show(inspection, tmp_path / "r.html", layers="another", heads=slice(1, None))
    (layer,) = reading.content(path.read_text(encoding="utf-8"))["layers"]
    labels = [map["label"] for map in layer["maps"]]
    assert labels == ["all 2 chosen channels", "channel 20", "channel 31"]
    with pytest.raises(dsf.inspection.InspectionError, match="2 layers"):
        show(inspection, path, layers=7)
    with pytest.raises(dsf.inspection.InspectionError, match="40"):
        show(inspection, path, heads=99)


def test_tokens_of_a_wide_layer_are_taken_in_groups(of, reading, monkeypatch):
    monkeypatch.setattr("dsf.report.layer_content.MAX_GROUP_WORK", 4)
    monkeypatch.setattr("dsf.report.layer_content.FEWEST", 4)
    monkeypatch.setattr("dsf.report.layer_content.THUMBNAIL", 4)
    inspection = of_channels(of, steps=9)
    map = content(inspection)["layers"][0]["maps"][0]
    assert (map["view"]["rows"], map["view"]["columns"]) == (4, 4)
    signal = inspection[0].signal.clone()
    signal[:, :, 2:] = 0
    # the tokens 0 and 1 of the first group act on token 8, the last of the last group
    expected = dsf.respond(inspection[0].system, signal)[0, :, 8].norm().item()
    found = reading.unpacked(map["view"]["values"], np.float32, (4, 4))
    assert found[3, 0] == pytest.approx(expected, rel=1e-6)
    written, read, length = map["links"][0]
    assert (written, read) in {(8, 6), (8, 4), (5, 4), (3, 2), (1, 0)}
    assert length == pytest.approx(found.max(), rel=1e-6)
    codes = reading.weights(map["view"], map["scale"])[1]
    assert (codes[np.triu_indices(4, 1)] == 0).all()


def test_one_token(inspected, reading, tmp_path):
    path = show(inspected(*FAMILIES, steps=1, words=["only"]), tmp_path / "r.html")
    layers = reading.content(path.read_text(encoding="utf-8"))["layers"]
    assert [layer["maps"][0]["view"]["rows"] for layer in layers] == [1] * 4


def test_a_long_map_that_takes_too_much_room_is_pooled_by_halves(softmax, of, reading, monkeypatch):
    monkeypatch.setattr("dsf.report.views.MOST_BYTES", 20_000)
    rng = torch.Generator().manual_seed(0)
    inspection = of([softmax(torch.randn(300, 300, generator=rng))])
    map = content(inspection)["layers"][0]["maps"][0]
    assert map["view"]["rows"] == 150
    weights = reading.weights(map["view"], map["scale"])[0]
    expected = inspection[0].map()[0].unfold(0, 2, 2).unfold(1, 2, 2).amax(dim=(-1, -2))
    np.testing.assert_allclose(np.nan_to_num(weights), expected.numpy(), atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "limit"), [(1024, 1.0), (4096, 5.0)])
def test_a_long_map_is_there_token_by_token_within_the_size(steps, limit, of, tmp_path, reading):
    rng = torch.Generator().manual_seed(0)
    make = lambda width: torch.randn(1, steps, width, generator=rng)  # noqa: E731
    mixer = dsf.mixers.SoftmaxAttention(query=3 * make(8), key=make(8), value=make(1))
    path = show(of([mixer]), tmp_path / "long.html")
    assert path.stat().st_size < limit * 2**20
    map = reading.content(path.read_text(encoding="utf-8"))["layers"][0]["maps"][0]
    assert map["view"]["rows"] == steps
    whole, codes = reading.weights(map["view"], map["scale"])
    row, column, weight = map["links"][0]
    assert whole[row, column] == pytest.approx(weight, rel=0.01)
    assert (codes[np.triu_indices(steps, 1)] == 0).all()


def test_of_512_tokens_every_map_is_kept_token_by_token(of, tmp_path, reading):
    rng = torch.Generator().manual_seed(0)
    heads, steps = 36, 512
    make = lambda width: torch.randn(heads, steps, width, generator=rng)  # noqa: E731
    mixer = dsf.mixers.SoftmaxAttention(query=make(4), key=make(4), value=make(1))
    path = show(of([mixer]), tmp_path / "many.html")
    assert path.stat().st_size < heads * 160_000
    (layer,) = reading.content(path.read_text(encoding="utf-8"))["layers"]
    assert [map["view"]["rows"] for map in layer["maps"]] == [steps] * heads


def test_the_content_has_this_form(inspected):
    data = content(inspected(dsf.mixers.DeltaNet, words="abcdefghi"))
    layer = data["layers"][0]
    added = {"full", "attribution", "intervention"}
    assert set(data) == {"schema_version", "models", "layers", *added}
    assert data["schema_version"] == 4
    (model,) = data["models"]
    assert model.pop("tokens") == [list("abcdefghi")]
    assert model == {"name": "drawn/model", "decoder_tokens": None}
    assert set(layer) == {
        *("name", "family", "mixer", "model", "written", "read", "ports", "columns"),
        *("total", "chosen", "thumbnails", "maps", "orders", "same_tokens", "disorder"),
        *("inputs", "row_texts", "key_texts"),
    }
    assert set(layer["maps"][0]) == {
        *("bright", "signed", "unmeasured"),
        *("label", "sample", "scale", "nans", "infinities", "magnitudes", "empty", "empty_total"),
        *("links", "columns", "row_sums", "measures", "state", "verdicts", "view"),
    }
    assert set(layer["maps"][0]["view"]) == {"rows", "columns", "codes", "values"}


def test_progress_ends_at_one(inspected, tmp_path):
    told = []
    show(inspected(*FAMILIES), tmp_path / "r.html", progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1


def test_only_a_sample_axis_chooses_the_tokens(of):
    mixer = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=4)
    heads = content(of([mixer]))["layers"][0]["maps"]
    samples = content(of([mixer], axes=("sample",)))["layers"][0]["maps"]
    assert [map["sample"] for map in heads] == [0, 0]
    assert [map["sample"] for map in samples] == [0, 1]
    assert [map["label"] for map in samples] == ["sample 0", "sample 1"]


def test_measures_by_hand(softmax, of):
    """Uniform causal rows: n tokens are read evenly, none negative, 1/2 and 1/3 on the first."""
    map = content(of([softmax(torch.zeros(3, 3))]))["layers"][0]["maps"][0]
    found = dict(map["measures"])
    assert found["half of the weight is within this lag, tokens"] == 1
    assert found["negative share of the weight"] == 0
    assert found["share of later queries' weight on the first key"] == pytest.approx(5 / 12)
    assert found["effective number of keys per query"] == pytest.approx(2)
    assert found["largest row sum of absolute weights"] == pytest.approx(1)


def test_what_would_take_long_is_not_measured(softmax, of, monkeypatch):
    monkeypatch.setattr("dsf.report.layer_content.MOST_CELLS", 8)
    map = content(of([softmax(torch.zeros(3, 3))]))["layers"][0]["maps"][0]
    assert map["measures"] == []


def test_verdicts_have_words_and_their_text_stays_text(inspected, reading, tmp_path):
    def record(verdict, limits=""):
        return {
            "layer": reading.hostile[0],
            "property": "causal",
            "claim": "causal",
            "verdict": verdict,
            "observed": 0.25,
            "limits": limits,
        }

    verdicts = Table((record("PROVED"), record("PROVED"), record("UNKNOWN", "<b>time</b>")))
    path = show(inspected(dsf.mixers.DeltaNet), tmp_path / "r.html", verdicts=verdicts)
    page = path.read_text(encoding="utf-8")
    assert "✓ 2 PROVED" in page
    assert "? 1 UNKNOWN" in page
    assert "REFUTED</span>" not in page
    assert {"b", "img"}.isdisjoint(tag for tag, _ in reading.elements(page).elements)
