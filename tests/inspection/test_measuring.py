"""The table of an inspection: tidy, complete, harmless."""

import json
import math

import pytest
import torch
from torch import nn

import dsf
from dsf import measures
from dsf.inspection.results.measurements import QUANTITIES, _without_padding, measured
from dsf.inspection.results.table import Table
from dsf.loading import load_model
from dsf.models import folder
from dsf.systems.algebra import adjoint, select
from dsf.systems.composite import ExplicitMap, StoredRows


@pytest.fixture(scope="module")
def inspection():
    torch.manual_seed(0)
    return dsf.inspect(nn.MultiheadAttention(8, 2, batch_first=True), *[torch.randn(1, 6, 8)] * 3)


def test_one_record_for_every_head_and_quantity(inspection):
    table = inspection.measure()
    assert len(table) == 2 * len(QUANTITIES)
    sums = table.where(quantity="mean_row_sum")
    assert [record["head"] for record in sums] == [0, 1]
    assert all(math.isclose(record["value"], 1.0, abs_tol=1e-9) for record in sums)
    assert all(record["value"] == 0 for record in table.where(quantity="negative_share"))


def test_only_what_is_named_is_measured(inspection, monkeypatch):
    names = ("sink_mass", "mean_row_sum")
    some, table = inspection.measure(*names), inspection.measure()
    assert [record["quantity"] for record in some] == [name for name in names for _ in range(2)]
    for name in names:
        assert list(some.where(quantity=name)) == list(table.where(quantity=name))
    monkeypatch.setattr(measures, "hankel_ranks", lambda *_, **__: pytest.fail("was not asked for"))
    assert len(inspection.measure("half_life")) == 2


def test_a_quantity_that_is_none_is_refused(inspection):
    with pytest.raises(ValueError, match="'quantities'"):
        inspection.measure("sink_mas")


class Broken:
    """A layer whose map is no numbers."""

    name, family, axes, padding = "broken", "none", ("head",), None
    system = ExplicitMap(StoredRows(torch.full((1, 3, 3), torch.nan)))

    def place(self, index):
        return index


def test_what_cannot_be_measured_says_why():
    table = measured([Broken()])
    rank = table.where(quantity="middle_hankel_rank")[0]
    assert math.isnan(rank["value"])
    assert "NaN or infinite" in rank["note"]


def test_numbers_that_are_none_become_null_and_cells_stay_text():
    table = Table(({"layer": "=cmd()", "value": math.nan}, {"layer": "-1", "value": 2.0}))
    assert [record["value"] for record in table.to_json()] == [None, 2.0]
    json.dumps(table.to_json(), allow_nan=False)
    assert table.to_csv().splitlines() == ["layer,value", "'=cmd(),nan", "'-1,2.0"]


@pytest.mark.sampled("cls")
@pytest.mark.parametrize("cls", dsf.mixers.ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("turn", [lambda system: system, adjoint], ids=["forward", "adjoint"])
def test_the_map_of_a_sample_without_its_padding_is_a_part_of_its_map(cls, turn):
    """Behind, before, on both sides, in the middle, everywhere, and nowhere."""
    system = cls.draw(torch.Generator().manual_seed(0), steps=6).system()
    system = turn(system) if isinstance(system, dsf.System) else system
    whole = dsf.attention_map(system)[:1]
    rows, columns = whole.shape[-2] // 6, whole.shape[-1] // 6
    for shown in ([0, 1, 2, 3], [2, 3, 4, 5], [1, 2, 3], [0, 1, 4, 5], [], [0, 1, 2, 3, 4, 5]):
        hidden = torch.ones(1, 6, dtype=torch.bool)
        hidden[0, shown] = False
        ((kept, alone),) = _without_padding(select(system, slice(0, 1)), hidden)
        assert kept.tolist() == (shown or list(range(6)))
        found = alone if isinstance(alone, torch.Tensor) else dsf.attention_map(alone)
        places = [[k * n + p for k in kept.tolist() for p in range(n)] for n in (rows, columns)]
        expected = whole[..., places[0], :][..., places[1]]
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


SHORT, LONG = "And all our", "And all our yesterdays have lighted fools"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["text_llama", "text_mamba2", "text_qwen3_next"])
def test_a_padded_text_has_the_measures_of_the_text_alone(name, side):
    one = load_model(folder(name))
    texts = [one.tokenizer(text, return_tensors="pt").input_ids[0] for text in (SHORT, LONG)]
    steps = max(map(len, texts))
    ids, mask = torch.zeros(2, 2, steps, dtype=torch.long)
    for sample, text in enumerate(texts):
        place = slice(steps - len(text), None) if side == "left" else slice(len(text))
        ids[sample, place], mask[sample, place] = text, 1
    padded = dsf.inspect(one.model, input_ids=ids, attention_mask=mask, exact=True, checks="none")
    for sample, text in enumerate(texts):
        alone = dsf.inspect(one.model, input_ids=text[None], exact=True, checks="none")
        found = padded.measure().where(sample=sample)
        for record, expected in zip(found, alone.measure(), strict=True):
            assert {**record, "value": 0, "sample": 0} == {**expected, "value": 0}
            assert record["value"] == pytest.approx(expected["value"], abs=1e-9, nan_ok=True)
