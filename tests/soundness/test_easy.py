"""What is plain to see is decided, at once and as it is."""

from tests.soundness.easy import counted


def test_easy_claims_are_decided():
    found = counted(1)
    assert sum(count.wrong for count in found.values()) == 0
    assert {kind for kind, count in found.items() if count.open} == set()
    assert max(count.slowest for count in found.values()) < 2
    assert sum(count.cases for count in found.values()) >= 40
