"""The oracle of properties on a few drawn layers; and that it finds planted faults."""

from dataclasses import replace

import pytest
import torch

from dsf import certificates as certify
from dsf.properties import decided
from tests.soundness import properties


def test_no_verdict_on_drawn_layers_is_false():
    counts, wrong = properties.run(150, seed=0)
    assert wrong == []
    for name in decided.PROPERTIES:
        assert {word for each, word in counts if each == name}, name


def not_a_head_of(name, part):
    return type(part.layer.mixer).__name__ != name or part.weights.ndim > 2


def any_axis(part, where):
    """Sums the last axis of decays, whatever it counts."""
    logs = getattr(part.layer.mixer, "log_decay", None)
    if not isinstance(logs, torch.Tensor) or logs.is_complex():
        return decided._not_applicable("", "")
    logs = logs if logs.ndim == 1 else logs[part.index]
    return certify.decay(logs, width=logs.shape[-1], most=0.5, folder=where)


def all_keys(part, where):
    """Overlooks masks and windows."""
    mixer = part.layer.mixer
    if (
        type(mixer).__name__ != "SoftmaxAttention"
        or part.weights.ndim > 2
        or mixer.key.shape[-2] <= mixer.key.shape[-1]
    ):
        return decided._not_applicable("", "")
    return certify.injective(mixer.key[part.index], folder=where)


def no_epsilon(part, where):
    """Overlooks the epsilon of linear attention."""
    mixer = part.layer.mixer
    if not_a_head_of("LinearAttention", part):
        return decided._not_applicable("", "")
    return decided._linear_injective(replace(mixer, epsilon=0.0), part.index, where)


def masked_margin(part, where):
    """The margin of all keys, whatever the rows show."""
    mixer = part.layer.mixer
    if (
        type(mixer).__name__ != "SoftmaxAttention"
        or part.weights.ndim > 2
        or mixer.key.shape[-2] <= mixer.key.shape[-1]
    ):
        return decided._not_applicable("", "")
    return certify.margin(mixer.key[part.index], folder=where)


def without_decay(part, where):
    """Overlooks the decay of a delta rule."""
    mixer = part.layer.mixer
    if not_a_head_of("GatedDeltaNet", part):
        return decided._not_applicable("", "")
    return certify.nonexpansive(mixer.key[part.index], mixer.rate[part.index], folder=where)


@pytest.mark.parametrize(
    ("name", "fault"),
    [("forgets", any_axis), ("injective", all_keys), ("injective", no_epsilon),
     ("margin", masked_margin), ("nonexpansive", without_decay)],
    ids=lambda each: getattr(each, "__name__", each),
)  # fmt: skip
def test_a_planted_fault_is_found(monkeypatch, name, fault):
    planted = {name: replace(decided.PROPERTIES[name], decide=fault)}
    monkeypatch.setattr(decided, "PROPERTIES", planted)
    _, wrong = properties.run(50, seed=1)
    assert wrong
