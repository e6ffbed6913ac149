"""Fewer states: the models of the experiment are built and judged, its table has its numbers."""

import pytest
import torch

from dsf.interventions.fewer_states import state_products
from dsf.models import recall
from experiments.smaller_states import models, run

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def subject():
    made = models.RecallModel(orders=(4,))
    made.data = [recall.draw(torch.Generator().manual_seed(1), 4).tokens]
    made.held_out = recall.draw(torch.Generator().manual_seed(2), 40)
    return made


@pytest.fixture(scope="module")
def found(subject):
    return state_products(subject.model, subject.data, adapters=subject.adapters)


def test_every_way_gives_a_model_of_the_same_class_that_is_judged(subject, found):
    errors = {}
    for way, (several, projected) in run.WAYS.items():
        model, made = run.smaller_model(subject, found, 4, several[0], projected=projected)
        assert model.config.state_size == 4
        assert type(model) is type(subject.model)
        assert set(subject.score(model)) == {"right", "loss"}
        errors[way] = max(made)
    assert errors["chosen and projected"] == min(errors.values())
    assert errors["largest"] > errors["largest, projected"]
    assert subject.score(subject.model)["right"] > 0.95


def test_random_states_are_different_ones_and_the_same_for_a_seed(found):
    (products, *_) = found.values()
    kept = run.drawn(products, 4, seed=1)
    assert len(set(kept)) == 4
    assert kept == run.drawn(products, 4, seed=1) != run.drawn(products, 4, seed=2)


def test_the_table_has_the_numbers_of_the_results():
    run_of = {"error": 0.5, "right": 0.25, "loss": 1.0}
    results = {
        "mamba": {
            "itself": {"right": 1.0, "loss": 0.0},
            "smaller": [{"states": 4, "way": "chosen", "runs": [run_of, run_of | {"right": 0.75}]}],
        }
    }
    assert run.rows(results)[1] == ["mamba", "4", "chosen", "0.50", "50.0%", "1.000"]
