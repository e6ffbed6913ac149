"""Small matrix products and triangular solves, ``TILE`` columns wide, for other compiled loops.

All arrays are flat. Written so that the compiler keeps sums in registers: one array for each
matrix, fixed distances between rows, and a first line that says that no index wraps around.
"""

from typing import no_type_check

from dsf.kernels.compiling import kernel

TILE = 64


@kernel()
@no_type_check
def add_product(left, right, rows, inner, out):
    """``out += left @ right``: ``rows x inner`` and ``inner x TILE``; rows and inner by fours."""
    if rows < 0 or inner < 0:
        return
    for i in range(rows // 4):
        o, l0 = i * (4 * TILE), i * 4 * inner
        for n in range(inner // 4):
            l1, l2, l3 = l0 + inner, l0 + 2 * inner, l0 + 3 * inner
            a0, b0, c0, d0 = left[l0], left[l0 + 1], left[l0 + 2], left[l0 + 3]
            a1, b1, c1, d1 = left[l1], left[l1 + 1], left[l1 + 2], left[l1 + 3]
            a2, b2, c2, d2 = left[l2], left[l2 + 1], left[l2 + 2], left[l2 + 3]
            a3, b3, c3, d3 = left[l3], left[l3 + 1], left[l3 + 2], left[l3 + 3]
            l0, r = l0 + 4, n * (4 * TILE)
            for j in range(TILE):
                a, b = right[r + j], right[r + TILE + j]
                c, d = right[r + 2 * TILE + j], right[r + 3 * TILE + j]
                out[o + j] += a0 * a + b0 * b + (c0 * c + d0 * d)
                out[o + TILE + j] += a1 * a + b1 * b + (c1 * c + d1 * d)
                out[o + 2 * TILE + j] += a2 * a + b2 * b + (c2 * c + d2 * d)
                out[o + 3 * TILE + j] += a3 * a + b3 * b + (c3 * c + d3 * d)


@kernel()
@no_type_check
def add_triangle(left, right, rows, out):
    """``out += left @ right`` for a ``rows x rows`` matrix that is zero above the diagonal."""
    if rows < 0:
        return
    for i in range(rows // 4):
        o, l0 = i * (4 * TILE), i * 4 * rows
        for n in range(i + 1):
            l1, l2, l3 = l0 + rows, l0 + 2 * rows, l0 + 3 * rows
            a0, b0, c0, d0 = left[l0], left[l0 + 1], left[l0 + 2], left[l0 + 3]
            a1, b1, c1, d1 = left[l1], left[l1 + 1], left[l1 + 2], left[l1 + 3]
            a2, b2, c2, d2 = left[l2], left[l2 + 1], left[l2 + 2], left[l2 + 3]
            a3, b3, c3, d3 = left[l3], left[l3 + 1], left[l3 + 2], left[l3 + 3]
            l0, r = l0 + 4, n * (4 * TILE)
            for j in range(TILE):
                a, b = right[r + j], right[r + TILE + j]
                c, d = right[r + 2 * TILE + j], right[r + 3 * TILE + j]
                out[o + j] += a0 * a + b0 * b + (c0 * c + d0 * d)
                out[o + TILE + j] += a1 * a + b1 * b + (c1 * c + d1 * d)
                out[o + 2 * TILE + j] += a2 * a + b2 * b + (c2 * c + d2 * d)
                out[o + 3 * TILE + j] += a3 * a + b3 * b + (c3 * c + d3 * d)


@kernel()
@no_type_check
def solve_unit_triangle(below, rows, columns):
    """``columns`` solved in place by ``identity + below``, strictly lower triangular."""
    if rows < 0:
        return
    for i in range(1, rows):
        o, at = i * TILE, i * rows
        for n in range(i // 4):
            a, b = below[at + 4 * n], below[at + 4 * n + 1]
            c, d = below[at + 4 * n + 2], below[at + 4 * n + 3]
            r = n * (4 * TILE)
            for j in range(TILE):
                columns[o + j] -= (a * columns[r + j] + b * columns[r + TILE + j]) + (
                    c * columns[r + 2 * TILE + j] + d * columns[r + 3 * TILE + j]
                )
        for n in range(i // 4 * 4, i):
            a, r = below[at + n], n * TILE
            for j in range(TILE):
                columns[o + j] -= a * columns[r + j]
