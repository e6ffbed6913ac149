"""The fuzzer of both checkers, briefly; and that it can find something."""

import pytest

from dsf.certificates import checker
from tests.soundness import fuzz, second_checker


def test_both_checkers_agree_and_are_right():
    tally = fuzz.fuzz(0, 700)
    assert tally.faults == []
    assert tally.seconds < 5
    seen = tally.counts
    assert set(seen) == {"PROVED", "REFUTED", "rejected"}
    assert min(seen.values()) > 60


def always(verdict):
    return lambda _path: verdict


@pytest.mark.parametrize(
    ("module", "name", "planted", "words"),
    [
        (checker, "check", always("PROVED"), "the first says PROVED, the second"),
        (second_checker, "verdict", always("rejected"), "the second rejected"),
        (checker, "check", lambda _path: 1 / 0, "the first says ZeroDivisionError"),
    ],
)
def test_a_planted_fault_is_found(monkeypatch, module, name, planted, words):
    monkeypatch.setattr(module, name, planted)
    tally = fuzz.fuzz(1, 30)
    assert any(words in fault for fault in tally.faults)


def test_a_false_sentence_that_both_accept_is_found(monkeypatch):
    """Both accept whatever is stated; only the oracle is left to object."""

    def believed(path):
        verdict = fuzz.json.loads(path.read_text())["verdict"]
        assert verdict in ("PROVED", "REFUTED")
        return verdict

    def flipped(bent, _chance, _pool):
        bent.content["verdict"] = "PROVED"

    monkeypatch.setattr(checker, "check", believed)
    monkeypatch.setattr(second_checker, "verdict", believed)
    monkeypatch.setattr(fuzz, "MUTATIONS", ((flipped, 1),))
    tally = fuzz.fuzz(2, 40)
    assert any("is false" in fault for fault in tally.faults)
