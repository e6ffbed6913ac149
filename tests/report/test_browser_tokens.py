"""Which token a row or a column is: in windows, beside other inputs, and in several samples."""

import math
import re
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import dsf
from dsf.inspection import Inspection
from dsf.report import draw_grid, show
from tests.report.controls import open_menu

pytestmark = pytest.mark.slow

WORDS = [f"w{k}" for k in range(8)]
WINDOWS = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7]])


@pytest.fixture
def windows(of, softmax):
    """Two layers of 2 x 4 places in two windows of 2 x 2: in the second the last reads another."""
    scores = torch.zeros(4, 4)
    scores[3, 1] = 1000
    plain, strong = softmax(torch.zeros(4, 4), causal=False), softmax(scores, causal=False)
    both = replace(
        plain,
        **{
            name: torch.stack([getattr(plain, name), getattr(strong, name)])
            for name in ("query", "key", "value", "bias")
        },
    )
    found = of([both, both], axes=("window", "head"))
    rows = WINDOWS[:, None]
    layers = [replace(layer, row_order=rows, column_order=rows) for layer in found]
    return replace(found, layers=tuple(layers), tokens=(tuple(WORDS),))


@pytest.fixture
def shown(visited, tmp_path):
    def visit(inspection: Inspection, **options):
        return visited(show(inspection, tmp_path / "r.html", **options))

    return visit


def test_a_row_of_a_window_is_named_as_the_token_that_it_is(shown, windows):
    page = shown(windows)
    page.locator(".lines .thumb").nth(1).click()
    page.locator(".pane h2", has_text="window 1, head 0").wait_for()
    first = page.locator(".numbers table", has_text="Largest weights").locator("tbody tr").first
    assert first.locator("td").all_inner_texts()[:2] == ["“w7” (7)", "“w3” (3)"]
    first.locator("button").click()
    told = page.locator(".readout").inner_text()
    assert told.startswith("Query “w7” (7), key “w3” (3): weight 1. The cell")
    assert page.locator(".strip div span").all_inner_texts() == ["w2", "w3", "w6", "w7"]
    open_menu(page)
    field = page.get_by_label("Find a token by its text or position")
    field.fill("w6")
    page.locator(".strip .found").wait_for()
    assert page.locator(".search .count").inner_text() == "1 found"
    page.locator(".lines .thumb").first.click()
    page.locator(".pane h2", has_text="window 0").wait_for()
    assert page.locator(".search .count").inner_text() == "none"
    assert "do not follow one another in the input" in page.locator(".numbers").inner_text()
    assert "mean distance" not in page.locator(".numbers").inner_text()
    page.get_by_role("button", name="State", exact=True).click()
    state = page.locator(".state")
    assert "its tokens do not follow one another in the input" in state.inner_text()
    assert state.locator(".chart").count() == 0


def test_what_was_found_in_one_sample_is_not_marked_in_another(shown, of):
    mixer = dsf.mixers.DeltaNet.draw(torch.Generator().manual_seed(0), steps=4)
    found = of([mixer], axes=("sample",))
    assert mixer.system().batch[0] == 2
    page = shown(replace(found, tokens=(("a", "b", "c", "d"), ("b", "a", "a", "a"))))
    page.locator(".thumb").first.click()
    open_menu(page)
    page.get_by_label("Find a token by its text or position").fill("a")
    marked = page.locator(".strip .found")
    marked.first.wait_for()
    assert marked.all_inner_texts() == ["a"]
    page.locator(".thumb").last.click()
    marked.nth(2).wait_for()
    assert page.locator(".search .count").inner_text() == "3 found"
    assert marked.all_inner_texts() == ["a"] * 3


