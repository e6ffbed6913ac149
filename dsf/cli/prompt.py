"""What a person types for a model's input and for a token of its output."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Prompt:
    """The input of a model: one of text, token numbers, a file of text, or a random sequence.

    Attributes:
        repeat: a random sequence of so many tokens, and the same once more.
    """

    text: str | None
    ids: str | None
    file: Path | None
    repeat: int | None = None

    def __post_init__(self) -> None:
        several = (self.text, self.ids, self.file, self.repeat)
        given = [part for part in several if part is not None]
        if len(given) != 1:
            raise ValueError(
                f"needs one input, but got {len(given)}. Give exactly one of --text, --ids and "
                f"--file, such as --ids '1 2 3'."
            )
        if self.repeat is not None and self.repeat < 2:
            raise ValueError(
                f"--random-repeat is {self.repeat}; it is a number of tokens, at least 2."
            )

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text that a tokenizer is to read, if there is one."""
        if self.file is not None:
            return (self.file.read_text(encoding="utf-8"),)
        return () if self.text is None else (self.text,)

    def check(self) -> None:
        """What can be told of the input without a model.

        Raises:
            ValueError: if the token numbers are none.
            OSError: if the file cannot be read.
        """
        if self.ids is not None:
            parsed(self.ids)
        if self.file is not None and not self.file.is_file():
            raise FileNotFoundError(f"--file {str(self.file)!r}: No such file.")


def parsed(ids: str) -> list[int]:
    """Token numbers with spaces or commas between them.

    Raises:
        ValueError: if something else is there.
    """
    try:
        return [int(word) for word in ids.replace(",", " ").split()]
    except ValueError:
        raise ValueError(
            f"token numbers must be whole numbers with spaces or commas between them, but they are "
            f"{ids!r}."
        ) from None


def target(option: str, word: str, *, by_number: bool) -> int | str:
    """A token of the output: its text, or its number where the input is given by numbers.

    Raises:
        ValueError: if it must be a number and is none.
    """
    if not by_number:
        return word
    if not word.strip().isdecimal():
        raise ValueError(
            f"{option} is {word!r}, but with --ids it must be the number of a token, such as "
            f"{option} 7. Give the input as --text to name tokens by their text."
        )
    return int(word)
