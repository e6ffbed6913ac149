"""A register of numbers as one value, for loops that the compiler would not turn into vectors.

Products of small matrices run at the speed of the processor only where their sums stay in
registers, and a triangle of decays only where some lanes stand still: both are written out in
registers here. How they come from memory and go there is in ``vectors.py``.
"""

import operator
from typing import no_type_check

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, models, overload, register_model

BYTES = 64 if get_host_cpu_features().get("avx512f") else 32
WIDE = BYTES // 8  # lanes in double precision
FUSED = ("contract",)


class Vector(types.Type):  # type: ignore[misc]
    """As many numbers of one kind as a register holds."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype, self.lanes = dtype, BYTES * 8 // dtype.bitwidth
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    """What a vector is to the compiler."""

    @no_type_check
    def __init__(self, manager, kind):
        number = manager[kind.dtype].get_value_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.lanes))


DOUBLE = Vector(types.float64)


@no_type_check
def in_all_lanes(builder, number, lanes):
    kind, index = ir.VectorType(number.type, lanes), ir.IntType(32)
    one = builder.insert_element(kind(ir.Undefined), number, index(0))
    return builder.shuffle_vector(one, one, ir.VectorType(index, lanes)([0] * lanes))


@no_type_check
def _lane_by_lane(instruction):
    @intrinsic
    @no_type_check
    def operate(_context, left, right):
        vector = left if isinstance(left, Vector) else right

        def generate(context, builder, signature, arguments):
            def side(kind, value):
                if kind == vector:
                    return value
                one = context.cast(builder, value, kind, vector.dtype)
                return in_all_lanes(builder, one, vector.lanes)

            sides = map(side, signature.args, arguments)
            return getattr(builder, instruction)(*sides, flags=FUSED)

        return vector(left, right), generate

    def on_vectors(left, right):
        if isinstance(left, Vector) or isinstance(right, Vector):
            return lambda left, right: operate(left, right)  # noqa: PLW0108  it has to be compiled
        return None

    return on_vectors


# Vectors are added, taken away and multiplied as numbers are, and with numbers.
for _operation, _instruction in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul")):
    overload(getattr(operator, _operation))(_lane_by_lane(_instruction))


@intrinsic
@no_type_check
def later(_context, one, other):
    """Lane by lane the number whose bits are the larger integer.

    Of numbers that are not negative that is the larger one; nan and negative ones come after them.
    """

    def generate(_context, builder, _signature, arguments):
        bits = ir.VectorType(ir.IntType(one.dtype.bitwidth), one.lanes)
        left, right = (builder.bitcast(side, bits) for side in arguments)
        return builder.select(builder.icmp_unsigned(">", left, right), *arguments)

    return one(one, other), generate


@intrinsic
@no_type_check
def total(_context, vector):
    """The sum of all lanes, in pairs."""
    one = vector.dtype

    def generate(context, builder, _signature, arguments):
        number, wide = (context.get_value_type(kind) for kind in (one, vector))
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f{one.bitwidth}"
        kind = ir.FunctionType(number, [number, wide])
        summed = get_or_insert_function(builder.module, kind, name)
        return builder.call(summed, [number(-0.0), *arguments], fastmath=("reassoc",))

    return one(vector), generate


@intrinsic
@no_type_check
def in_first(_context, count, yes, no):
    """``yes`` in the first lanes, as many as ``count``, and ``no`` in the others."""

    def generate(_context, builder, _signature, arguments):
        count, yes, no = arguments
        whole = ir.VectorType(ir.IntType(32), size)
        limit = in_all_lanes(builder, builder.trunc(count, whole.element), size)
        return builder.select(builder.icmp_signed("<", whole(list(range(size))), limit), yes, no)

    size = yes.lanes
    return yes(count, yes, no), generate


@intrinsic
@no_type_check
def everywhere(_context, value):
    """A number in double precision, in every lane."""

    def generate(context, builder, signature, arguments):
        wider = context.cast(builder, arguments[0], signature.args[0], types.float64)
        return in_all_lanes(builder, wider, WIDE)

    return DOUBLE(value), generate


@intrinsic
@no_type_check
def nothing(_context, pointer):
    """Zeros of the kind it points to."""
    vector = Vector(pointer.dtype)
    return vector(pointer), lambda context, *_: context.get_value_type(vector)([0.0] * vector.lanes)


@intrinsic
@no_type_check
def ones(_context):
    """Ones in double precision."""
    return DOUBLE(), lambda context, *_: context.get_value_type(DOUBLE)([1.0] * WIDE)


@intrinsic
@no_type_check
def lanes(_context, pointer):
    """How many of its numbers a register holds."""
    count = Vector(pointer.dtype).lanes
    return types.int64(pointer), lambda *_: ir.IntType(64)(count)
