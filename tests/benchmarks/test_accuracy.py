"""Every evaluator and the compiled loops in single precision where decays are hard, nan nowhere."""

import pytest

from benchmarks.accuracy import LENGTHS, LIMIT, METHODS, PAGE, applies, errors
from benchmarks.hard_decays import REGIMES, STRUCTURES


@pytest.mark.sampled("structure")
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_thousand_tokens(structure, regime):
    found = dict(errors(structure, regime, LENGTHS[0]))
    assert list(found) == [name for name in METHODS if applies(name, structure)]
    for method, error in found.items():
        assert error < LIMIT, method  # nan is below nothing


def test_the_page_shows_every_case_within_its_limit():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    cases = {tuple(row[:3]): row[3:] for row in rows if row}
    for structure in STRUCTURES:
        for regime in REGIMES:
            for steps in LENGTHS:
                shown = cases[structure, regime, f"{steps:,}"]
                for method, error in zip(METHODS, shown, strict=True):
                    assert bool(error) == applies(method, structure)
                    assert not error or float(error) <= LIMIT
