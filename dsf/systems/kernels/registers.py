"""What compiled loops are made of: exponentials, and SIMD vectors and pointers as types of numba.

Operations on four numbers or vectors are unrolled: a processor looks only a few dozen instructions
ahead for independent ones, so the same operation on all four has to come before the next operation.
Rows of maps are written with streaming stores, which bypass the caches: an ordinary store first
loads the cache line that it overwrites, which takes as long as writing it.
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic, models, overload, register_model
from numpy.polynomial import Chebyshev, Polynomial

from dsf.systems.kernels.compiling import kernel

ZERO, ONE_SINGLE = np.float32(0), np.float32(1)
# Adding such a number rounds to an integer, which is then in the last bits of the sum.
ROUNDER, ROUNDER_DOUBLE = np.float32(1.5 * 2**23), 1.5 * 2**52
ONE, ONE_DOUBLE = np.int32(0x3F800000), np.int64(0x3FF << 52)
LEAST, MOST = np.float32(-127), np.float32(128)
LEAST_DOUBLE, MOST_DOUBLE = -1023.0, 1024.0
MANTISSA, MANTISSA_DOUBLE = np.int32(23), np.int64(52)


def slope_of_power(degree: int, low: float, high: float) -> tuple[Any, ...]:
    """``(2^x - 1) / x`` from ``low`` to ``high`` as a polynomial, the constant first."""

    def slope(x: Any) -> Any:
        at_zero = np.abs(x) < 1e-12
        return np.where(at_zero, np.log(2), np.expm1(x * np.log(2)) / np.where(at_zero, 1, x))

    fit = Chebyshev.interpolate(slope, degree, domain=[low, high])
    return tuple(fit.convert(kind=Polynomial).coef)


A0, A1, A2, A3, A4, A5 = (np.float32(c) for c in slope_of_power(5, -0.5, 0.5))
C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10 = (float(c) for c in slope_of_power(10, -0.5, 0.5))


@intrinsic
def chosen(_context, _condition, yes, no):
    """``yes`` if the condition holds, else ``no``, as a select instruction instead of a branch."""

    def generate(_context, builder, _signature, arguments):
        return builder.select(*arguments)

    return yes(types.boolean, yes, no), generate


@kernel(inlined=True)
def factor_of(x):
    """Whether ``x`` rounds to zero, and in that case ``2^x - 1`` to seven digits, else ``2^x``."""
    x = chosen(x < LEAST, LEAST, x)
    x = chosen(x > MOST, MOST, x)
    rounded = np.float32(x + ROUNDER)
    whole = rounded - ROUNDER
    rest = x - whole
    slope = A0 + rest * (A1 + rest * (A2 + rest * (A3 + rest * (A4 + rest * A5))))
    less = rest * slope
    power = np.int32((rounded.view(np.int32) << MANTISSA) + ONE).view(np.float32)
    is_slow = whole == ZERO
    return is_slow, chosen(is_slow, less, power * (ONE_SINGLE + less))


@kernel()
def power_of_two(x):
    """``2^x`` in double precision, to sixteen digits."""
    x = chosen(x < LEAST_DOUBLE, LEAST_DOUBLE, x)
    x = chosen(x > MOST_DOUBLE, MOST_DOUBLE, x)
    rounded = np.float64(x + ROUNDER_DOUBLE)
    rest = x - (rounded - ROUNDER_DOUBLE)
    high = C5 + rest * (C6 + rest * (C7 + rest * (C8 + rest * (C9 + rest * C10))))
    slope = C0 + rest * (C1 + rest * (C2 + rest * (C3 + rest * (C4 + rest * high))))
    power = np.int64((rounded.view(np.int64) << MANTISSA_DOUBLE) + ONE_DOUBLE).view(np.float64)
    return power * (1.0 + rest * slope)


# Bits of sqrt(1/2): mantissas are reduced to the interval from sqrt(1/2) to sqrt(2).
ROOT, ROOT_DOUBLE = np.int32(0x3F3504F3), np.int64(0x3FE6A09E667F3BCD)
LOG_TWO, LOG_TWO_SINGLE = float(np.log(2)), np.float32(np.log(2))
# coefficients of atanh(s) / s as a series in s²
SERIES = tuple(1 / (2 * k + 1) for k in range(11))
S0, S1, S2, S3, S4, S5, S6, S7, S8, S9, S10 = SERIES
T1, T2, T3, T4, T5 = (np.float32(each) for each in SERIES[1:6])
TWO_SINGLE = np.float32(2)


def log_of(x: Any) -> Any:
    """The natural logarithm of a positive normal number; some number for zero and nan."""
    raise NotImplementedError


@overload(log_of, jit_options={"error_model": "numpy", "fastmath": {"contract"}})
def _log_of(x):
    if x == types.float32:
        return _log_single
    return _log_double


def _log_single(x):
    bits = np.float32(x).view(np.int32)
    whole = np.int32(np.int32(bits - ROOT) >> MANTISSA)
    rest = np.int32(bits - np.int32(whole << MANTISSA)).view(np.float32)
    s = (rest - ONE_SINGLE) / (rest + ONE_SINGLE)
    t = s * s
    series = ONE_SINGLE + t * (T1 + t * (T2 + t * (T3 + t * (T4 + t * T5))))
    return np.float32(whole) * LOG_TWO_SINGLE + TWO_SINGLE * s * series


def _log_double(x):
    bits = np.float64(x).view(np.int64)
    whole = np.int64(np.int64(bits - ROOT_DOUBLE) >> MANTISSA_DOUBLE)
    rest = np.int64(bits - np.int64(whole << MANTISSA_DOUBLE)).view(np.float64)
    s = (rest - 1.0) / (rest + 1.0)
    t = s * s
    high = S5 + t * (S6 + t * (S7 + t * (S8 + t * (S9 + t * S10))))
    series = S0 + t * (S1 + t * (S2 + t * (S3 + t * (S4 + t * high))))
    return np.float64(whole) * LOG_TWO + 2.0 * s * series


BYTES = 64 if get_host_cpu_features().get("avx512f") else 32
WIDE = BYTES // 8  # lanes in double precision
FUSED = ("contract",)


class Vector(types.Type):  # type: ignore[misc]
    """The numbers of one SIMD register."""

    def __init__(self, dtype: types.Type) -> None:
        self.dtype, self.lanes = dtype, BYTES * 8 // dtype.bitwidth
        super().__init__(f"Vector({dtype})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager, kind):
        number = manager[kind.dtype].get_value_type()
        super().__init__(manager, kind, ir.VectorType(number, kind.lanes))


DOUBLE = Vector(types.float64)


def in_all_lanes(builder, number, lanes):
    kind, index = ir.VectorType(number.type, lanes), ir.IntType(32)
    one = builder.insert_element(kind(ir.Undefined), number, index(0))
    return builder.shuffle_vector(one, one, ir.VectorType(index, lanes)([0] * lanes))


def _lane_by_lane(instruction: str) -> Any:
    @intrinsic
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


# +, - and * of vectors with vectors and with numbers.
for _operation, _instruction in (("add", "fadd"), ("sub", "fsub"), ("mul", "fmul")):
    overload(getattr(operator, _operation))(_lane_by_lane(_instruction))


@intrinsic
def later(_context, one, other):
    """Lane by lane the number whose bit pattern is the larger unsigned integer.

    Of two non-negative numbers that is the larger one; nan and negative numbers count as larger.
    """

    def generate(_context, builder, _signature, arguments):
        bits = ir.VectorType(ir.IntType(one.dtype.bitwidth), one.lanes)
        left, right = (builder.bitcast(side, bits) for side in arguments)
        return builder.select(builder.icmp_unsigned(">", left, right), *arguments)

    return one(one, other), generate


@intrinsic
def total(_context, vector):
    """The sum of all lanes, added in pairs."""
    one = vector.dtype

    def generate(context, builder, _signature, arguments):
        number, wide = (context.get_value_type(kind) for kind in (one, vector))
        name = f"llvm.vector.reduce.fadd.v{vector.lanes}f{one.bitwidth}"
        kind = ir.FunctionType(number, [number, wide])
        summed = get_or_insert_function(builder.module, kind, name)
        return builder.call(summed, [number(-0.0), *arguments], fastmath=("reassoc",))

    return one(vector), generate


@intrinsic
def in_first(_context, count, yes, no):
    """``yes`` in the first ``count`` lanes and ``no`` in the others."""

    def generate(_context, builder, _signature, arguments):
        count, yes, no = arguments
        whole = ir.VectorType(ir.IntType(32), size)
        limit = in_all_lanes(builder, builder.trunc(count, whole.element), size)
        return builder.select(builder.icmp_signed("<", whole(list(range(size))), limit), yes, no)

    size = yes.lanes
    return yes(count, yes, no), generate


@intrinsic
def nothing(_context, pointer):
    """A vector of zeros of the number type that ``pointer`` points to."""
    vector = Vector(pointer.dtype)
    return vector(pointer), lambda context, *_: context.get_value_type(vector)([0.0] * vector.lanes)


@intrinsic
def lanes(_context, pointer):
    """The number of lanes of a vector of the number type that ``pointer`` points to."""
    count = Vector(pointer.dtype).lanes
    return types.int64(pointer), lambda *_: ir.IntType(64)(count)


def _pointed(kind):
    if isinstance(kind, types.Array):
        return types.CPointer(kind.dtype)
    if isinstance(kind, types.BaseNamedTuple):
        return types.NamedTuple([_pointed(each) for each in kind.types], kind.instance_class)
    return kind


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
def pointers(_context, arrays):
    """An array, or a named tuple of arrays, as pointers. The arrays must outlive their use."""

    def generate(context, builder, signature, arguments):
        return _without_count(context, builder, signature.args[0], arguments[0])

    return _pointed(arrays)(arrays), generate


@intrinsic
def ahead(_context, pointer, count):
    """The pointer advanced by ``count`` numbers."""

    def generate(_context, builder, _signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, count), generate


def _vector_at(builder, pointer, at, vector):
    return builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())


def _as(builder, value, vector):
    """A vector converted to the precision of another vector type."""
    if value.type == vector:
        return value
    narrower = vector.element == ir.FloatType()
    return builder.fptrunc(value, vector) if narrower else builder.fpext(value, vector)


@intrinsic
def load(_context, pointer, at):
    """The numbers from index ``at`` on as a vector."""
    vector = Vector(pointer.dtype)

    def generate(context, builder, _signature, arguments):
        address = _vector_at(builder, *arguments, context.get_value_type(vector))
        return builder.load(address, align=pointer.dtype.bitwidth // 8)

    return vector(pointer, at), generate


@intrinsic
def load_double(_context, pointer, at):
    """``WIDE`` numbers from index ``at`` on, converted to double precision."""

    def generate(context, builder, _signature, arguments):
        stored = ir.VectorType(context.get_value_type(pointer.dtype), WIDE)
        found = builder.load(
            _vector_at(builder, *arguments, stored), align=pointer.dtype.bitwidth // 8
        )
        return _as(builder, found, context.get_value_type(DOUBLE))

    return DOUBLE(pointer, at), generate


@intrinsic
def spread(_context, pointer, at):
    """The number at index ``at`` in every lane (a broadcast load)."""
    vector = Vector(pointer.dtype)

    def generate(_context, builder, _signature, arguments):
        return in_all_lanes(builder, builder.load(builder.gep(*arguments[:1], arguments[1:])), size)

    size = vector.lanes
    return vector(pointer, at), generate


@intrinsic
def store(_context, pointer, at, vector):
    """Write a vector from index ``at`` on, converted to the number type of the memory."""

    def generate(context, builder, _signature, arguments):
        pointer_, at, value = arguments
        stored = ir.VectorType(context.get_value_type(pointer.dtype), vector.lanes)
        address = _vector_at(builder, pointer_, at, stored)
        builder.store(_as(builder, value, stored), address, align=pointer.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(pointer, at, vector), generate


@intrinsic
def store_past(_context, pointer, at, vector):
    """Write a vector by a streaming store, which bypasses the caches; the address must be aligned.

    A loop that uses it must end with ``arrived()``.
    """

    def generate(context, builder, _signature, arguments):
        pointer, at, value = arguments
        made = builder.store(value, _vector_at(builder, pointer, at, value.type), align=BYTES)
        made.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(pointer, at, vector), generate


@intrinsic
def arrived(_context):
    """A memory fence: all earlier stores become visible to other threads."""

    def generate(context, builder, _signature, _arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def each(operation: Callable[..., Any]) -> Any:
    """``operation``, of one to three arguments, applied to tuples of four numbers or vectors."""
    of = kernel(inlined=True)(operation)

    def on_one(a):
        return of(a[0]), of(a[1]), of(a[2]), of(a[3])

    def on_two(a, b):
        return of(a[0], b[0]), of(a[1], b[1]), of(a[2], b[2]), of(a[3], b[3])

    def on_three(a, b, c):
        first, second = of(a[0], b[0], c[0]), of(a[1], b[1], c[1])
        return first, second, of(a[2], b[2], c[2]), of(a[3], b[3], c[3])

    made = (on_one, on_two, on_three)[operation.__code__.co_argcount - 1]
    return kernel(inlined=True)(made)


def _fourfold(of: Callable[..., Any]) -> Any:
    """``of`` at four indices, ``stride`` numbers apart."""

    @kernel(inlined=True)
    def four(pointer, at, stride):
        second, third = at + stride, at + 2 * stride
        return of(pointer, at), of(pointer, second), of(pointer, third), of(pointer, third + stride)

    return four


loaded, spreads = _fourfold(load), _fourfold(spread)
numbers = _fourfold(kernel(inlined=True)(lambda pointer, at: pointer[at]))
product, product_and_sum = each(lambda a, b: a * b), each(lambda a, b, c: a * b + c)


@kernel(inlined=True)
def weighted_sum(weights, parts):
    """The sum of four products."""
    first = weights[0] * parts[0] + weights[1] * parts[1]
    return first + (weights[2] * parts[2] + weights[3] * parts[3])


LINE = 64  # bytes of a cache line


class Target(NamedTuple):
    """The memory that rows are written to."""

    numbers: np.ndarray
    rows: int  # of every system
    clean: bool  # whether it is filled with zeros
    skew: int  # numbers before the first boundary of a cache line


def target_of(maps: np.ndarray, *, clean: bool) -> Target:
    """The memory of some maps, a contiguous array ``entry rows columns``, as a target."""
    skew = -maps.ctypes.data // maps.itemsize % (LINE // maps.itemsize)
    return Target(maps.reshape(-1), maps.shape[1], clean, skew)


@kernel()
def stream(line, count, target, o):
    """Copy ``count`` numbers of ``line`` to the target from index ``o`` on by streaming stores."""
    out, lane = ahead(target.numbers, o), lanes(line)
    begun = min(count, (target.skew - o) % lane)
    whole = begun + (count - begun) // lane * lane
    for j in range(begun):
        out[j] = line[j]
    for j in range(begun, whole, lane):
        store_past(out, j, load(line, j))
    for j in range(whole, count):
        out[j] = line[j]
