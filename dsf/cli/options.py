"""How a checkpoint is loaded and looked at, as a person types it; checked before torch is there."""

from dataclasses import dataclass
from math import inf

from dsf.cli.known_names import NUMBER_TYPES, check_known
from dsf.cli.prompt import check_drawn
from dsf.cli.typed_numbers import is_count
from dsf.inspection.choice import parsed

DEVICES = ("cpu", "cuda", "mps", "xpu")
MOST_DEVICES = 128
"""Of one kind; torch keeps the number of a device in one byte."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a checkpoint is loaded and looked at.

    Attributes:
        exact: run the model in float64.
        dtype: the number type of the weights; None for the one they were saved for.
        layers, heads: which to look at, as a person types them; None for all.
        tolerance, strict: as ``dsf.inspect`` takes them.
        layerwise: load the weights block by block.
        memory: GB that the inspection may take beyond the model; None for what there is.
        offline: make no network connection.
        revision: branch, tag or commit of a hub id.

    Raises:
        ValueError: if one of them cannot be meant, or two exclude each other.
    """

    exact: bool = False
    dtype: str | None = None
    layers: str | None = None
    heads: str | None = None
    tolerance: float | None = None
    strict: bool = False
    layerwise: bool = False
    memory: float | None = None
    offline: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in NUMBER_TYPES:
            raise ValueError(
                f"--dtype is {self.dtype!r}; it must be one of {', '.join(NUMBER_TYPES)}, or left "
                "out for the type that the weights were saved for."
            )
        check_tolerance(self.tolerance)
        if self.memory is not None and not 0 < self.memory < inf:
            raise ValueError(
                f"--memory is {self.memory}; it must be more than 0 GB and finite. Leave it out "
                "for what there is."
            )
        beside = [name for name in ("exact", "dtype", "revision") if getattr(self, name)]
        if self.layerwise and beside:
            raise ValueError(
                f"--layerwise and --{beside[0]} exclude each other: leave one of them out."
            )
        check_layers(self.layers)
        check_heads(self.heads)


def check_tolerance(tolerance: float | None) -> None:
    """Raises ValueError unless it is a relative difference."""
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(
            f"--tolerance is {tolerance}; it is a relative difference between 0 and 1."
        )


def check_layers(typed: str | None) -> None:
    """Raises ValueError if ``typed`` chooses no layer, whatever the model is."""
    if typed is not None:
        _check_choice("--layers", typed, 'numbers, ranges such as "0:4", names or patterns')


def check_heads(typed: str | None) -> None:
    """Raises ValueError if ``typed`` chooses no head, whatever the model is."""
    if typed is None:
        return
    form = 'numbers or ranges, such as "2", "0,5" or "0:4"'
    _check_choice("--heads", typed, form)
    for each in parsed(typed):
        if isinstance(each, str):
            raise ValueError(f"--heads has {each!r}; it must be {form}. Heads are counted from 0.")


def check_number_types(typed: str) -> None:
    """Raises ValueError if one of the names with commas between them is no number type."""
    check_known("--dtypes", (part.strip() for part in typed.split(",")), NUMBER_TYPES)


def counted(text: str) -> list[int]:
    """Numbers of tokens as a person types them: ``512,4k``.

    Raises:
        ValueError: if one is no such number.
    """
    found = []
    for word in (part.strip().lower() for part in text.split(",")):
        number = word.removesuffix("k")
        if not is_count(number) or int(number) < 1:
            raise ValueError(
                f"--lengths has {word!r}; it must be whole numbers of tokens such as 512,4k."
            )
        length = int(number) * (1024 if word.endswith("k") else 1)
        check_drawn("--lengths", word, length)
        found.append(length)
    return found


def check_device(typed: str | None) -> None:
    """Raises ValueError unless it is the name of a device, whether it is there or not."""
    if typed is None:
        return
    kind, sign, number = typed.partition(":")
    if kind not in DEVICES or (sign and not _is_place(number)):
        raise ValueError(
            f"--device is {typed!r}; it must be one of {', '.join(DEVICES)}, or one by its number "
            "such as cuda:0."
        )


def _is_place(number: str) -> bool:
    """Whether torch has a device of this number."""
    return is_count(number) and int(number) < MOST_DEVICES


def _check_choice(option: str, typed: str, form: str) -> None:
    chosen = parsed(typed)
    if not chosen:
        raise ValueError(f"{option} is {typed!r}, which chooses nothing; it must be {form}.")
    for each in chosen:
        if isinstance(each, slice) and (each.step == 0 or _is_empty(each)):
            raise ValueError(
                f"{option} is {typed!r}, of which a range is empty: the second number is one more "
                "than the last that is wanted, as in 0:4 for the first four."
            )


def _is_empty(each: slice) -> bool:
    """Whether a range holds nothing, however many there are to choose from."""
    if each.step is not None or each.stop is None:
        return False
    start, stop = each.start or 0, each.stop
    return (start < 0) == (stop < 0) and start >= stop
