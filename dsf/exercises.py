"""For the exercises of notebooks: checks that say what they expected and what they found.

A check is written as plain assertions. Inside ``exercise`` a check that fails does not stop the
notebook: it says so, and the cells below still run.
"""

import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

__all__ = ["close", "exercise"]

RELATIVE = 1e-5
"""Answers in float32 are right answers."""
AT_ZERO = 1e-6
SHOWN = 8
"""Numbers of a tensor that are written out."""
_DIFFERING: ContextVar[tuple[Any, Any] | None] = ContextVar("differing", default=None)
"""What ``close`` compared last, if it was not close."""


def close(found: Any, expected: Any) -> bool:
    """Whether two answers are equal up to the rounding of float32.

    Numbers, lists and tensors of any number type; sizes have to agree.

    Returns:
        True if every entry lies within 1e-5 of the largest expected number (1e-6 where that is
        zero).

    Example:
        >>> import torch
        >>> from dsf.exercises import close
        >>> close(torch.tensor([0.1, 0.2], dtype=torch.float32), [0.1, 0.2])
        True
        >>> close([0.1, 0.2], [0.1, 0.3])
        False
    """
    left, right = _numbers(found), _numbers(expected)
    alike = left.shape == right.shape and bool(_near(left, right).all())
    _DIFFERING.set(None if alike else (found, expected))
    return alike


@contextmanager
def exercise(number: int) -> Iterator[None]:
    """Run the checks of an exercise; what is open or wrong is printed and stops nothing.

    Args:
        number: what the exercise is called in its notebook.

    Example:
        >>> from dsf.exercises import close, exercise
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
    except NotImplementedError as error:
        open = (_functions(error) or ["the function above"])[-1]
        _tell(number, f"open. Write {open} and run its cell and this one again.")
    except AssertionError as error:
        said = str(error) or "a check fails"
        _tell(number, "\n    ".join([f"not right yet: {said}", *_compared()]))
    except NameError as error:
        if _functions(error):
            _tell(number, f"your answer raises NameError: {error}{_place(error)}")
        else:
            _tell(
                number,
                f"open. It goes on with '{error.name}', which an exercise before this one finds: "
                "solve that one first, then run this cell again.",
            )
    except Exception as error:
        _tell(number, f"your answer raises {type(error).__name__}: {error}{_place(error)}")


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


def _functions(error: Exception) -> list[str]:
    """The functions that it came through, from the first that the check called."""
    trace = error.__traceback__
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    return [name for name in frames[2:] if not name.startswith("<")]  # after ours and the check


def _place(error: Exception) -> str:
    """The line of the answer that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    line = linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()
    return f"\n    in the line: {line}" if line else ""


def _compared() -> Iterator[str]:
    """What ``close`` was last asked, where it said no."""
    differing = _DIFFERING.get()
    if differing is None:
        return
    found, expected = differing
    yield f"expected: {_shown(expected)}"
    yield f"found:    {_shown(found)}"
    yield from _first_difference(found, expected)


def _shown(value: Any) -> str:
    if isinstance(value, torch.Tensor) and value.numel() > SHOWN:
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"[{', '.join(_shown(each) for each in value)}]"
    return repr(value)


def _first_difference(found: Any, expected: Any) -> Iterator[str]:
    tensors = isinstance(found, torch.Tensor) and isinstance(expected, torch.Tensor)
    if not tensors or found.shape != expected.shape or found.numel() <= SHOWN:
        return
    wrong = (~_near(_numbers(found), _numbers(expected))).nonzero()
    if len(wrong):
        at = tuple(wrong[0].tolist())
        yield (
            f"first at {list(at)}: expected {_shown(expected[at].item())}, "
            f"found {_shown(found[at].item())}"
        )
