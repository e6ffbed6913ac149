"""Operations on four numbers or vectors at once, unrolled so that instructions can overlap.

A processor looks only a few dozen instructions ahead for independent ones, so the same operation
on all four has to come before the next operation.
"""

from typing import no_type_check

from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.registers import load, load_double, number, spread


@no_type_check
def each(operation):
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


@no_type_check
def _fourfold(of):
    """``of`` at four indices, ``stride`` numbers apart."""

    @kernel(inlined=True)
    @no_type_check
    def four(pointer, at, stride):
        second, third = at + stride, at + 2 * stride
        return of(pointer, at), of(pointer, second), of(pointer, third), of(pointer, third + stride)

    return four


loaded, spreads, numbers = _fourfold(load), _fourfold(spread), _fourfold(number)
doubled = _fourfold(load_double)
product, product_and_sum = each(lambda a, b: a * b), each(lambda a, b, c: a * b + c)
