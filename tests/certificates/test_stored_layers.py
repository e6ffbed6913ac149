"""Certificates from stored weights and inputs, about maps in which nothing was rounded."""

import time
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import dsf
from dsf import certify, models
from dsf.certificates import Level, StoredLayer, Verdict, checker
from dsf.inspection import InspectionError, ReconstructionError, stored_layer
from tests.soundness import second_checker
from tests.soundness.stored_layers import TOKENS, layers

F64 = torch.float64


@pytest.fixture(scope="module")
def trained():
    return dict(layers())


def both(certificate, folder):
    """The verdict, once both checkers have said it of a small file in a short time."""
    assert certificate.level is Level.REAL
    (file,) = folder.glob("certificates/*.json")
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 200_000
    for check in (checker.check, second_checker.verdict):
        begun = time.process_time()
        assert check(file) == certificate.verdict.value
        assert time.process_time() - begun < 5
    return certificate.verdict


def test_softmax_attention_of_a_trained_model(trained, tmp_path):
    layer = trained["llama"]
    found = certify.nonnegative(layer, folder=tmp_path / "signs")
    assert both(found, tmp_path / "signs") is Verdict.PROVED
    assert "of stored weights on a stored input" in str(found)
    found = certify.row_sums(layer, tolerance=2.0**-100, folder=tmp_path / "sums")
    assert both(found, tmp_path / "sums") is Verdict.PROVED
    assert certify.row_sums(layer).verdict is Verdict.UNKNOWN  # a rounded one is never exactly one


@pytest.mark.parametrize("model", ["mamba", "mamba2", "qwen3_next"])
def test_a_recurrent_layer_of_a_trained_model(model, trained, tmp_path):
    layer = trained[model]
    found = certify.nonnegative(layer, folder=tmp_path / "signs")
    assert both(found, tmp_path / "signs") is Verdict.REFUTED
    weights = layer.map()
    assert weights[found.witness["row"], found.witness["column"]] == weights.min() < 0
    found = certify.row_sums(layer, tolerance=0.1, folder=tmp_path / "sums")
    assert both(found, tmp_path / "sums") is Verdict.REFUTED


def test_enclosures_are_narrow_and_hold_the_rounded_map(trained):
    for layer in trained.values():
        rows = layer.enclosed
        assert layer.map()[-1].tolist() == [float((low + high) / 2) for low, high in rows[-1]]
        size = max(abs(low) for row in rows for low, _ in row)
        assert max(high - low for row in rows for low, high in row) < size / 2**130


def test_row_sums_on_both_sides_of_their_exact_deviation(tmp_path):
    layer = StoredLayer(
        "state_space_duality",
        {
            "A_log": torch.tensor([0.5], dtype=F64),
            "D": torch.tensor([0.25], dtype=F64),
            "input": torch.tensor([[1.0], [2.0]], dtype=F64),
            "read_bias": torch.zeros(1, dtype=F64),
            "read_convolution": torch.ones(1, 1, dtype=F64),
            "read_weight": torch.ones(1, 1, dtype=F64),
            "step_bias": torch.zeros(1, dtype=F64),
            "step_weight": torch.ones(1, dtype=F64),
            "write_bias": torch.zeros(1, dtype=F64),
            "write_convolution": torch.ones(1, 1, dtype=F64),
            "write_weight": torch.ones(1, 1, dtype=F64),
        },
    )
    with mpmath.workdps(60):
        e = mpmath.exp
        one, two = 1 / (1 + e(-1)), 2 / (1 + e(-2))
        steps = [mpmath.log1p(e(x)) for x in (1, 2)]
        weights = [one * one * steps[0] + 0.25]
        weights.append(
            two * one * steps[0] * e(-e(mpmath.mpf(1) / 2) * steps[1]) + two**2 * steps[1] + 0.25
        )
        off = max(abs(weight - 1) for weight in weights)
        bound = Fraction(int(off * 2**140), 2**140)
    step = Fraction(1, 2**120)
    for tolerance, verdict in ((bound + step, Verdict.PROVED), (bound - step, Verdict.REFUTED)):
        place = tmp_path / verdict.value
        found = certify.row_sums(layer, tolerance=tolerance, folder=place)
        assert both(found, place) is verdict


@pytest.mark.usefixtures("our_own_errors")
def test_what_no_file_can_hold_is_refused(trained):
    parts = dict(trained["mamba2"].parts)
    with pytest.raises(ValueError, match="gated_delta_net"):
        StoredLayer("attention", parts)
    with pytest.raises(ValueError, match="A_log, D"):
        StoredLayer("state_space_duality", {"A_log": parts["A_log"]})
    for part, words in (
        ({"input": parts["input"].repeat(9, 1)}, "takes more work than is allowed"),
        ({"A_log": torch.tensor([5000.0])}, "an exponent lies beyond 4096"),
    ):
        layer = StoredLayer("state_space_duality", {**parts, **part})
        with pytest.raises(ValueError, match=words):
            certify.nonnegative(layer)


def test_a_module_that_does_more_than_its_kind_is_refused():
    model = AutoModelForCausalLM.from_pretrained(models.folder("mamba2")).eval()
    layer = model.backbone.layers[0].mixer
    layer.time_step_limit = (0.5, 0.6)  # clamps the steps
    with pytest.raises(ReconstructionError, match="stored kind"):
        stored_layer(model, "backbone.layers.0.mixer", input_ids=TOKENS)
    with pytest.raises(InspectionError, match="one sample"):
        stored_layer(model, "backbone.layers.0.mixer", input_ids=TOKENS.repeat(2, 1))
    model = AutoModelForCausalLM.from_pretrained(models.folder("qwen3_next")).eval()
    with pytest.raises(InspectionError, match="without bias and norm"):
        stored_layer(model, "model.layers.0.self_attn", input_ids=TOKENS)
    model = AutoModelForCausalLM.from_pretrained(models.folder("llama")).eval()
    model.model.layers[0].self_attn.q_proj.bias = nn.Parameter(torch.zeros(64))
    with pytest.raises(InspectionError, match="without bias"):
        stored_layer(model, "model.layers.0.self_attn", input_ids=TOKENS)


def test_a_model_in_another_number_type_is_stored_as_it_is(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(models.folder("text_llama"), dtype=torch.float16)
    layer = stored_layer(model.eval(), "model.layers.0.self_attn", input_ids=TOKENS[:, :4])
    assert layer.parts["query_weight"].dtype == torch.float16
    found = dsf.certify.nonnegative(layer, folder=tmp_path)
    assert both(found, tmp_path) is Verdict.PROVED
