"""For the exercises of notebooks: checks that say what they expected and what they found.

A check is written as plain assertions. Inside ``exercise`` a check that fails does not stop the
notebook: it says so, and the cells below still run.
"""

import linecache
import math
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import dsf

__all__ = ["close", "exercise"]

RELATIVE = 1e-5
"""Answers in float32 are right answers."""
AT_ZERO = 1e-6
SHOWN = 8
"""Numbers of a tensor that are written out."""
LIBRARIES = (
    __file__,
    str(Path(dsf.__file__).parent),
    str(Path(torch.__file__).parent.parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
    "<@",  # what checks the shapes of arguments
    "<frozen",
    "<string>",  # the functions that dataclasses write
)
"""How the files begin in which no student writes."""
NO_ANSWER = "None. Does the function end with 'return'?"
_DIFFERING: ContextVar[tuple[Any, Any] | None] = ContextVar("differing", default=None)
"""What ``close`` compared last, if it was not close."""


def close(found: Any, expected: Any) -> bool:
    """Whether two answers are equal up to the rounding of float32.

    Numbers, lists and tensors of any number type; sizes have to agree.

    Returns:
        True if every entry is within 1e-5 of the largest expected number (1e-6 where that is
        zero).

    Example:
        >>> import torch
        >>> from exercises import close
        >>> close(torch.tensor([0.1, 0.2], dtype=torch.float32), [0.1, 0.2])
        True
        >>> close([0.1, 0.2], [0.1, 0.3])
        False
    """
    right = _numbers(expected)
    try:
        left = _numbers(found)
    except (TypeError, ValueError, RuntimeError):  # no numbers, or lists of several lengths
        alike = False
    else:
        alike = left.shape == right.shape and bool(_near(left, right).all())
    _DIFFERING.set(None if alike else (found, expected))
    return alike


@contextmanager
def exercise(number: int) -> Iterator[None]:
    """Run the checks of an exercise; what is open or wrong is printed and stops nothing.

    Args:
        number: what the exercise is called in its notebook.

    Example:
        >>> from exercises import close, exercise
        >>> with exercise(1):
        ...     raise NotImplementedError("yours to write")
        exercise 1: open. Write the function above and run its cell and this one again.
        >>> with exercise(2):
        ...     assert close(0.5, 0.25), "half of a half"
        exercise 2: not right yet: half of a half
            expected: 0.25
            found:    0.5
    """
    _DIFFERING.set(None)
    try:
        yield
    except AssertionError as error:
        said = str(error) or "a check fails"
        _tell(number, "\n    ".join([f"not right yet: {said}", *_compared()]))
    except NameError as error:
        if _answering(error):
            _tell(number, _raised(error))
        else:
            _tell(
                number,
                f"open. It goes on with '{error.name}', which a cell above makes: run that one "
                "first, and if it is an exercise solve it, then run this cell again.",
            )
    except Exception as error:
        if isinstance(error, NotImplementedError) and _is_to_be_written(error):
            named = [frame.f_code.co_name for frame, _ in _answering(error)] or [
                "the function above"
            ]
            _tell(number, f"open. Write {named[-1]} and run its cell and this one again.")
        else:
            _tell(number, _raised(error) if _answering(error) else _unusable(error))


def _tell(number: int, words: str) -> None:
    print(f"exercise {number}: {words}")


def _numbers(value: Any) -> torch.Tensor:
    if isinstance(value, (list, tuple)):
        return torch.stack([_numbers(part) for part in value]) if value else torch.zeros(0)
    tensor = torch.as_tensor(value).detach()
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _near(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    size = right.abs().max().item() if right.numel() else 0.0
    return ((left - right).abs() <= (RELATIVE * size or AT_ZERO)) | (left == right)


def _frames(error: Exception) -> list[tuple[FrameType, int]]:
    """The frames that it came through after ours, from that of the check, with their lines."""
    trace = error.__traceback__
    found = []
    while trace is not None:
        found.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return found[1:]


def _in_a_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(LIBRARIES)


def _answering(error: Exception) -> list[tuple[FrameType, int]]:
    """The frames of the answer's functions, none if the check itself raised it."""
    return [
        (frame, line)
        for frame, line in _frames(error)[1:]
        if not frame.f_code.co_name.startswith("<") and not _in_a_library(frame)
    ]


def _is_to_be_written(error: Exception) -> bool:
    """Whether a line of a student says that, and not torch, of a number type it cannot take."""
    frame, number = _frames(error)[-1]
    line = linecache.getline(frame.f_code.co_filename, number)
    return not _in_a_library(frame) and (not line or line.lstrip().startswith("raise "))


def _raised(error: Exception) -> str:
    """What an answer raised, and in which of its lines."""
    return f"your answer raises {type(error).__name__}: {error}{_line(*_answering(error)[-1])}"


def _unusable(error: Exception) -> str:
    """What is said where a check stumbles over the kind of an answer."""
    if "NoneType" in str(error):
        return f"not right yet: your answer gives {NO_ANSWER}"
    if isinstance(error, AttributeError) and error.obj is not None:
        kind = type(error.obj).__name__
        wanted = ", where a tensor is wanted" if hasattr(torch.Tensor, error.name or "") else ""
        article = "an" if kind[0] in "aeiou" else "a"
        return f"not right yet: your answer gives {article} {kind}{wanted}: {error}"
    return (
        "not right yet: the check cannot use what your answer gives. "
        f"{type(error).__name__}: {error}{_line(*_frames(error)[0])}"
    )


def _line(frame: FrameType, number: int) -> str:
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    return f"\n    in the line: {line}" if line else ""


def _compared() -> Iterator[str]:
    """What ``close`` was last asked, where it said no."""
    differing = _DIFFERING.get()
    if differing is None:
        return
    found, expected = differing
    yield f"expected: {_shown(expected)}"
    yield f"found:    {NO_ANSWER if found is None else _shown(found)}"
    yield from _first_difference(found, expected)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple) and len(value) > SHOWN:
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, torch.Tensor) or type(value).__module__ == "numpy":
        if math.prod(value.shape) > SHOWN:
            kind = "a tensor" if isinstance(value, torch.Tensor) else "an array"
            return f"{kind} of shape {tuple(value.shape)}"
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(each) for each in value)}]"
    return repr(value)


def _first_difference(found: Any, expected: Any) -> Iterator[str]:
    """Where two large answers of one shape differ first, whatever they are made of."""
    try:
        left, right = _numbers(found), _numbers(expected)
    except (TypeError, ValueError, RuntimeError):
        return
    if left.shape != right.shape or left.numel() <= SHOWN:
        return
    wrong = (~_near(left, right)).nonzero()
    if len(wrong):
        at = tuple(wrong[0].tolist())
        yield (
            f"first at {list(at)}: expected {_shown(right[at].item())}, "
            f"found {_shown(left[at].item())}"
        )
