"""Options that commands share, and the inputs and settings that are made of them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from math import inf, nan
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from dsf.inspection.choice import parsed

MAX_TEXT_BYTES = 1 << 26
MAX_TOKEN = 2**63 - 1
MAX_ADDED_TOKENS = 8
"""Tokens that a tokenizer adds to those of a text, such as one to begin it."""
MAX_DRAWN = 1 << 24
"""Random tokens: so many take seconds to draw."""
MAX_SHOWN_LETTERS = 80
DEVICES = ("cpu", "cuda", "mps", "xpu")
MAX_DEVICES = 128
"""Of one kind; torch keeps the number of a device in one byte."""


class NumberType(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Choice(list[int | str | slice]):
    """Layers or heads that a person chose."""


class TokenIds(list[int]):
    """Token numbers that a person typed."""


def expected(what: str, got: object, cure: str = "") -> typer.BadParameter:
    """The error of an option, which the parser names."""
    shown = (
        repr(got) if len(repr(got)) <= MAX_SHOWN_LETTERS else f"{repr(got)[:MAX_SHOWN_LETTERS]}…"
    )
    return typer.BadParameter(f"expected {what}, got {shown}.{cure and f' {cure}'}")


def whole(word: str) -> int:
    """Parse plain digits; Python also reads ``1_0`` and ``１０``, which nobody means."""
    if not re.fullmatch(r"[+-]?[0-9]{1,40}", word.strip(), re.ASCII):
        raise ValueError(word)
    return int(word)


def whole_number(help: str, *, least: int | float = -inf, most: int | float = inf) -> Any:
    what = "a whole number" if least == -inf else f"a whole number of at least {least}"
    what += "" if most == inf else f" and at most {most}"
    return _number(whole, what, lambda number: least <= number <= most, help, "N")


def real(word: str) -> float:
    if not word.isascii() or "_" in word:
        raise ValueError(word)
    return float(word)


def real_number(help: str, *, below: float) -> Any:
    what = "a finite number above 0" if below == inf else f"a number above 0 and below {below}"
    return _number(real, what, lambda number: 0 < number < below, help, "X")


Number = int | float


def _number(
    read: Callable[[str], Number],
    what: str,
    suits: Callable[[Number], bool],
    help: str,
    metavar: str,
) -> Any:
    def parse(typed: str) -> Number:
        try:
            number = read(typed)
        except ValueError:
            number = nan
        if not suits(number):
            raise expected(what, typed)
        return number

    return typed_by(parse, help, metavar=metavar)


def layer_choice(typed: str) -> Choice:
    return _choice(typed, 'numbers, ranges such as "0:4", names or patterns')


def head_choice(typed: str) -> Choice:
    form = 'numbers or ranges, such as "2", "0,5" or "0:4"'
    chosen = _choice(typed, form)
    if any(isinstance(each, str) for each in chosen):
        raise expected(form, typed, "Heads are counted from 0.")
    return chosen


def _choice(typed: str, form: str) -> Choice:
    chosen = Choice(parsed(typed))
    if not chosen:
        raise expected(form, typed)
    if any(is_empty(each) for each in chosen):
        raise expected(form, typed, "A range is empty: its end is one more than its last number.")
    return chosen


def is_empty(each: object) -> bool:
    """Whether a range holds nothing, however many there are to choose from."""
    if not isinstance(each, slice):
        return False
    if each.step is not None or each.stop is None:
        return each.step == 0
    start, stop = each.start or 0, each.stop
    return (start < 0) == (stop < 0) and bool(start >= stop)


def token_ids(typed: str) -> TokenIds:
    """Parse ``--ids``: whole numbers with spaces or commas between them."""
    try:
        ids = TokenIds(map(whole, typed.replace(",", " ").split()))
    except ValueError:
        ids = TokenIds([-1])
    if any(not 0 <= each <= MAX_TOKEN for each in ids):
        raise expected("whole numbers from 0 with spaces or commas between them", typed)
    return ids


def device_name(typed: str) -> str:
    """Parse ``--device``: one that torch may have, whether it is here or not."""
    kind, sign, number = typed.partition(":")
    is_number = number.isascii() and number.isdecimal() and len(number) < 4
    if kind not in DEVICES or (sign and not (is_number and int(number) < MAX_DEVICES)):
        raise expected(f"one of {', '.join(DEVICES)}, or one by its number such as cuda:0", typed)
    return typed


def place(typed: str) -> Path:
    if not typed:
        raise expected("a name, or '.' for the folder that this runs in", typed)
    if typed.startswith("~"):
        raise expected(
            "a path", typed, "The shell leaves '~' as it is in quotes and behind '='. Write your "
            f"home folder out, or './{typed}' for a name that begins so.",
        )  # fmt: skip
    return Path(typed)


def check_known(option: str, words: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError, with the nearest names or all, for a word that is not known."""
    names = tuple(known)
    for word in words:
        if word not in names:
            near = get_close_matches(word, names, n=2)
            cure = f"Did you mean {' or '.join(near)}?" if near else ""
            raise ValueError(
                f"{option}: expected one of {', '.join(names)}, got {word!r}. {cure}".rstrip()
            )


