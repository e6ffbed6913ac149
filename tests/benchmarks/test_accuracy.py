"""Every evaluator and the compiled loops within 1e-6, where decays are hard; no nan anywhere."""

import pytest

from benchmarks.accuracy import LENGTHS, LIMIT, PAGE, REGIMES, STRUCTURES, errors


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_thousand_tokens(structure, regime):
    found = dict(errors(structure, regime, LENGTHS[0]))
    assert all(error < LIMIT for error in found.values()), found  # nan is below nothing


def test_the_page_has_every_case_within_the_limit():
    rows = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines()]
    cases = {(row[0].strip(), row[1].strip(), row[2].strip()): row[3:] for row in rows[2:] if row}
    for structure in STRUCTURES:
        for regime in REGIMES:
            for steps in LENGTHS:
                shown = cases[structure, regime, f"{steps:,}"]
                assert all(float(error) <= LIMIT for error in shown), (structure, regime, steps)
