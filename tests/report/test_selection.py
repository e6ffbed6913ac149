"""Maps of a layer are selected for the report, whatever kind of system the layer is."""

import pytest
import torch

import dsf
from dsf.evaluate.scans import scanned
from dsf.report.selection import part_of
from dsf.systems.algebra import adjoint


def scanned_both_ways(rng):
    orders = torch.arange(9), torch.arange(9).flip(0)
    systems = [dsf.mixers.SelectiveStateSpace.draw(rng, steps=9).system() for _ in orders]
    return scanned(*zip(systems, orders, strict=True))


KINDS = {
    "system": lambda rng: dsf.mixers.SelectiveStateSpace.draw(rng, steps=9).system(),
    "adjoint": lambda rng: adjoint(dsf.mixers.SelectiveStateSpace.draw(rng, steps=9).system()),
    "scans of other orders": scanned_both_ways,
}


@pytest.mark.parametrize("places", [[(0, 2), (1, 0)], [(1, 0), (1, 1)], [(0, 2)], [(0, 1), (0, 0)]])
@pytest.mark.parametrize("kind", KINDS)
def test_the_selected_maps_are_those_of_the_whole(kind, places):
    system = KINDS[kind](torch.Generator().manual_seed(0))
    whole = dsf.attention_map(system)
    chosen = dsf.attention_map(part_of(system, places))
    torch.testing.assert_close(chosen, torch.stack([whole[place] for place in places]))
