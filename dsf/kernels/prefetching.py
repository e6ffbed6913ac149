"""Memory asked for before it is needed, while the processor computes with what it has.

Loops that go down a few columns of a wide table touch another page with every row, which no
processor foresees.
"""

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


@intrinsic
@no_type_check
def soon(_context, pointer):
    """Have the line around a number brought near, into the second cache."""

    def generate(context, builder, _signature, arguments):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        call = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        asked = builder.module.declare_intrinsic("llvm.prefetch", [byte], call)
        reads, near, data = number(0), number(2), number(1)
        builder.call(asked, [builder.bitcast(arguments[0], byte), reads, near, data])
        return context.get_dummy_value()

    return types.void(pointer), generate
