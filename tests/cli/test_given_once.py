"""What is given twice and has one value is refused, and what takes several values is not."""

import pytest
import typer

from dsf.cli.entry import app
from dsf.cli.given_once import check_given_once

PARAMS = typer.main.get_command(app).commands["intervene"].params


@pytest.mark.parametrize(
    "words",
    [
        ["--ids", "1", "--ids", "2"],
        ["--ids=1", "--ids=2"],
        ["--target", "--ids", "--target", "1"],
        ["--top", "1", "model", "--top=2"],
    ],
)
def test_twice_is_once_too_often(words):
    name = words[0].partition("=")[0]
    with pytest.raises(ValueError, match=f"{name} is there twice, but has one value"):
        check_given_once(words, PARAMS)


@pytest.mark.parametrize(
    "words",
    [
        ["--edit", "a", "--edit", "b"],
        ["--ids", "1", "--text", "--ids"],  # the text is "--ids"
        ["--json", "--json", "-q", "-q"],
        ["--ids", "1", "--", "--ids", "--ids"],
        ["--ids"],
    ],
)
def test_what_may_be_there_again(words):
    check_given_once(words, PARAMS)