@pytest.fixture(scope="module")
def translator():
    """An encoder and a decoder on as many tokens each; the texts are those of the encoder."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    config = T5Config(vocab_size=32, decoder_start_token_id=0, **sizes)
    ids, others = torch.arange(5)[None], torch.arange(9, 14)[None]
    return dsf.inspect(
        T5ForConditionalGeneration(config).eval(),
        input_ids=ids,
        decoder_input_ids=others,
        tokens=[["a", "b", "c", "d", "e"]],
    )


def test_tokens_of_another_input_do_not_get_the_texts_of_the_first(shown, translator):
    assert [(layer.row_input, layer.column_input, layer.system.steps) for layer in translator] == [
        ("input_ids", "input_ids", 5),
        ("decoder_input_ids", "decoder_input_ids", 5),
        ("decoder_input_ids", "input_ids", 5),
    ]
    page = shown(translator)
    told = []
    for k in range(3):
        page.locator(".lines .thumbs").nth(k).locator(".thumb").first.click()
        page.locator(".pane h2", has_text=translator[k].name).wait_for()
        told.append(page.locator(".readout").inner_text())
    assert re.match(r"Query “.” \(.\), key “.” ", told[0])
    assert re.match("Query token ., key token .: ", told[1])
    assert re.match(r"Query token ., key “.” \(.\): weight [\d.e−]+\.$", told[2])
    about = page.locator(".about").inner_text()
    assert "Queries are tokens of decoder_input_ids. Keys are tokens of input_ids." in about
    assert "queries are other tokens than the keys" in page.locator(".numbers").inner_text()


def test_positions_that_are_given_are_no_other_tokens():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    ids, positions = torch.arange(5)[None], torch.arange(5)[None]
    model = LlamaForCausalLM(config).eval()
    (layer,) = dsf.inspect(model, input_ids=ids, position_ids=positions)
    assert (layer.row_input, layer.column_input) == ("input_ids", "input_ids")


def test_a_picture_names_the_tokens_of_the_texts_alone(translator, tmp_path):
    text = draw_grid(translator, tmp_path / "maps.svg").read_text(encoding="utf-8")
    assert text.count("<!-- e -->") == 2  # a row and a column of the encoder


@pytest.fixture
def crossed(of):
    """Three queries that read five keys; the second reads the fourth."""
    query, key = torch.zeros(1, 3, 1), torch.zeros(1, 5, 1)
    bias = torch.zeros(1, 3, 5)
    bias[0, 1, 3] = 1000
    mixer = dsf.mixers.SoftmaxAttention(
        query=query, key=key, value=torch.ones(1, 5, 2), bias=bias, causal=False
    )
    return of([mixer])


def test_between_other_tokens_there_is_no_distance(shown, crossed):
    page = shown(crossed)
    assert page.locator(".readout").inner_text() == "Query token 1, key token 3: weight 1."
    numbers = page.locator(".numbers").inner_text()
    assert "Distances are not measured, since the queries are other tokens" in numbers
    assert "effective number of keys" in numbers
    assert "mean distance" not in numbers


def test_why_nothing_is_measured_is_said(shown, of):
    rng = torch.Generator().manual_seed(0)
    mixers = [dsf.mixers.SelectiveStateSpace.draw(rng, steps=6) for _ in range(2)]
    page = shown(of(mixers, axes=("sample", "channel")))
    numbers = page.locator(".numbers")
    assert "Measures are of single channels: choose one of them." in numbers.inner_text()
    page.locator(".lines .thumb").last.click()
    numbers.get_by_text("effective number of keys per query").wait_for()
    page.get_by_role("button", name="Compare with another map").click()
    page.locator(".pane").nth(1).locator("canvas:focus").wait_for()
    page.get_by_role("button", name="Show A minus B").click()
    numbers.get_by_text("B: A difference of two maps is not measured.").wait_for()


def test_a_measure_without_meaning_is_not_called_infinite(shown, of, softmax):
    """A single token has no later query that could read the first key."""
    page = shown(of([softmax(torch.zeros(1, 1))]))
    row = page.locator(".numbers tr", has_text="on the first key")
    assert row.locator("td").last.inner_text() == "not defined"


def test_the_first_key_counts_in_the_scale_of_a_difference(shown, of, softmax):
    """A reads the first key alone, B itself and a fifth of the second key: A − B is 1, and −0.2."""
    first, itself = torch.full((2, 12, 12), -1000.0)
    first[:, 0], itself[torch.arange(12), torch.arange(12)] = 0, 0
    itself[5:, 1] = math.log(0.25)
    page = shown(of([softmax(first), softmax(itself)]))
    page.locator(".lines .thumb").first.click()
    page.get_by_role("button", name="Compare with another map").click()
    page.get_by_role("button", name="Show A minus B").click()
    page.locator(".pane h2", has_text="A − B: ").wait_for()
    open_menu(page)
    page.get_by_label("Colour scale").select_option("linear")
    ramp = page.locator(".pane").nth(1).locator(".ramp span")
    assert ramp.all_inner_texts() == ["−1", "0", "+1"]
