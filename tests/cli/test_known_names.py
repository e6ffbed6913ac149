"""The names that are checked before torch is imported are those of what they name."""

from collections import Counter

import torch

from dsf.claims import ALL, PAPERS, Table
from dsf.cli import earlier_run, known_names, output_place
from dsf.inspection.results.measurements import QUANTITIES
from dsf.properties import run_folder
from dsf.properties.decided import PROPERTIES


def test_every_list_is_that_of_what_it_names():
    assert tuple(QUANTITIES) == known_names.QUANTITIES
    assert tuple(PROPERTIES) == known_names.PROPERTIES
    assert tuple(Table) == known_names.TABLES
    assert tuple(known_names.CLAIMS) == tuple(PAPERS)
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in known_names.NUMBER_TYPES)


def test_the_claims_of_a_paper_are_numbered_without_a_gap():
    assert Counter(claim.paper for claim in ALL) == known_names.CLAIMS
    for claim in ALL:
        paper, number = claim.id.split("-")
        assert 1 <= int(number) <= known_names.CLAIMS[paper]


def test_a_misspelt_word_is_told_what_it_may_mean():
    assert known_names.meant("causl", known_names.PROPERTIES) == "Did you mean causal?"
    assert known_names.meant("x", ("a", "b")) == "Choose from a, b."


def test_the_files_of_a_run_are_those_that_it_writes():
    assert earlier_run.OWN_NAMES == run_folder.OWN_NAMES
    assert output_place.RUN_NAMES == (run_folder.MANIFEST, run_folder.UNFINISHED)
