"""The errors that an inspection raises."""

import math
from collections.abc import Sequence


class InspectionError(ValueError):
    """A model could not be read."""


class ReconstructionError(InspectionError):
    """A layer that was rebuilt from its coefficients does not reproduce the layer itself.

    Attributes:
        formula: the relative difference; NaN where nothing could be compared.
    """

    def __init__(self, message: str, formula: float = math.nan):
        super().__init__(message)
        self.formula = formula


class RoundingWarning(UserWarning):
    """A run lies further from its module in float64 than its number type and length explain."""


class UnreadableError(InspectionError):
    """An adapter reads the class of a module but not this call, which is listed as unsupported."""


class InspectionMemoryError(MemoryError):
    """An inspection takes more memory than there is."""


def in_words(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, without a full stop.

    A mistake of the inspection is called one: it says nothing of the model.
    """
    said = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(". ")
    return f"a mistake of dsf itself, please report it: {said}" if is_fault(error) else said


def is_fault(error: BaseException) -> bool:
    """Whether the inspection raised an error itself: neither torch did nor the code of a model."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    if where is None or not isinstance(error, NameError | AttributeError | TypeError):
        return False  # as of tensors in forms that nobody thought of, which are listed
    code = where.tb_frame.f_code
    # A function that is heard was called by a model: its arguments are not ours.
    return "/dsf/inspection/" in code.co_filename and code.co_name != "hears"


def listed(names: Sequence[str], most: int) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def memory_ran_out(what: str, error: BaseException) -> InspectionMemoryError:
    """The error for ``error``, which a machine raised when its memory ran out."""
    reason = str(error).partition("\n")[0].rstrip(". ")
    return InspectionMemoryError(
        f"{what}: the memory of this machine ran out ({reason}). Inspect fewer layers at a time "
        "(layers=..., on the command line --layers), fewer or shorter samples, or leave the "
        "weights in their files (load_model(..., mapped=True), on the command line --layerwise)."
    )


class NothingCapturedError(InspectionError):
    """No token mixer of the model could be read."""


class NonFiniteWeightsError(InspectionError):
    """A weight is NaN or infinite, so that no statement about its layer would mean anything."""
