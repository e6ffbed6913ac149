"""Weights that stay in their files: the same numbers, and no copy of any of them."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dsf
from dsf.loading import load_model
from dsf.models import folder

IDS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 5, 3, 1, 2, 2]])


def spans_of(path):
    """The addresses at which a file is mapped into this process."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ends = (line.split()[0].split("-") for line in lines if line.endswith(str(path)))
    return [range(int(begin, 16), int(end, 16)) for begin, end in ends]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the maps of a process in Linux")
def test_no_weight_is_copied_and_the_layers_are_those_of_the_copy(tmp_path):
    place = tmp_path / "model"
    shutil.copytree(folder("qwen3_next"), place)
    loaded, expected = load_model(place, mapped=True), dsf.inspect(place, input_ids=IDS)
    spans = spans_of(place / "model.safetensors")
    assert all(any(p.data_ptr() in s for s in spans) for p in loaded.model.parameters())
    before = (place / "model.safetensors").read_bytes()
    found = dsf.inspect(loaded.model, input_ids=IDS)
    assert [layer.name for layer in found] == [layer.name for layer in expected]
    for layer, other in zip(found, expected, strict=True):
        # Not bit by bit: where in memory weights lie decides how a product is summed.
        torch.testing.assert_close(layer.map(), other.map(), rtol=0, atol=1e-5)
        assert layer.is_exact == other.is_exact
    with torch.no_grad():
        next(loaded.model.parameters()).zero_()
    assert (place / "model.safetensors").read_bytes() == before


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    place, name = tmp_path / "model", "backbone.layers.1.mixer.D"
    shutil.copytree(folder("mamba"), place)
    weights = load_file(place / "model.safetensors")
    weights[name] = torch.full_like(weights[name], torch.nan)
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(dsf.inspection.NonFiniteWeightsError, match=name):
        dsf.inspect(load_model(place, mapped=True).model, input_ids=IDS)


def test_a_job_over_mapped_weights_says_the_same(tmp_path):
    prompts, quantities = [[1, 2, 3, 4], [4, 3, 2, 1]], ["mean_row_sum", "negative_share"]
    tables = [
        dsf.jobs.measure_prompts(
            folder("qwen3_next"), prompts, tmp_path / str(mapped), quantities=quantities,
            batch=2, layerwise=mapped,
        )
        for mapped in (False, True)
    ]  # fmt: skip
    for one, other in zip(*tables, strict=True):
        assert (one["layer"], one["quantity"]) == (other["layer"], other["quantity"])
        assert one["mean"] == pytest.approx(other["mean"], rel=1e-4, abs=1e-5)
