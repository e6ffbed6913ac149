"""The names that are checked before torch is imported are those of what they name."""

import torch

from dsf.cli import earlier_run, known_names, output_place
from dsf.inspection.results.measurements import QUANTITIES
from dsf.properties import run_folder
from dsf.properties.decided import PROPERTIES


def test_every_list_is_that_of_what_it_names():
    assert tuple(QUANTITIES) == known_names.QUANTITIES
    assert tuple(PROPERTIES) == known_names.PROPERTIES
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in known_names.NUMBER_TYPES)


def test_a_misspelt_word_is_told_what_it_may_mean():
    assert known_names.meant("causl", known_names.PROPERTIES) == "Did you mean causal?"
    assert known_names.meant("x", ("a", "b")) == "Choose from a, b."


def test_the_files_of_a_run_are_those_that_it_writes():
    assert earlier_run.OWN_NAMES == run_folder.OWN_NAMES
    assert output_place.RUN_NAMES == (run_folder.MANIFEST, run_folder.UNFINISHED)
