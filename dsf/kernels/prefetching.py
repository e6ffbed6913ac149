"""Memory asked for before it is needed, while the processor computes with what it has.

Loops that go down a few columns of a wide table touch another page with every row, which no
processor foresees.
"""

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.core.cgutils import unpack_tuple
from numba.extending import intrinsic

LINE = 64  # bytes


@no_type_check
def _asking(writes):
    @intrinsic
    @no_type_check
    def ask(_context, table, row, column):
        """Have the line around one entry of a table brought near."""

        def generate(context, builder, signature, arguments):
            kind = signature.args[0]
            found = context.make_array(kind)(context, builder, arguments[0])
            offset = builder.mul(arguments[1], unpack_tuple(builder, found.strides)[0])
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            width = context.get_abi_sizeof(context.get_data_type(kind.dtype))
            offset = builder.add(offset, builder.mul(arguments[2], ir.IntType(64)(width)))
            place = builder.gep(builder.bitcast(found.data, byte), [offset])
            call = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            asked = builder.module.declare_intrinsic("llvm.prefetch", [byte], call)
            nearest, data = number(3), number(1)
            builder.call(asked, [place, number(writes), nearest, data])
            return context.get_dummy_value()

        return types.void(table, row, column), generate

    return ask


soon_read, soon_written = _asking(0), _asking(1)
