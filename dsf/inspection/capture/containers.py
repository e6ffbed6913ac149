"""Tensors in containers, caches and objects: found, copied, and counted how often written.

Models write into what they are given, so every run has its own.
"""

import copy
import mmap
import shutil
import tempfile
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, TypeGuard
from weakref import finalize

import torch
from torch import Tensor, UntypedStorage, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from dsf.inspection.errors import InspectionError, InspectionMemoryError
from dsf.mixers import Mixer


class Fingerprint:
    """The fields of a mixer when it was compared: the same objects, unchanged since.

    In-place changes are detected by torch's version counters. A copy or pickle of an intact
    fingerprint is intact for the copied fields.
    """

    def __init__(self, mixer: Mixer):
        self._parts = _parts(mixer)
        self._versions = [times_written(part) for part in self._parts]

    def matches(self, mixer: Mixer) -> bool:
        parts = _parts(mixer)
        return (
            len(parts) == len(self._parts)
            and self._intact()
            and all(
                one is other or (not isinstance(one, Tensor) and one == other)
                for one, other in zip(parts, self._parts, strict=True)
            )
        )

    def _intact(self) -> bool:
        return [times_written(part) for part in self._parts] == self._versions

    def __getstate__(self) -> tuple[list[Any], bool]:
        return self._parts, self._intact()

    def __setstate__(self, state: tuple[list[Any], bool]) -> None:
        self._parts, intact = state
        self._versions = [times_written(part) if intact else -1 for part in self._parts]


def _parts(mixer: Mixer) -> list[Any]:
    return [type(mixer), *(getattr(mixer, field.name) for field in fields(mixer))]


def times_written(part: Any) -> int:
    """How often torch wrote into a tensor in place; 0 for tensors of inference mode."""
    if not isinstance(part, Tensor):
        return 0
    with torch._C.DisableTorchFunction():  # what listens takes calls for the model's
        return 0 if part.is_inference() else part._version


def are_numbers(part: Tensor | None) -> TypeGuard[Tensor]:
    """Whether a tensor holds real or complex numbers, not whole numbers or truth values."""
    return part is not None and (part.is_floating_point() or part.is_complex())


def memory_of(tensor: Tensor) -> UntypedStorage | None:
    """The memory of a tensor; None of a sparse one, and of one that wraps others."""
    with torch._C.DisableTorchFunction():  # nobody takes out the numbers
        try:
            storage = tensor.untyped_storage()
            storage.data_ptr()
        except (NotImplementedError, RuntimeError):
            return None
    return storage


def memory_key(tensor: Tensor) -> int:
    """The same number for all views of one memory."""
    storage = memory_of(tensor)
    return id(tensor) if storage is None else int(storage._cdata)


class Computed(Mapping[str, Tensor]):
    """Tensors by name, each computed when it is looked up."""

    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]):
        self._makers = makers

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self)})"


class DiskStore:
    """Large tensors in a temporary file without a name, which no crash leaves.

    The file is mapped into memory: the system writes out what does not fit, and reads it again.
    """

    def __init__(self) -> None:
        self._file, self._end = tempfile.TemporaryFile(prefix="dsf-"), 0  # noqa: SIM115  # kept open
        finalize(self, self._file.close)

    def moved(self, tensor: Tensor) -> Tensor:
        """A copy with the same strides, so that sums over it are the same; a small one itself."""
        plain = tensor.detach().resolve_conj().resolve_neg()
        is_plain = type(plain) is Tensor and plain.layout is torch.strided
        if not is_plain or plain.is_quantized or not plain.numel():
            return tensor
        sizes = zip(plain.shape, plain.stride(), strict=True)
        numbers = 1 + sum((size - 1) * stride for size, stride in sizes)
        size = numbers * plain.dtype.itemsize
        if size < LEAST_BYTES:
            return tensor
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if size > free:
            raise InspectionMemoryError(
                f"the folder for temporary files, {tempfile.gettempdir()}, has {free / 1e9:.1f} GB "
                f"left, but the next part of the inspection needs {size / 1e9:.1f} GB. Set TMPDIR "
                "to a folder with more room, or choose fewer layers (layers=..., on the command "
                "line --layers)."
            )
        begin, self._end = self._end, self._end + -(-size // LEAST_BYTES) * LEAST_BYTES
        self._file.truncate(self._end)
        content = mmap.mmap(self._file.fileno(), size, offset=begin)
        flat = torch.frombuffer(content, dtype=plain.dtype)
        flat.copy_(plain.as_strided((numbers,), (1,)))
        return flat.as_strided(plain.shape, plain.stride())


LEAST_BYTES = 2**20
"""Smaller tensors stay in memory: a process may have some 65,000 parts of files mapped."""
_STORE: ContextVar[DiskStore | None] = ContextVar("store", default=None)


@contextmanager
def keeping_in(store: DiskStore | None) -> Iterator[None]:
    """Inside the ``with`` block, copies of what a run is given go to ``store``."""
    before = _STORE.set(store)
    try:
        yield
    finally:
        _STORE.reset(before)


def own_copy(tensor: Tensor) -> Tensor:
    """A copy of a tensor with its attributes, by which a model may differentiate as by that one."""
    copy = tensor.detach().clone()
    vars(copy).update(vars(tensor))
    return copy.requires_grad_() if tensor.requires_grad else copy


def kept(tensor: Tensor) -> Tensor:
    """A copy of a tensor, since later code may write into the original."""
    copy, store = own_copy(tensor), _STORE.get()
    return copy if store is None else store.moved(copy)


Copies = WeakTensorKeyDictionary
"""By tensor, while it lives, how often it was written into, and its copy then."""


def copied_once(tensor: Tensor, known: Copies, copy: Callable[[Tensor], Tensor] = kept) -> Tensor:
    """A copy of a tensor; the one in ``known`` if nothing was written into the tensor since."""
    writes, made = known.get(tensor, (-1, tensor))
    with torch._C.DisableTorchFunction():
        is_uncounted = tensor.is_inference()
    if is_uncounted or writes != times_written(tensor):
        made = copy(tensor)
        known[tensor] = times_written(tensor), made
    return made


NAME = "Cache"


def lent(given: Any) -> Any:
    """Inputs of a model as a run may have them, which writes into them: one copy of each tensor."""
    parts, known = given if isinstance(given, dict) else dict(enumerate(given)), dict[int, Any]()
    made = {name: _lent(part, known) for name, part in parts.items()}
    return made if isinstance(given, dict) else tuple(made.values())


def _lent(part: Any, known: dict[int, Any]) -> Any:
    try:
        return _deeply(part, own_copy, known)
    except Exception as error:
        if not any(isinstance(one, Tensor) for one in _held(part, set())):
            return part
        raise InspectionError(
            f"an input of the type {type(part).__name__} cannot be copied ({error}), so that every "
            "run would start from what the one before left in it."
        ) from error


def _deeply(part: Any, each: Callable[[Tensor], Tensor], known: dict[int, Any]) -> Any:
    """A copy of an object with ``each`` of its tensors and the same modules."""
    for one in _held(part, set()):
        if id(one) not in known:
            known[id(one)] = each(one) if isinstance(one, Tensor) else one
    return copy.deepcopy(part, known)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in tuples, lists, dictionaries and objects that are not caches, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, tuple | list | Mapping):
        parts = value.values() if isinstance(value, Mapping) else value
        return [one for part in parts for one in tensors_in(part)]
    return tensors_held(value) if is_holder(value) else []


