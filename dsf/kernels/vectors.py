"""Numbers from memory into registers and back. Places behind a pointer may have any alignment."""

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from dsf.kernels.registers import BYTES, DOUBLE, WIDE, Vector, in_all_lanes


@no_type_check
def _vector_at(builder, pointer, at, vector):
    return builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())


@no_type_check
def _as(builder, value, vector):
    """A vector in another precision."""
    if value.type == vector:
        return value
    narrower = vector.element == ir.FloatType()
    return builder.fptrunc(value, vector) if narrower else builder.fpext(value, vector)


@intrinsic
@no_type_check
def load(_context, pointer, at):
    """The numbers from one place on."""
    vector = Vector(pointer.dtype)

    def generate(context, builder, _signature, arguments):
        place = _vector_at(builder, *arguments, context.get_value_type(vector))
        return builder.load(place, align=pointer.dtype.bitwidth // 8)

    return vector(pointer, at), generate


@intrinsic
@no_type_check
def load_double(_context, pointer, at):
    """``WIDE`` numbers from one place on, in double precision."""

    def generate(context, builder, _signature, arguments):
        held = ir.VectorType(context.get_value_type(pointer.dtype), WIDE)
        found = builder.load(
            _vector_at(builder, *arguments, held), align=pointer.dtype.bitwidth // 8
        )
        return _as(builder, found, context.get_value_type(DOUBLE))

    return DOUBLE(pointer, at), generate


@intrinsic
@no_type_check
def spread(_context, pointer, at):
    """The number at one place, in every lane."""
    vector = Vector(pointer.dtype)

    def generate(_context, builder, _signature, arguments):
        return in_all_lanes(builder, builder.load(builder.gep(*arguments[:1], arguments[1:])), size)

    size = vector.lanes
    return vector(pointer, at), generate


@intrinsic
@no_type_check
def store(_context, pointer, at, vector):
    """Write to one place, in the precision it is in."""

    def generate(context, builder, _signature, arguments):
        pointer_, at, value = arguments
        held = ir.VectorType(context.get_value_type(pointer.dtype), vector.lanes)
        place = _vector_at(builder, pointer_, at, held)
        builder.store(_as(builder, value, held), place, align=pointer.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, at, vector), generate


@intrinsic
@no_type_check
def store_past(_context, pointer, at, vector):
    """Write to the memory behind the caches, at a border of their lines.

    A loop that has written so ends with ``arrived()``.
    """

    def generate(context, builder, _signature, arguments):
        pointer, at, value = arguments
        made = builder.store(value, _vector_at(builder, pointer, at, value.type), align=BYTES)
        made.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(pointer, at, vector), generate


@intrinsic
@no_type_check
def arrived(_context):
    """Wait until other threads can see everything written."""

    def generate(context, builder, _signature, _arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
