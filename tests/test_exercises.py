"""Checks of exercises: what is close, and what is said about open and wrong answers."""

import pytest
import torch

from dsf.exercises import close, exercise


@pytest.mark.parametrize(
    ("found", "expected", "alike"),
    [
        (torch.tensor([0.1, 0.7], dtype=torch.float32), torch.tensor([0.1, 0.7]).double(), True),
        ([1, 2], torch.tensor([1, 2]), True),
        (3, torch.tensor(3.0), True),
        (1.0, 1 + 2e-5, False),
        ([1.0, 1e-9], [1.0, 0.0], True),
        (1e-7, 0, True),
        (1e-5, 0, False),
        (1e-9, 2e-9, False),  # small numbers have small tolerances
        ([1.0, 2.0], [1.0], False),
        (1.0, [1.0], False),
        (float("nan"), 1.0, False),
        (float("inf"), float("inf"), True),
        (1 + 1j, 1 - 1j, False),
        (torch.zeros(0), torch.zeros(0), True),
    ],
    ids=str,
)
def test_what_is_close(found, expected, alike):
    assert close(found, expected) is alike


def wrong(message, found, expected):
    """An assertion, without what the test runner adds to its message."""
    if close(found, expected):
        pytest.fail("they are close")
    raise AssertionError(message)


def test_a_right_answer_says_what_its_check_says(capsys):
    with exercise(1):
        print("exercise 1: right")
    assert capsys.readouterr().out == "exercise 1: right\n"


def test_a_wrong_answer_shows_expected_beside_found(capsys):
    with exercise(2):
        wrong("the second", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]))
    assert capsys.readouterr().out.splitlines() == [
        "exercise 2: not right yet: the second",
        "    expected: [1, 3]",
        "    found:    [1, 2]",
    ]


def test_of_a_large_answer_the_first_wrong_entry_is_shown(capsys):
    answer = torch.eye(4)
    answer[2, 1] = 5
    with exercise(1):
        wrong("a map", answer, torch.eye(4))
    told = capsys.readouterr().out
    assert "expected: a tensor of shape (4, 4)" in told
    assert "first at [2, 1]: expected 0, found 5" in told


def test_what_an_earlier_exercise_compared_is_not_shown(capsys):
    with exercise(1):
        wrong("one", 1, 2)
    capsys.readouterr()
    with exercise(2):
        raise AssertionError("of another kind")
    assert capsys.readouterr().out == "exercise 2: not right yet: of another kind\n"


def fails(error):
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotImplementedError("yours to write"), "open. Write fails and run its cell"),
        (NameError("name 'sun' is not defined"), "raises NameError: name 'sun' is not defined\n"),
        (TypeError("no"), "your answer raises TypeError: no\n    in the line: raise error"),
    ],
    ids=["open", "name", "type"],
)
def test_an_answer_that_raises_stops_nothing(error, said, capsys):
    with exercise(3):
        fails(error)
    assert said in capsys.readouterr().out


def test_what_an_open_exercise_has_not_found_is_waited_for(capsys):
    """The check asks for it, and no line of the answer."""
    with exercise(3):
        assert period > 0  # noqa: F821
    assert capsys.readouterr().out == (
        "exercise 3: open. It goes on with 'period', which an exercise before this one finds: "
        "solve that one first, then run this cell again.\n"
    )


def test_a_stop_is_a_stop():
    with pytest.raises(KeyboardInterrupt), exercise(1):
        raise KeyboardInterrupt
