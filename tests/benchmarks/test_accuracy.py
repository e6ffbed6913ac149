"""Every evaluator and the compiled loops in single precision where decays are hard, nan nowhere."""

import pytest

from benchmarks.accuracy import LENGTHS, METHODS, PAGE, REGIMES, STRUCTURES, errors, limit_of


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_thousand_tokens(structure, regime):
    steps = LENGTHS[0]
    for method, error in errors(structure, regime, steps):
        assert error < limit_of(structure, regime, method, steps), method  # nan is below nothing


def test_the_page_shows_every_case_within_its_limit():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    cases = {tuple(row[:3]): row[3:] for row in rows if row}
    for structure in STRUCTURES:
        for regime in REGIMES:
            for steps in LENGTHS:
                shown = cases[structure, regime, f"{steps:,}"]
                for method, error in zip(METHODS, shown, strict=True):
                    assert float(error) <= limit_of(structure, regime, method, steps)
