"""An interpreter of pickle opcodes that builds records of tensors instead of objects."""

import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


class Refused(Exception):
    """The archive uses something that a table of tensors does not need."""


@dataclass(frozen=True)
class Name:
    """A global of some module, known by name and never imported."""

    text: str


@dataclass(frozen=True)
class Storage:
    """A storage in the archive: its torch class, the member with its bytes, its elements."""

    kind: str
    member: str
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage; offset and stride count elements."""

    storage: Storage
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass
class Module:
    """A TorchScript module, as its attributes."""

    attributes: dict[Any, Any] = field(default_factory=dict)


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
    """The record of a global.

    Raises:
        Refused: a table of tensors does not need this global.
    """
    known = text in _ANSWERS or text == _UNTYPED or text.removeprefix("torch.") in DTYPES
    if known or _PLAIN_VALUE.fullmatch(text) or (torchscript and text.startswith(_SCRIPT)):
        return Name(text)
    raise Refused(f"it names {text[:100]!r}, which is code or a tensor that is not a plain one")


def called(function: object, arguments: object) -> Any:
    """The record that a call of ``function`` stands for."""
    if isinstance(function, Name) and isinstance(arguments, tuple) and function.text in _ANSWERS:
        return _ANSWERS[function.text](*arguments)
    raise Refused(f"it calls {str(getattr(function, 'text', 'a value'))[:100]!r}")


def made(kind: object, arguments: object) -> Module:
    """The record of a new TorchScript module, still without attributes."""
    if isinstance(kind, Name) and kind.text.startswith(_SCRIPT) and arguments == ():
        return Module()
    raise Refused("it makes an object that is neither a dictionary nor a module")


def given_state(target: object, state: object) -> None:
    """Set the attributes of a module; those of a dictionary (version numbers) are ignored."""
    if isinstance(target, Module) and isinstance(state, dict):
        target.attributes.update(state)
    elif not isinstance(target, dict):
        raise Refused("it sets the state of an object that is neither a dictionary nor a module")


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


_MARK = object()


class Machine:
    """The stack and the memo of the interpreter."""

    def __init__(self, *, torchscript: bool) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.torchscript = torchscript

    def follow(self, program: bytes) -> Any:
        """The value of the pickle program: dictionaries, lists, numbers, text and records.

        Raises:
            Refused: it has an opcode, a global or a call that a table of tensors does not need.
        """
        try:
            for opcode, argument, _ in pickletools.genops(program):
                self._step(opcode.name, argument)
            (result,) = self.stack
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise Refused(f"its opcodes are not valid ({type(error).__name__})") from None
        return result

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        elif opcode not in _SILENT:
            raise Refused(f"it uses the opcode {opcode}")

    def taken(self, count: int) -> list[Any]:
        """Remove the topmost ``count`` values from the stack and return them."""
        values = [self.stack.pop() for _ in range(count)]
        return values[::-1]

    def since_mark(self) -> list[Any]:
        """Remove everything above the topmost mark, and the mark, and return the values."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]


def _push_tuple(machine: Machine, values: list[Any]) -> None:
    machine.stack.append(tuple(values))


def _append(machine: Machine, values: list[Any]) -> None:
    machine.stack[-1].extend(values)


def _set(machine: Machine, values: list[Any]) -> None:
    machine.stack[-1].update(zip(values[::2], values[1::2], strict=True))


def _name(machine: Machine, module: str, name: str) -> None:
    machine.stack.append(named(f"{module}.{name}", torchscript=machine.torchscript))


def _call(machine: Machine, answer: Callable[[Any, Any], Any]) -> None:
    machine.stack.append(answer(*machine.taken(2)))


def _give_state(machine: Machine) -> None:
    state = machine.stack.pop()
    given_state(machine.stack[-1], state)


def _remember(machine: Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _recall(machine: Machine, place: int) -> None:
    machine.stack.append(machine.memo[place])


_SILENT = {"PROTO", "FRAME", "STOP"}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[Machine, Any], None]] = {
    "GLOBAL": lambda machine, text: _name(machine, *text.split(" ")),
    "STACK_GLOBAL": lambda machine, _: _name(machine, *machine.taken(2)),
    "TUPLE": lambda machine, _: _push_tuple(machine, machine.since_mark()),
    "TUPLE1": lambda machine, _: _push_tuple(machine, machine.taken(1)),
    "TUPLE2": lambda machine, _: _push_tuple(machine, machine.taken(2)),
    "TUPLE3": lambda machine, _: _push_tuple(machine, machine.taken(3)),
    "APPEND": lambda machine, _: _append(machine, machine.taken(1)),
    "APPENDS": lambda machine, _: _append(machine, machine.since_mark()),
    "SETITEM": lambda machine, _: _set(machine, machine.taken(2)),
    "SETITEMS": lambda machine, _: _set(machine, machine.since_mark()),
    "BINPERSID": lambda machine, _: machine.stack.append(storage(machine.stack.pop())),
    "REDUCE": lambda machine, _: _call(machine, called),
    "NEWOBJ": lambda machine, _: _call(machine, made),
    "BUILD": lambda machine, _: _give_state(machine),
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": lambda machine, _: _remember(machine, len(machine.memo)),
    "BINGET": _recall,
    "LONG_BINGET": _recall,
}


_MOST_TENSORS = 100_000
_MOST_VISITS = 500_000
_DEEPEST = 32
_LONGEST_NAME = 1_000


def tensors_by_name(top: object) -> dict[str, StoredTensor]:
    """Every tensor reachable from ``top`` through dictionaries, lists and module attributes.

    Raises:
        Refused: two tensors have one name, or there are too many, nested too deep or with a name
            too long.
    """
    found: dict[str, StoredTensor] = {}
    visits = 0
    pending: list[tuple[tuple[str, ...], object]] = [((), top)]
    while pending:
        path, value = pending.pop()
        visits += 1
        if visits > _MOST_VISITS or len(found) > _MOST_TENSORS or len(path) > _DEEPEST:
            raise Refused("it holds too many tensors, or nests them too deep")
        if isinstance(value, StoredTensor):
            _add(found, ".".join(path) or "tensor", value)
        else:
            pending.extend(((*path, key), child) for key, child in _children(value))
    return dict(reversed(found.items()))


def _add(found: dict[str, StoredTensor], name: str, tensor: StoredTensor) -> None:
    if name in found or len(name) > _LONGEST_NAME:
        raise Refused(f"a name appears twice or is too long: {name[:100]!r}")
    found[name] = tensor


def _children(value: object) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Module):
        # Lists of a module repeat its parameters under other names.
        kept = {key: child for key, child in value.attributes.items() if not _is_list(child)}
        return _items(kept)
    if isinstance(value, dict):
        return _items(value)
    if isinstance(value, list | tuple):
        return ((str(place), child) for place, child in enumerate(value))
    return iter(())


def _items(table: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    return ((str(key), child) for key, child in table.items() if isinstance(key, str | int))


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple | dict)