def exclude_each_other(**given: object) -> None:
    """Raise ValueError where more than one of these options is given."""
    options = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(options) > 1:
        raise ValueError(
            f"{options[0]} and {options[1]} exclude each other: leave one of them out."
        )


def typed_by(parser: Callable[[str], Any], help: str, *, metavar: str = "TEXT") -> Any:
    def parse(typed: Any) -> Any:  # newer releases of typer pass defaults, too
        return parser(typed) if isinstance(typed, str) else typed

    return typer.Option(help=help, parser=parse, metavar=metavar)


def option_of(name: str, kind: Any, help: str) -> Any:
    """The option of a parameter that has a help text: its type says how it is read."""
    kinds = {kind, *get_args(kind)}
    if Path in kinds:
        return typed_by(place, help, metavar="PATH")
    if TokenIds in kinds:
        return typed_by(token_ids, help)
    flags = [f"--{name.replace('_', '-')}"] if kind is bool else []  # and none that denies it
    return typer.Option(*flags, help=help)


Checkpoint = Annotated[
    str, typer.Argument(help="Folder of a checkpoint, a GGUF file, or a hub id owner/name.")
]
Top = Annotated[int, whole_number("How many rows of each table are shown.", least=1)]
Open = Annotated[bool, typer.Option("--open", help="Show the page in a browser.")]
Layers = Annotated[
    Choice | None,
    typed_by(layer_choice, 'Which layers: "0:4", "2,5", a name or a pattern such as "*.3.*".'),
]
Heads = Annotated[
    Choice | None,
    typed_by(head_choice, 'Which heads, or channels, of each layer: "2" or "0:4".'),
]
Tolerance = Annotated[
    float | None,
    real_number("Largest difference of a rebuilt layer from its module in float64.", below=1.0),
]
Layerwise = Annotated[bool, "Leave the weights in their files: for models that do not fit."]


