"""What a run depends on, and float64: its guard against casts, and the error of each dtype."""

import math
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.capture.containers import mapped
from dsf.inspection.capture.modes import Functions
from dsf.runtime.distribution import VERSION
from dsf.runtime.number_types import has_double
from dsf.runtime.threads import WhileAny

TOLERANCE = {
    torch.float64: 1e-5,  # outside CastGuard, a float64 model may round to float32 inside
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


# Measured on every family at its published width, up to 2,048 tokens: the worst run, of a Mamba-2
# of 24 layers on 512 tokens, lay within three quarters of this. What is rounded to the number type
# does not add up along the sequence; sums inside of the modules, which are float32 whatever the
# type, do.
OUTPUTS, SUMS = 8, 48


def expected_rounding(dtype: torch.dtype, steps: int) -> float:
    """How far a run in ``dtype`` may lie from the same module in float64, relative."""
    if dtype not in TOLERANCE:
        return math.inf
    single = torch.finfo(torch.float32).eps
    return OUTPUTS * torch.finfo(dtype).eps + SUMS * single * math.sqrt(steps)


class CastGuard(Functions):
    """While active, a torch function that asks for a narrower type gets float64 or complex128.

    ``model.double()`` leaves ``.float()``, ``.to(torch.bfloat16)`` and ``softmax(dtype=...)`` in
    the model's code; each of them would round intermediate results of a float64 model.
    """

    def hears(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        func = torch.Tensor.double if func in _CASTS else func
        named = {name: _wide(part) for name, part in kwargs.items()}
        return func(*map(_wide, args), **named)


_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)
_WIDE = dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64)
_WIDE |= dict.fromkeys((torch.complex64, torch.complex32), torch.complex128)


def _wide(part: Any) -> Any:
    return _WIDE.get(part, part) if isinstance(part, torch.dtype) else part


def guarded(model: nn.Module) -> AbstractContextManager[None]:
    """Run a float64 model in float64 throughout, including the tensors that it creates."""
    # Models of another dtype run unchanged.
    return in_double() if dtype_of(model) is torch.float64 else nullcontext()


@contextmanager
def _double_by_default() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


_DOUBLED = WhileAny(_double_by_default)  # the default dtype is one for all threads


@contextmanager
def in_double() -> Iterator[None]:
    with _DOUBLED, CastGuard():
        yield


def home(device: torch.device) -> torch.device:
    """Where a layer of ``device`` is rebuilt: there, or on the processor if it has no float64."""
    return device if has_double(device) else torch.device("cpu")


_READS_IN: ContextVar[torch.dtype] = ContextVar("reads_in", default=torch.float64)


@contextmanager
def reading_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside the ``with`` block layers are read in ``dtype``: faster, and not to be verified."""
    before = _READS_IN.set(dtype)
    try:
        yield
    finally:
        _READS_IN.reset(before)


def in_float64(value: Any) -> Any:
    """Floating tensors in float64 (or what ``reading_in`` says) and detached."""

    # Also in tuples, lists, dictionaries, caches and packed sequences; everything else as it is.
    # From a device without float64 to the processor. What is one tensor in several places stays
    # one.
    @cache
    def converted(part: Tensor) -> Tensor:
        near = part.detach().to(home(part.device))
        return near.to(_READS_IN.get()) if near.is_floating_point() else near

    value = dict(value) if isinstance(value, dict) else value
    return mapped(value, converted, lambda part: converted(part).clone())  # modules write into it


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype of the model's first floating-point parameter or buffer; else torch's default."""
    for part in chain(model.parameters(), model.buffers()):
        if part.is_floating_point():
            return part.dtype
    return torch.get_default_dtype()


def environment(model: nn.Module) -> dict[str, str]:
    """The facts that another machine needs to repeat the run of ``model``."""
    facts = {
        "dsf": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": release("transformers"),
        "dtype": str(dtype_of(model)).removeprefix("torch."),
        "device": str(next((part.device for part in model.parameters()), "cpu")),
    }
    return {name: fact for name, fact in facts.items() if fact}


@cache
def release(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def class_path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def described(module: nn.Module) -> str:
    """``package.module.Class, package 1.2``: how error messages name ``module``."""
    kind = class_path(type(module))
    package = kind.partition(".")[0]
    return f"{kind}, {package} {release(package)}" if release(package) else kind
