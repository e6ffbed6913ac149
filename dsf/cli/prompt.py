"""What a person types for a model's input and for a token of its output."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from dsf.cli.typed_numbers import is_count, whole

LARGEST_TEXT = 1 << 26
"""Bytes: far more than any model reads at once."""
LARGEST_NUMBER = 2**63
MOST_DRAWN = 1 << 24
"""Random tokens: so many take seconds to draw; whether a model can be run on them is told later."""
SHOWN = 80


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
        if self.repeat is not None:
            check_drawn("--random-repeat", str(self.repeat), self.repeat)

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text that a tokenizer is to read, if there is one."""
        if self.file is not None:
            return (read_text("--file", self.file),)
        return () if self.text is None else (self.text,)

    @cached_property
    def numbers(self) -> list[int] | None:
        """The token numbers, where they were typed."""
        return None if self.ids is None else parsed(self.ids)

    @property
    def length(self) -> int | None:
        """How many tokens it has, where that is known without a tokenizer."""
        if self.repeat is not None:
            return 2 * self.repeat
        return None if self.numbers is None else len(self.numbers)

    def check(self) -> None:
        """What can be told of the input without a model.

        Raises:
            ValueError: if the token numbers are none, or the text is none.
            OSError: if the file cannot be read.
        """
        for number in self.numbers or ():
            if not 0 <= number < LARGEST_NUMBER:
                raise ValueError(f"--ids has {number}; the numbers of tokens are counted from 0.")
        for text in self.texts:
            if not text:
                raise ValueError("the text is empty, and a model reads at least one token.")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    "--text holds bytes that are no UTF-8. Put the text into a UTF-8 file, and "
                    "give that as --file."
                ) from None


def read_text(option: str, path: Path) -> str:
    """The text in a UTF-8 file that a person named.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it holds no text, or more than any model reads.
    """
    where = f"{option} {str(path)!r}"
    if str(path) == "-":
        raise ValueError(f"{where}: standard input is not read. Put the text into a file.")
    if path.is_dir():
        raise IsADirectoryError(f"{where}: is a folder. Give the file in it that holds the text.")
    if not path.exists():
        raise FileNotFoundError(f"{where}: No such file.")
    if not path.is_file():
        raise ValueError(f"{where}: is no regular file. Copy the text into one.")
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise ValueError(
            f"{where}: has {size} bytes, where at most {LARGEST_TEXT} are read. Give a part of it."
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise ValueError(
            f"{where}: is no UTF-8 text, since byte {error.start} is {byte}. Give a text file, or "
            "convert it to UTF-8 first."
        ) from None
    if "\0" in text:
        raise ValueError(f"{where}: is no text, since it holds bytes of zero. Give a text file.")
    return text


def parsed(ids: str) -> list[int]:
    """Token numbers with spaces or commas between them.

    Raises:
        ValueError: if something else is there.
    """
    try:
        return [whole(word) for word in ids.replace(",", " ").split()]
    except ValueError:
        cut = ids if len(ids) <= SHOWN else f"{ids[:SHOWN]}…"
        raise ValueError(
            f"token numbers must be whole numbers with spaces or commas between them, but they are "
            f"{cut!r}."
        ) from None


def check_drawn(option: str, word: str, tokens: int) -> None:
    """Raises ValueError for more random tokens than are drawn."""
    if tokens > MOST_DRAWN:
        raise ValueError(
            f"{option} has {word!r}, but at most {MOST_DRAWN} random tokens are drawn."
        )


def check_position(position: int, steps: int | None) -> None:
    """Raises ValueError if an input of so many tokens has none at ``position``."""
    if steps is not None and not -steps <= position < steps:
        raise ValueError(
            f"--position is {position}, but the input has {steps} tokens: give a number from "
            f"0 to {steps - 1}, or from -1 to -{steps} counted from the end."
        )


def fingerprint(numbers: list[int]) -> str:
    """How an input of token numbers is named in the evidence of a run."""
    return f"sha256 {sha256(str([numbers]).encode()).hexdigest()}"


def targets(
    wanted: str, against: str | None, *, by_number: bool
) -> tuple[int | str, int | str | None]:
    """A token of the output, and the one that it is compared with.

    Raises:
        ValueError: if one must be a number and is none, or both are the same.
    """
    one = target("--target", wanted, by_number=by_number)
    if against is None:
        return one, None
    other = target("--against", against, by_number=by_number)
    if one == other:
        raise ValueError(
            f"--target and --against are both {wanted!r}, and a token's logit less itself is 0. "
            "Give the token that the model might have said instead as --against."
        )
    return one, other


def target(option: str, word: str, *, by_number: bool) -> int | str:
    """A token of the output: its text, or its number where the input is given by numbers.

    Raises:
        ValueError: if it must be a number and is none.
    """
    if not by_number:
        return word
    if not is_count(word.strip()):
        raise ValueError(
            f"{option} is {word!r}, but with --ids it must be the number of a token, such as "
            f"{option} 7. Give the input as --text to name tokens by their text."
        )
    return int(word)
