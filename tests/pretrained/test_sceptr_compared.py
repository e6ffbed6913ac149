"""Two checkpoints of sceptr compared: heads matched by assignment, distances, flipped verdicts."""

from copy import deepcopy
from itertools import permutations

import numpy as np
import pytest
import torch

import dsf
from tests.pretrained.test_sceptr import HEADS, RECEPTORS, Receptors, tokens

WEIGHTS = "sceptr"
ORDER = [3, 0, 7, 1, 6, 2, 5, 4]


def checkpoint(weights, name):
    path = weights / name / "state_dict.pt"
    return Receptors(torch.load(path, weights_only=True)).eval()


def with_heads_in(order, model):
    """The same function with the heads of its second layer in another order."""
    made = deepcopy(model)
    attention = made.stack.layers[1].self_attn
    width = attention.embed_dim // HEADS
    places = torch.cat([torch.arange(head * width, (head + 1) * width) for head in order])
    rows = torch.cat([places + part * attention.embed_dim for part in range(3)])
    with torch.no_grad():
        attention.in_proj_weight.copy_(attention.in_proj_weight[rows])
        attention.in_proj_bias.copy_(attention.in_proj_bias[rows])
        attention.out_proj.weight.copy_(attention.out_proj.weight[:, places])
    return made


@pytest.fixture(scope="module")
def base(weights):
    return checkpoint(weights, "SCEPTR")


@pytest.fixture(scope="module")
def tuned(weights):
    return checkpoint(weights, "SCEPTR_finetuned")


@pytest.fixture(scope="module")
def read(base, tuned):
    given = tokens(RECEPTORS, 6)
    return dsf.inspect(base, given, checks="none"), dsf.inspect(tuned, given, checks="none")


@pytest.fixture(scope="module")
def compared(read):
    return dsf.compare(*read, align=True)


def test_partners_are_the_best_of_all_permutations(read, compared):
    for one, other, partner in zip(*read, compared.partners, strict=True):
        ours, theirs = one.map().numpy(), other.map().numpy()
        cost = [
            [((ours[:, a] - theirs[:, b]) ** 2).sum() for b in range(HEADS)] for a in range(HEADS)
        ]
        every = np.array(list(permutations(range(HEADS))))
        sums = np.array(cost)[np.arange(HEADS), every].sum(axis=1)
        assert sums[(every == partner).all(axis=1)].item() == pytest.approx(sums.min())


def test_distances_are_those_of_the_maps(read, compared):
    for one, other, partner in zip(*read, compared.partners, strict=True):
        ours, theirs = one.map().numpy(), other.map().numpy()[:, list(partner)]
        found = compared.where(layer=one.name, quantity="map_distance")
        assert len(found) == len(RECEPTORS) * HEADS
        for row in found:
            a, b = (maps[row["sample"], row["head"]] for maps in (ours, theirs))
            expected = np.linalg.norm(a - b) / np.linalg.norm(a)
            assert row["first"] == pytest.approx(expected, rel=1e-9)


def test_heads_of_a_fine_tuned_model_are_found_again_in_another_order(base, tuned):
    """Trained from the base, its heads are nearest to those they started from."""
    given = tokens(RECEPTORS, 6)
    mixed = with_heads_in(ORDER, tuned)
    with torch.no_grad():
        torch.testing.assert_close(mixed(given), tuned(given), rtol=1e-5, atol=1e-6)
    runs = [dsf.inspect(model, given, checks="none") for model in (base, mixed, tuned)]
    table = dsf.compare(runs[0], runs[1], align=True, verdicts=False)
    plain = dsf.compare(runs[0], runs[2], align=True, verdicts=False)
    assert plain.partners == (tuple(range(HEADS)),) * 3
    assert table.partners[1] == tuple(ORDER.index(head) for head in range(HEADS))
    assert table.partners[0] == tuple(range(HEADS))


def test_verdicts_that_flip_are_listed(compared):
    flips = compared.flips()
    both = [row for row in compared if "flipped" in row]
    assert len(both) > 100
    assert [row for row in both if row["first"] != row["second"]] == list(flips)
