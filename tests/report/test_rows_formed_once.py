"""How often the rows of a softmax layer are formed: once for each question that is asked of it."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import dsf
from dsf import measures
from dsf.inspection.rebuild import EVERY, ROWS, WINDOWS
from dsf.properties.run_folder import checked_run
from dsf.report import show
from dsf.report import views as pictures
from dsf.report.content import content
from dsf.report.layer_content import Walk, quantities_of
from dsf.report.selection import select
from dsf.report.views import views
from dsf.systems import kernels as availability
from dsf.systems.composite import SoftmaxRows

LAYERS, HEADS, TOKENS = 3, 4, 130


def inspected(tokens):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_layer=LAYERS, n_head=HEADS, n_embd=32, n_positions=tokens)
    ids = torch.randint(0, 64, (1, tokens), generator=torch.Generator().manual_seed(1))
    return dsf.inspect(GPT2LMHeadModel(config).eval(), input_ids=ids)


@pytest.fixture(scope="module")
def inspection():
    return inspected(TOKENS)


class Formed:
    """Rows whose scores were computed, as a multiple of the rows of all heads of all layers."""

    def __init__(self, monkeypatch):
        self.rows, logits = 0, SoftmaxRows.logits

        def counted(source, start, stop):
            self.rows += (stop - start) * source.query.shape[:-2].numel()
            return logits(source, start, stop)

        monkeypatch.setattr(SoftmaxRows, "logits", counted)

    def since(self):
        """How often every row was formed since this was last asked."""
        rows, self.rows = self.rows, 0
        return rows / (LAYERS * HEADS * TOKENS)


@pytest.mark.parametrize("least_work", [0, availability.WORTH], ids=["compiled", "torch"])
def test_each_question_forms_every_row_once(inspection, tmp_path, monkeypatch, least_work):
    monkeypatch.setattr(availability, "WORTH", least_work)
    formed = Formed(monkeypatch)
    inspection.measure()
    assert 1 <= formed.since() <= 1.5  # for the rank the rows of the later half once more
    checked_run(inspection, tmp_path / "run")
    assert formed.since() == 1
    show(inspection, tmp_path / "report.html")
    assert formed.since() == 1


@pytest.mark.parametrize("most_bytes", [2**25, 2**14, 0])
def test_pooled_and_whole_maps_are_drawn_of_the_same_rows(monkeypatch, most_bytes):
    """Where not all maps of a layer fit into memory, those that are kept whole are formed again."""
    long, formed = inspected(2 * TOKENS), Formed(monkeypatch)
    once = content(long, full_resolution=most_bytes)
    assert formed.since() == 2  # twice the tokens
    monkeypatch.setattr(pictures, "AT_ONCE", 0)
    assert content(long, full_resolution=most_bytes) == once
    assert (formed.since() > 2) == (most_bytes > 0)


def test_maps_that_a_page_keeps_whole_are_not_overwritten(inspection, monkeypatch):
    monkeypatch.setattr(availability, "WORTH", 0)
    monkeypatch.setattr("dsf.report.views.USUAL", 32)
    monkeypatch.setattr("dsf.report.views.LEAST", 1)
    drawn = select(inspection[0])
    walk = Walk(drawn.system, quantities_of(drawn, ordered=True))
    views(drawn, side=16, also=walk.add)
    torch.testing.assert_close(walk.weights, dsf.attention_map(drawn.system))


def test_a_page_that_shows_no_measures_of_rows_computes_none(inspection, tmp_path, monkeypatch):
    monkeypatch.setattr("dsf.report.layer_content.MOST_CELLS", 0)
    monkeypatch.setattr("dsf.report.layer_content.MOST_STATE_CELLS", 0)
    monkeypatch.setattr("dsf.measures.fold._compiled", pytest.fail)
    monkeypatch.setattr(availability, "WORTH", 0)
    assert show(inspection, tmp_path / "report.html").exists()


@pytest.mark.parametrize(("tokens", "rows"), [(EVERY, EVERY), (2 * EVERY, WINDOWS * ROWS)])
def test_inspecting_forms_the_rows_that_are_compared(tokens, rows, monkeypatch):
    config = GPT2Config(vocab_size=64, n_layer=1, n_head=HEADS, n_embd=32, n_positions=tokens)
    formed = Formed(monkeypatch)
    dsf.inspect(GPT2LMHeadModel(config).eval(), input_ids=torch.zeros(1, tokens, dtype=torch.long))
    assert formed.rows == HEADS * rows


def test_rows_are_counted(inspection, monkeypatch):
    formed = Formed(monkeypatch)
    for layer in inspection:
        layer.map()
        measures.row_entropy(layer.system)
    assert formed.since() == 2
