"""An accelerator that computes on the processor, so that mixed devices and silent copies are seen.

Its tensors say that they lie on ``emulated:0``, ``emulated:1`` or ``emulated:2`` and hold a tensor
of the processor, where every operation on them takes place. As on a graphics card, tensors of other
devices are refused, apart from numbers without axes, and what is copied to or from it is counted.
``emulated:2`` has no double precision, as Apple's has not. The kind of device is the one that torch
leaves to others, so that nothing else in torch mistakes it for the processor.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

KIND = "emulated"
SINGLE_ONLY = 2
DOUBLES = (torch.float64, torch.complex128)
aten = torch.ops.aten


@dataclass
class Traffic:
    """What went to and from the device.

    Attributes:
        sent, fetched: sizes in bytes of the tensors that were copied to one of the devices, also
            from another one, and back to the processor.
        asked: how many single numbers the processor waited for.
    """

    sent: list[int] = field(default_factory=list)
    fetched: list[int] = field(default_factory=list)
    asked: int = 0


_counting: list[Traffic] = []


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Counts the copies inside the ``with`` block."""
    counted = Traffic()
    _counting.append(counted)
    try:
        yield counted
    finally:
        _counting.remove(counted)


class EmulatedTensor(Tensor):
    """A tensor on the emulated device; ``_held`` is what it holds, on the processor."""

    _held: Tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, index: int) -> "EmulatedTensor":
        if held.dtype in DOUBLES and index == SINGLE_ONLY:
            kind = str(held.dtype).removeprefix("torch.")
            raise TypeError(f"the device {KIND}:{index} has no {kind}; use float32 or complex64")
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(KIND, index),
        )
        made._held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self._held!r} on {self.device}"

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: "EmulatedTensor") -> None:
        Tensor.data.__set__(self, other)
        self._held = other._held

    def data_ptr(self) -> int:
        return self._held.data_ptr()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **named: Any) -> Tensor:
        """On the device of this tensor; torch takes the current one, which is always 0 here."""
        wanted = self.dtype if dtype is None else dtype
        return torch.tensor(data, dtype=wanted, **{"device": self.device, **named})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert a tensor on {self.device} to numpy; copy it first")
        return self.detach().cpu().numpy(force=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]
        made = self.detach().clone().requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            made._is_param = True
        memo[id(self)] = made
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in (aten._to_copy.default, aten.copy_.default):
        return _copy(func, args, kwargs)
    if func is aten._copy_from.default:  # torch copies by it what it makes of a list
        source, target = args[:2]
        return _copy(aten.copy_.default, (target, source), {})
    if func in OWN:
        func = OWN[func]
    if func is aten._local_scalar_dense.default or func is aten.equal.default:
        for each in _counting:
            each.asked += 1
    call = _Operands(func)
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        call.indices.add(torch.device(wanted).index or 0)
    named = {name: call.held(part) for name, part in kwargs.items()}
    found = func(*[call.held(part) for part in args], **named)
    if len(call.indices) > 1:
        raise RuntimeError(f"{func}: expected all tensors on the same device, found two of {KIND}")
    return call.returned(found)


class _Operands:
    """What one operation is given, as the processor sees it, and where its results lie."""

    def __init__(self, func: Any):
        self.func = func
        self.indices: set[int] = set()
        self.originals: dict[int, EmulatedTensor] = {}

    def held(self, part: Any) -> Any:
        """The same on the processor.

        Raises:
            RuntimeError: for a tensor of another device that is not a single number.
        """
        if isinstance(part, EmulatedTensor):
            self.indices.add(part.device.index)
            self.originals[id(part._held)] = part
            return part._held
        if isinstance(part, list | tuple):
            return [self.held(one) for one in part]
        if isinstance(part, Tensor) and (part.ndim > 0 or part.device.type != "cpu"):
            raise RuntimeError(
                f"{self.func}: expected all tensors on the same device, but found one on "
                f"{part.device} of shape {tuple(part.shape)} beside those on {KIND}"
            )
        if isinstance(part, torch.Generator):
            raise RuntimeError(f"{self.func}: expected a generator of {KIND}, not of {part.device}")
        return part

    def returned(self, part: Any) -> Any:
        """Results on the device; a tensor that was written in place is the tensor itself."""
        if isinstance(part, list | tuple):
            return type(part)(self.returned(one) for one in part)
        if not isinstance(part, Tensor):
            return part
        original = self.originals.get(id(part))
        if original is None:
            return EmulatedTensor(part, next(iter(self.indices), 0))
        if original.shape != part.shape or original.stride() != part.stride():
            _reshape(original, part)
        return original