@dataclass(frozen=True, kw_only=True)
class Loading:
    dtype: Annotated[
        NumberType | None, "Number type of the weights; by default the one they were saved in."
    ] = None
    revision: Annotated[str | None, "Branch, tag or commit of a hub model."] = None
    offline: Annotated[bool, "Make no network connection."] = False
    device: Annotated[
        str | None,
        typed_by(device_name, 'Where the model runs: "cpu", "cuda", "cuda:1"; by default the CPU.'),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Inspecting(Loading):
    layers: Layers = None
    heads: Heads = None
    exact: Annotated[bool, "Run the model in float64."] = False
    memory: Annotated[
        float | None,
        real_number(
            "GB that the inspection may take beyond the model; by default what there is.",
            below=inf,
        ),
    ] = None
    layerwise: Layerwise = False
    tolerance: Tolerance = None
    strict: Annotated[bool, "Stop at the first layer that is not reproduced."] = False

    def __post_init__(self) -> None:
        for name in ("exact", "dtype", "device"):
            exclude_each_other(layerwise=self.layerwise, **{name: getattr(self, name)})


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The input of a model: a text, token numbers, a file of text, or a random sequence."""

    text: Annotated[str | None, "Text for the model's own tokenizer."] = None
    ids: Annotated[TokenIds | None, 'Token numbers, such as "1 2 3"; for any model.'] = None
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A UTF-8 file to take the text from."),
    ] = None
    repeat: int | None = None

    @property
    def is_missing(self) -> bool:
        return (self.text, self.ids, self.file, self.repeat) == (None,) * 4

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The text that a tokenizer reads, if there is one."""
        if self.file is not None:
            return (read_text("--file", self.file),)
        return () if self.text is None else (self.text,)

    def check_position(self, position: int) -> None:
        """Raise ValueError if the input has no token at ``position``.

        Of a text that no tokenizer has read yet, the number of its bytes is a bound.
        """
        check_position(position, self.length)
        if self.length is None and self.texts:
            most = len(self.texts[0].encode(errors="replace")) + MAX_ADDED_TOKENS
            if not -most <= position < most:
                raise ValueError(
                    f"--position: expected the number of a token of the text, of which there are "
                    f"fewer than {most}, got {position}."
                )

    @property
    def length(self) -> int | None:
        if self.repeat is not None:
            return 2 * self.repeat
        return None if self.ids is None else len(self.ids)

    def check(self) -> None:
        """Check what can be known of the input without a model."""
        several = (self.text, self.ids, self.file, self.repeat)
        count = sum(each is not None for each in several)
        if count != 1:
            raise ValueError(
                f"expected exactly one of --text, --ids and --file, got {count}. Give one, such as "
                "--ids '1 2 3'."
            )
        for text in self.texts:
            if not text:
                raise ValueError("the text is empty. Give at least one token.")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError(
                    "--text: expected UTF-8, got other bytes. Put the text into a UTF-8 file, and "
                    "give that as --file."
                ) from None


@dataclass(frozen=True, kw_only=True)
class OtherInput:
    other_text: Annotated[str | None, "The text of a second run."] = None
    other_ids: Annotated[TokenIds | None, "The token numbers of a second run."] = None

    def prompt(self) -> Prompt | None:
        given = Prompt(text=self.other_text, ids=self.other_ids)
        if given.is_missing:
            return None
        exclude_each_other(
            other_text=self.other_text is not None, other_ids=self.other_ids is not None
        )
        given.check()
        return given


Target = tuple[int | str, int | str | None]
"""A token of the output, and the one that it is compared with."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The logit that is asked about, and the layers and heads that are looked at for it."""

    target: Annotated[
        str | None,
        'A token whose logit is asked about: its text, such as " Paris" with its space, '
        "or with --ids its number.",
    ] = None
    against: Annotated[str | None, "A second token, whose logit is subtracted."] = None
    position: Annotated[
        int, whole_number("At which token the logits are read, from 0; -1 is the last one.")
    ] = -1
    layers: Layers = None
    heads: Heads = None

    def tokens(self, prompt: Prompt) -> Target | None:
        """The two tokens: texts, or numbers where the input is such; None without a target."""
        if self.target is None:
            if self.against is not None:
                raise ValueError("--against: expected --target as well, got none. Give both.")
            return None
        wanted = _token("--target", self.target, prompt)
        if self.against is None:
            return wanted, None
        against = _token("--against", self.against, prompt)
        if wanted == against:
            raise ValueError(
                f"--target and --against: expected two tokens, got {self.target!r} twice. Give the "
                "token that the model might have said instead as --against."
            )
        return wanted, against


def _token(option: str, word: str, prompt: Prompt) -> int | str:
    if prompt.ids is None:
        return word
    try:
        return whole(word)
    except ValueError:
        raise ValueError(
            f"{option}: expected the number of a token, since the input is --ids, got {word!r}. "
            "Give the input as --text to name tokens by their text."
        ) from None


def target_in_words(tokens: Target) -> str:
    wanted, against = tokens
    if against is None:
        return f"the logit of {wanted!r}"
    return f"the logit of {wanted!r} less that of {against!r}"


def check_position(position: int, steps: int | None) -> None:
    if steps is not None and not -steps <= position < steps:
        raise ValueError(
            f"--position: expected a number from 0 to {steps - 1}, or from -1 to -{steps} counted "
            f"from the end, got {position}: the input has {steps} tokens."
        )


def fingerprint(numbers: list[int]) -> str:
    """The name of an input of token numbers in the evidence of a run."""
    return f"sha256 {sha256(str([list(numbers)]).encode()).hexdigest()}"


def read_text(option: str, path: Path) -> str:
    where = f"{option} {str(path)!r}: expected a file of UTF-8 text"
    if path.exists() and not path.is_file():
        raise ValueError(f"{where}, got no regular file. Copy the text into one.")
    if (size := path.stat().st_size) > MAX_TEXT_BYTES:
        raise ValueError(f"{where}, got {size} bytes, more than {MAX_TEXT_BYTES}. Give a part.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        raise ValueError(f"{where}, got byte {byte} at {error.start}. Convert it first.") from None
    if "\0" in text:
        raise ValueError(f"{where}, got bytes of zero. Give a text file.")
    return text