def tensors_held(part: Any) -> list[Tensor]:
    """The tensors in the attributes of an object, and in those of what they hold."""
    return [one for one in _held(part, set()) if isinstance(one, Tensor)]


def _held(part: Any, seen: set[int]) -> list[Tensor | nn.Module]:
    """The tensors and modules in an object, each once."""
    if id(part) in seen:
        return []
    seen.add(id(part))
    if isinstance(part, Tensor | nn.Module):
        return [part]
    if isinstance(part, PLAIN):
        return []
    inside: Iterable[Any]
    if isinstance(part, Mapping):
        inside = part.values()
    elif isinstance(part, tuple | list):
        inside = part
    else:
        inside = [getattr(part, name, None) for name in slots_of(part)]
        inside += getattr(part, "__dict__", {}).values()
    return [each for one in inside for each in _held(one, seen)]


def slots_of(part: Any) -> list[str]:
    """The attributes of an object that its classes name in ``__slots__``."""
    named = (getattr(cls, "__slots__", ()) for cls in type(part).__mro__)
    names = [name for some in named for name in ((some,) if isinstance(some, str) else some)]
    return [name for name in names if name not in ("__weakref__", "__dict__")]


NOTHING: tuple[type, ...] = (str, bytes, int, float, type(None), torch.dtype, torch.device)
NOTHING = (*NOTHING, ModuleType, BuiltinFunctionType)
"""What holds nothing of a model."""
PLAIN = (*NOTHING, type, FunctionType, MethodType)
"""What is not a container of tensors, whatever it refers to."""


def is_holder(value: Any) -> bool:
    """Whether a value is an object of its own with tensors in it, such as a batch of a graph.

    So is what derives from a tuple, list or dictionary, such as the output of a model library.
    """
    others = (*PLAIN, nn.Module, Tensor, PackedSequence)
    if isinstance(value, others) or type(value) in (tuple, list, dict) or is_cache(value):
        return False
    return bool(tensors_held(value))


def with_tensors(holder: Any, each: Callable[[Tensor], Tensor]) -> Any:
    """A copy of an object with ``each`` of its tensors; the object itself if it has no copy."""
    try:
        return _deeply(holder, each, {})
    except Exception:  # an object of somebody else, such as a handle of a file
        return holder


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of a model library: an object of its own, of such a name."""
    # So is a dictionary of its own by which layers share keys and values.
    if isinstance(value, UserDict):
        return True
    if isinstance(value, Tensor | nn.Module | type) or not hasattr(value, "__dict__"):
        return False
    return any(NAME in cls.__name__ for cls in type(value).__mro__)


def mapped(
    value: Any, each: Callable[[Tensor], Tensor], inside: Callable[[Tensor], Tensor] | None = None
) -> Any:
    """``value`` with ``each`` of its tensors, and ``inside`` of those of caches and objects."""
    if isinstance(value, Tensor):
        return each(value)
    if isinstance(value, PackedSequence):
        return value._replace(data=each(value.data))
    if type(value) in (tuple, list):
        return type(value)(mapped(part, each, inside) for part in value)
    if type(value) is dict:
        return {name: mapped(part, each, inside) for name, part in value.items()}
    if is_cache(value):
        return _deeply(value, inside or each, {})
    return with_tensors(value, inside or each) if is_holder(value) else value


def with_each(value: Any, each: Callable[[Tensor], Tensor]) -> Any:
    """``value`` with ``each`` of its tensors, in the order of ``tensors_in``; caches stay."""

    def one(part: Any) -> Any:
        if isinstance(part, Tensor):
            return each(part)
        if isinstance(part, PackedSequence):
            return part._replace(data=each(part.data))
        return with_tensors(part, each) if is_holder(part) else part

    return tree_map(one, value, is_leaf=lambda part: isinstance(part, PackedSequence))


def own_caches(value: Any, each: Callable[[Tensor], Tensor]) -> Any:
    return mapped(value, lambda part: part, each)
