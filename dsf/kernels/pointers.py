"""Numbers found by pointers, which nobody counts.

Counting the uses of an array inside a loop takes longer than what the loop does there, and empties
the buffers of what is written past the caches. Places behind a pointer count in numbers.
"""

from typing import no_type_check

from numba import types
from numba.extending import intrinsic, models, register_model


class Pointer(types.Type):  # type: ignore[misc]
    """Where the numbers of an array begin."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype = dtype
        super().__init__(f"Pointer({dtype})")


@register_model(Pointer)
class PointerModel(models.PrimitiveModel):  # type: ignore[misc]
    """What a pointer is to the compiler."""

    @no_type_check
    def __init__(self, manager, kind):
        super().__init__(manager, kind, manager[kind.dtype].get_value_type().as_pointer())


@no_type_check
def _pointed(kind):
    """The type of an array, and of arrays in named tuples, with pointers in their place."""
    if isinstance(kind, types.Array):
        return Pointer(kind.dtype)
    if isinstance(kind, types.BaseNamedTuple):
        return types.NamedTuple([_pointed(each) for each in kind.types], kind.instance_class)
    return kind


@no_type_check
def _without_count(context, builder, kind, value):
    if isinstance(kind, types.Array):
        return context.make_array(kind)(context, builder, value).data
    if isinstance(kind, types.BaseNamedTuple):
        parts = [builder.extract_value(value, k) for k in range(len(kind.types))]
        made = [
            _without_count(context, builder, *pair) for pair in zip(kind.types, parts, strict=True)
        ]
        return context.make_tuple(builder, _pointed(kind), made)
    return value


@intrinsic
@no_type_check
def pointers(_context, arrays):
    """An array, or a named tuple of them, as pointers; the arrays have to outlive their use."""

    def generate(context, builder, signature, arguments):
        return _without_count(context, builder, signature.args[0], arguments[0])

    return _pointed(arrays)(arrays), generate


@intrinsic
@no_type_check
def ahead(_context, pointer, count):
    """The pointer ``count`` numbers further on."""

    def generate(_context, builder, _signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, count), generate


@intrinsic
@no_type_check
def number(_context, pointer, at):
    """One number."""

    def generate(_context, builder, _signature, arguments):
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return pointer.dtype(pointer, at), generate


@intrinsic
@no_type_check
def put(_context, pointer, at, written):
    """Write one number."""

    def generate(context, builder, _signature, arguments):
        pointer, at, value = arguments
        builder.store(value, builder.gep(pointer, [at]))
        return context.get_dummy_value()

    return types.void(pointer, at, written), generate
