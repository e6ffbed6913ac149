"""A stack machine that follows the opcodes of an archive and builds records instead of objects.

The opcodes come from the standard library's disassembler. Nothing named in the archive is imported,
called or compiled: a global becomes a ``Name``, a call becomes what ``calls`` answers.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from dsf.inspection.loading.archive import calls
from dsf.inspection.loading.archive.symbols import Refused

_MARK = object()


class Machine:
    """The stack and the memo while the opcodes are followed."""

    def __init__(self, *, torchscript: bool) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.torchscript = torchscript

    def follow(self, program: bytes) -> Any:
        """What the program leaves on the stack: dictionaries, lists, numbers, text, records.

        Raises:
            Refused: an opcode, a global or a call that a table of tensors does not need.
        """
        try:
            for opcode, argument, _ in pickletools.genops(program):
                self._step(opcode.name, argument)
            (result,) = self.stack
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise Refused(f"its opcodes make no sense ({type(error).__name__})") from None
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
        """The topmost values, off the stack."""
        values = [self.stack.pop() for _ in range(count)]
        return values[::-1]

    def since_mark(self) -> list[Any]:
        """Everything above the topmost mark, off the stack together with it."""
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
    machine.stack.append(calls.named(f"{module}.{name}", torchscript=machine.torchscript))


def _call(machine: Machine, answer: Callable[[Any, Any], Any]) -> None:
    machine.stack.append(answer(*machine.taken(2)))


def _give_state(machine: Machine) -> None:
    state = machine.stack.pop()
    calls.given_state(machine.stack[-1], state)


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
    "BINPERSID": lambda machine, _: machine.stack.append(calls.storage(machine.stack.pop())),
    "REDUCE": lambda machine, _: _call(machine, calls.called),
    "NEWOBJ": lambda machine, _: _call(machine, calls.made),
    "BUILD": lambda machine, _: _give_state(machine),
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": lambda machine, _: _remember(machine, len(machine.memo)),
    "BINGET": _recall,
    "LONG_BINGET": _recall,
}
