"""Fewer states: predicted errors against the layer itself, and weights that load."""

import pytest
import torch

from dsf.loading import load_model
from dsf.models import recall
from experiments.smaller_states import choosing, models, run
from experiments.smaller_states.layers import TRANSFORMERS, products

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def subject():
    made = models.RecallModel(orders=(4,))
    made.data = [recall.draw(torch.Generator().manual_seed(1), 4).tokens]
    made.held_out = recall.draw(torch.Generator().manual_seed(2), 40)
    return made


@pytest.fixture(scope="module")
def found(subject):
    return {
        path: products(subject.model, layer, TRANSFORMERS, subject.data)
        for path, layer in subject.layers(subject.model).items()
    }


def weighted_response(model, tokens, layer):
    """What the first layer's output projection is given, times the norms of its columns."""
    kept = []
    handle = layer.out_proj.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        model(tokens)
    handle.remove()
    return kept[0].double() * layer.out_proj.weight.double().norm(dim=0)


@pytest.mark.parametrize("way", ["chosen and projected", "largest", "random, projected"])
def test_the_predicted_error_is_that_of_the_working_layer(subject, found, way):
    """The feedthrough is taken away, which is no part of what the states contribute."""
    small, errors = run.smaller_model(subject, found, 4, run.WAYS[way][0])
    responses = []
    for model in (subject.model, small):
        layer = model.backbone.layers[0].mixer
        held = layer.D.data.clone()
        layer.D.data.zero_()
        responses.append(weighted_response(model, subject.data[0], layer))
        layer.D.data.copy_(held)
    whole, changed = responses
    expected = (changed - whole).norm() / whole.norm()
    assert errors[0] == pytest.approx(expected.item(), rel=1e-3)


def test_all_states_are_the_model_itself(subject, found):
    small, errors = run.smaller_model(
        subject, found, 16, lambda order, of: choosing.only(tuple(range(order)), of)
    )
    assert max(errors) < 1e-9
    with torch.no_grad():
        ours, theirs = (model(subject.data[0]).logits for model in (small, subject.model))
    torch.testing.assert_close(ours, theirs)


def test_a_projection_is_no_worse_than_the_same_states_alone(found):
    for of in found.values():
        for seed in range(3):
            kept = choosing.drawn(4, of, seed)
            assert choosing.projected(kept, of).error <= choosing.only(kept, of).error + 1e-9
        assert choosing.best(4, of).error <= choosing.projected(choosing.strongest(4, of), of).error


def test_a_smaller_model_loads_into_its_class_and_still_answers(subject, found, tmp_path):
    small, _ = run.smaller_model(subject, found, 8, choosing.best)
    small.save_pretrained(tmp_path)
    again = load_model(tmp_path).model.eval()
    assert again.config.state_size == 8
    assert again.backbone.layers[0].mixer.A_log.shape == (192, 8)
    score = subject.score(again)
    assert score == subject.score(small)
    assert score["right"] > 0.95
    assert subject.score(subject.model)["right"] > 0.95


def test_the_table_has_the_numbers_of_the_results():
    run_of = {"error": 0.5, "right": 0.25, "loss": 1.0}
    results = {
        "mamba": {
            "itself": {"right": 1.0, "loss": 0.0},
            "smaller": [{"states": 4, "way": "chosen", "runs": [run_of, run_of | {"right": 0.75}]}],
        }
    }
    assert run.rows(results)[1] == ["mamba", "4", "chosen", "0.50", "50.0%", "1.000"]
