"""The few calls a table of tensors is made of, each answered with a record.

A tensor that is sparse, quantised, nested, on a meta device or of a subclass is rebuilt by some
other call, and so is refused here, before anything of it exists.
"""

import re
from collections.abc import Callable
from typing import Any

from dsf.inspection.loading.archive.symbols import Module, Name, Refused, Storage, StoredTensor

DTYPES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
_UNTYPED = "torch.storage.UntypedStorage"
_SCRIPT = "__torch__."
_PLAIN_VALUE = re.compile(r"torch\.[a-z][a-z0-9_]*")


def named(text: str, *, torchscript: bool) -> Name:
    """The symbol for a global, refused unless a table of tensors has a use for it."""
    known = text in _ANSWERS or text == _UNTYPED or text.removeprefix("torch.") in DTYPES
    if known or _PLAIN_VALUE.fullmatch(text) or (torchscript and text.startswith(_SCRIPT)):
        return Name(text)
    raise Refused(f"it names {text[:100]!r}, which is code or a tensor that is not a plain one")


def called(function: object, arguments: object) -> Any:
    """What a call stands for."""
    if isinstance(function, Name) and isinstance(arguments, tuple) and function.text in _ANSWERS:
        return _ANSWERS[function.text](*arguments)
    raise Refused(f"it calls {str(getattr(function, 'text', 'a value'))[:100]!r}")


def made(kind: object, arguments: object) -> Module:
    """A new TorchScript module, still without attributes."""
    if isinstance(kind, Name) and kind.text.startswith(_SCRIPT) and arguments == ():
        return Module()
    raise Refused("it makes an object that is neither a table nor a module")


def given_state(target: object, state: object) -> None:
    """Attributes for a module; those of a dictionary (its version notes) are of no use here."""
    if isinstance(target, Module) and isinstance(state, dict):
        target.attributes.update(state)
    elif not isinstance(target, dict):
        raise Refused("it sets the state of an object that is neither a table nor a module")


def storage(description: object) -> Storage:
    """The storage that a persistent id describes."""
    match description:
        case ("storage", Name(text=kind), str(member), str(), int(size)):
            return Storage(kind.removeprefix("torch."), member, size)
    raise Refused("it refers to something that is not a storage")


def _tensor(
    block: object, offset: int, shape: Any, stride: Any, _grad: object, _hooks: object, *more: Any
) -> StoredTensor:
    if not isinstance(block, Storage) or block.kind not in DTYPES:
        raise Refused("a tensor has no storage of numbers")
    if any(more):
        raise Refused("a tensor is marked as conjugated or negated")
    return StoredTensor(block, DTYPES[block.kind], tuple(shape), tuple(stride), offset)


def _tensor_of_dtype(block: object, offset: int, shape: Any, stride: Any, *more: Any) -> Any:
    _grad, _hooks, dtype, *marks = more
    if not isinstance(block, Storage) or not isinstance(dtype, Name) or any(marks):
        raise Refused("a tensor has no storage of numbers")
    name = dtype.text.removeprefix("torch.")
    return StoredTensor(block, name, tuple(shape), tuple(stride), offset)


def _empty_table() -> dict[Any, Any]:
    return {}


def _first(value: Any, *_rest: Any) -> Any:
    return value


_ANSWERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _empty_table,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch.Size": _first,
    "torch.device": _first,
    "torch.jit._pickle.build_boollist": _first,
    "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.restore_type_tag": _first,
}
