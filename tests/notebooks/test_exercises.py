"""Checks of exercises: what is close, and what is said about open and wrong answers."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import dsf
from notebooks import exercises
from notebooks.exercises import close, exercise
from tests import type_checks


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


@dataclass(frozen=True)
class Point:
    """Some of its functions stand in no file."""

    x: int


def gives(answer):
    return answer


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (lambda: gives(None).shape, "your answer gives None. Does the function end with 'return'?"),
        (lambda: gives(None)[0], "your answer gives None. Does the function end with 'return'?"),
        (lambda: torch.as_tensor(gives(None)), "your answer gives None. Does the function"),
        (
            lambda: gives([1.0]).shape,
            "not right yet: your answer gives a list, where a tensor is wanted: "
            "'list' object has no attribute 'shape'\n",
        ),
        (lambda: gives("3").diagonal(), "your answer gives a str, where a tensor is wanted: "),
        (lambda: gives(3).diagonal(), "your answer gives an int, where a tensor is wanted: "),
        (lambda: gives("3").system(), "your answer gives a str: 'str' object has no attribute"),
        (
            lambda: gives(torch.zeros(2))[3],
            "the check cannot use what your answer gives. IndexError: index 3 is out of bounds",
        ),
        (
            lambda: setattr(gives(Point(1)), "x", 2),
            "the check cannot use what your answer gives. FrozenInstanceError: cannot assign",
        ),
    ],
    ids=[
        "attribute",
        "item",
        "inside torch",
        "list",
        "word",
        "number",
        "no mixer",
        "short",
        "inside a dataclass",
    ],
)
def test_what_a_check_cannot_use_is_no_error_of_the_answer(check, said, capsys):
    """Neither is a line of the library shown, which a student never wrote."""
    with exercise(1):
        check()
    told = capsys.readouterr().out
    assert said in told
    assert "your answer raises" not in told


def test_an_error_deep_in_a_library_shows_the_line_of_the_answer(capsys, monkeypatch):
    # Outside these tests no check of types stands between an answer and the library.
    libraries = (*exercises.LIBRARIES, type_checks.__file__)
    monkeypatch.setattr(exercises, "LIBRARIES", libraries)

    def answer():
        return torch.zeros(2) @ torch.zeros(3)  # a mistake

    with exercise(1):
        answer()
    told = capsys.readouterr().out
    assert told.startswith("exercise 1: your answer raises RuntimeError: ")
    assert told.endswith("in the line: return torch.zeros(2) @ torch.zeros(3)  # a mistake\n")

    def deeper():
        return close(sum, 3) or dsf.attention_map(3)  # another

    with exercise(1):
        deeper()
    assert capsys.readouterr().out.endswith("dsf.attention_map(3)  # another\n")


def test_what_torch_cannot_do_is_no_open_exercise(capsys):
    """torch, too, raises NotImplementedError, for number types that it cannot compute with."""

    def answer():
        return torch.linalg.svdvals(torch.ones(2, 2, dtype=torch.int32))

    with exercise(1):
        answer()
    with exercise(2):
        torch.nn.Module()(gives(3))
    with exercise(2):
        torch.nn.functional.softplus(gives(torch.ones(2, dtype=torch.int32)))
    told = capsys.readouterr().out
    assert "open" not in told
    assert "exercise 1: your answer raises " in told
    assert (
        told.count("exercise 2: not right yet: the check cannot use what your answer gives.") == 2
    )


@pytest.mark.parametrize("found", [None, "three", ..., [1, None], [[1], [2, 3]]], ids=str)
def test_what_is_no_number_is_not_close(found, capsys):
    assert not close(found, 3)
    with exercise(1):
        wrong("three", found, 3)
    told = capsys.readouterr().out
    assert "not right yet: three\n    expected: 3\n    found:    " in told
    assert ("None. Does the function end with 'return'?" in told) == (found is None)


def test_a_long_list_is_not_written_out(capsys):
    with exercise(1):
        wrong("long", list(range(100)), torch.zeros(100))
    assert "found:    a list of 100" in capsys.readouterr().out
    with exercise(1):
        wrong("array", np.ones((30, 3)), torch.zeros(30, 3))
    told = capsys.readouterr().out
    assert "found:    an array of shape (30, 3)" in told
    assert "first at [0, 0]: expected 0, found 1" in told


def test_numbers_of_numpy_are_shown_as_numbers(capsys):
    with exercise(1):
        wrong("half", np.float32(0.25), 0.5)
    assert "found:    0.25\n" in capsys.readouterr().out


def test_what_an_open_exercise_has_not_found_is_waited_for(capsys):
    """The check asks for it, and no line of the answer."""
    with exercise(3):
        assert period > 0  # noqa: F821
    assert capsys.readouterr().out == (
        "exercise 3: open. It goes on with 'period', which a cell above makes: run that one first, "
        "and if it is an exercise solve it, then run this cell again.\n"
    )


def test_a_stop_is_a_stop():
    with pytest.raises(KeyboardInterrupt), exercise(1):
        raise KeyboardInterrupt