def _reshape(tensor: Tensor, like: Tensor) -> None:
    """After an operation that changes the shape of a tensor in place."""
    with no_dispatch():
        before = torch._C._meta_in_tls_dispatch_include()
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            aten.as_strided_.default(tensor, like.shape, like.stride(), like.storage_offset())
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A copy within the device, to it or from it, counted."""
    if func is aten.copy_.default:
        target, source = args[:2]
        _count(source, target.device)
        _bare(target).copy_(_bare(source))
        return target
    source, device = args[0], kwargs.pop("device", None)
    device = source.device if device is None else torch.device(device)
    _count(source, device)
    found = func(_bare(source), **kwargs, device=torch.device("cpu"))
    if device.type == "cpu":
        return found
    if device.type != KIND:
        raise RuntimeError(f"{KIND} copies to the processor and to itself, not to {device}")
    return EmulatedTensor(found, device.index or 0)


def _bare(part: Tensor) -> Tensor:
    return part._held if isinstance(part, EmulatedTensor) else part


def _count(source: Tensor, target: torch.device) -> None:
    size = source.numel() * source.element_size()
    for each in _counting:
        if target.type == "cpu" and source.device.type == KIND:
            each.fetched.append(size)
        elif source.device != target and source.ndim > 0:
            each.sent.append(size)


def _lstm_cell(inputs: Any, hidden: Any, cell: Any, bias: Any = None, other: Any = None) -> Any:
    """What the fused cell of a graphics card computes; the processor has no such operation."""
    total = inputs + hidden if bias is None else inputs + hidden + bias + other
    write, keep, new, out = total.chunk(4, dim=-1)
    cell = keep.sigmoid() * cell + write.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell, total


def _gru_cell(inputs: Any, hidden: Any, state: Any, bias: Any = None, other: Any = None) -> Any:
    inputs = inputs if bias is None else inputs + bias
    hidden = hidden if other is None else hidden + other
    reset, update, new = inputs.chunk(3, dim=-1)
    held_reset, held_update, held_new = hidden.chunk(3, dim=-1)
    reset, update = (reset + held_reset).sigmoid(), (update + held_update).sigmoid()
    new = (new + reset * held_new).tanh()
    return update * state + (1 - update) * new, torch.cat([reset, update, new], dim=-1)


def _histogram(numbers: Tensor, *limits: Any, **named: Any) -> Tensor:
    return aten.histc.default(numbers.double(), *limits, **named).to(numbers.dtype)


OWN = {
    aten.histc.default: _histogram,  # of whole numbers, too
    # Conjugates and negatives are written out: torch does not resolve lazy ones below this level.
    aten._conj.default: aten._conj_physical.default,
    aten._neg_view.default: aten.neg.default,
    aten._thnn_fused_lstm_cell.default: _lstm_cell,
    aten._thnn_fused_gru_cell.default: _gru_cell,
}


# What makes a tensor without being given one; torch composes all else of these.
BORN = (
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.linspace.default,
    aten.logspace.default,
    aten.eye.default,
    aten.eye.m,
    aten.randperm.default,
    aten.tril_indices.default,
    aten.triu_indices.default,
    aten._copy_from.default,
)


class _Backend:
    """What torch asks a device's module.

    It says that there is no such device: whoever asks for accelerators, such as ``fork_rng``, is to
    treat the tests of a process that also runs these as before.
    """

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def device_count(self) -> int:
        return 0


@cache
def emulated_device() -> torch.device:
    """The device, registered once in a process: no processor tensor is treated otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _setup_privateuseone_for_python_backend(KIND, backend_module=_Backend())
    library = torch.library.Library("aten", "IMPL")

    def made(func: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            return _compute(func, args, kwargs)

        return run

    for func in BORN:
        library.impl(func._name, made(func), "PrivateUse1")
    _keep.append(library)
    return torch.device(KIND, 0)


_keep: list[Any] = []
