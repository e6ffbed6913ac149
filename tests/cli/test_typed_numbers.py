"""Numbers are read as they are meant: ``1_0`` is a slip, though Python reads ten."""

import pytest
import typer

from dsf.cli.typed_numbers import is_count, real, real_option, whole, whole_option

SLIPS = ("1_0", "１", "٣", "²", "0x1", "1e", "", " ", "--1", "1 2", "9" * 5000)


@pytest.mark.parametrize(("word", "number"), [("0", 0), ("-3", -3), ("+7", 7), (" 12 ", 12)])
def test_whole_numbers(word, number):
    assert whole(word) == number


@pytest.mark.parametrize("word", [*SLIPS, "1.0", "nan"])
def test_what_is_no_whole_number(word):
    with pytest.raises(ValueError, match="is no whole number"):
        whole(word)


@pytest.mark.parametrize(
    ("word", "number"),
    [("1", 1.0), ("-.5", -0.5), ("2.", 2.0), ("1e-3", 0.001), ("inf", float("inf"))],
)
def test_numbers(word, number):
    assert real(word) == number


@pytest.mark.parametrize("word", [*SLIPS, ".", "e3", "1.5.2"])
def test_what_is_no_number(word):
    with pytest.raises(ValueError, match="is no number"):
        real(word)


def test_counts_have_no_sign():
    assert is_count("12")
    assert not any(map(is_count, ("-1", "+1", "1_0", "٣", "")))


@pytest.mark.parametrize(
    ("option", "words"),
    [(whole_option(), "a whole number, but 'x'"), (real_option(), "0.5, but 'x'")],
)
def test_an_option_says_what_came(option, words):
    with pytest.raises(typer.BadParameter, match=words):
        option.parser("x")


def test_layers_and_heads_are_numbers_in_plain_digits_too():
    from dsf.inspection.choice import parsed

    assert parsed("1_0,٣") == ["1_0", "٣"]
    assert parsed("9" * 5000) == ["9" * 5000]  # Python refuses to read it as a number
