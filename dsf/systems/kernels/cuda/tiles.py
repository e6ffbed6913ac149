"""Maps on CUDA in tiles of 64 x 64 entries.

Off the diagonal an entry is a read times the decays from the start of its tile, a write times the
decays to the end of its tile, and the decays of the whole tiles between. All three are running
products, so decays of zero or near zero lose no accuracy.
"""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from dsf.systems.kernels.cuda.layout import LAUNCH, laid, vectors, write_pairs

TILE, STATES = 64, 32


class Borders:
    """Running products of decays up to the edges of tiles.

    Attributes:
        reach: from the start of its tile up to a token, its own decay included unless ``before``.
        sent: after a token up to the end of its tile.
        product: over whole tiles, in double precision.
    """

    def __init__(self, decay: Float[Tensor, "head time decays"], *, before: bool) -> None:
        heads, steps, decays = decay.shape
        padded = pad(decay, (0, 0, 0, -steps % TILE), value=1.0).double()
        tiles = padded.view(heads, -1, TILE, decays)
        upto = tiles.cumprod(2)
        self.product = upto[:, :, -1].contiguous()
        shifted = pad(upto[:, :, :-1], (0, 0, 1, 0), value=1.0)
        self.reach = (shifted if before else upto).to(decay.dtype)
        behind = pad(tiles.flip(2).cumprod(2)[:, :, :-1], (0, 0, 1, 0), value=1.0)
        self.sent = behind.flip(2).to(decay.dtype).contiguous()


def write_map(
    read: Float[Tensor, "head time state"],
    write: Float[Tensor, "head time state"],
    decay: Float[Tensor, "head time decays"],
    gain: Float[Tensor, "head time"],
    borders: Borders,
    out: Float[Tensor, "head rows time"],
    *,
    rows: tuple[int, int, int],
    before: bool,
) -> None:
    """Write rows of maps without feedthrough.

    ``rows`` are the first row, the row after the last, and the first row of ``out``. Everything is
    in single precision; ``out`` is contiguous and must be zero above the diagonal beforehand.
    """
    first, last, top = rows
    write_pairs(read, write, decay, gain, out, chunk=TILE, before=before, rows=rows)
    begin, end = first // TILE, triton.cdiv(last, TILE)
    if end < 2:
        return
    parts = [laid(part) for part in (read, write, gain)]
    arrays, far = zip(*parts, strict=True)
    _far[(len(out), end - begin, end - 1)](
        *arrays,
        borders.reach,
        borders.sent,
        borders.product,
        out,
        *far,
        borders.product.shape[1],
        write.shape[1],
        write.shape[2],
        begin,
        first,
        last,
        top,
        out.stride(0),
        DIAGONAL=decay.shape[-1] > 1,
        C=TILE,
        N=STATES,
        **LAUNCH,
    )


@triton.jit
@no_type_check
def _far(
    read,
    write,
    gain,
    reach,
    sent,
    product,
    out,
    read_far,
    write_far,
    gain_far,
    tiles,
    steps,
    states,
    begin,
    first,
    last,
    top,
    out_far,
    DIAGONAL: tl.constexpr,
    C: tl.constexpr,
    N: tl.constexpr,
):
    h, own, earlier = tl.program_id(0).to(tl.int64), tl.program_id(1) + begin, tl.program_id(2)
    if earlier >= own:
        return
    i = tl.arange(0, C)
    t, s = own * C + i, earlier * C + i
    decays = states if DIAGONAL else 1
    weights = tl.zeros((C, C), tl.float32)
    for start in range(0, states, N):
        n = start + tl.arange(0, N)
        m = n if DIAGONAL else n * 0
        known = n < states
        gap = tl.full((N,), 1.0, tl.float64)
        for tile in range(earlier + 1, own):
            gap *= tl.load(product + (h * tiles + tile) * decays + m, mask=known, other=1.0)
        there = (t < steps)[:, None] & known[None, :]
        shift = h * tiles * C
        up = tl.load(reach + (shift + t[:, None]) * decays + m[None, :], mask=there, other=0.0)
        r = vectors(read + h * read_far, t, n, steps, states)
        r = (r * (up * gap[None, :])).to(tl.float32)
        seen = known[None, :]
        behind = tl.load(sent + (shift + s[:, None]) * decays + m[None, :], mask=seen, other=0.0)
        w = vectors(write + h * write_far, s, n, steps, states)
        weights += tl.dot(r, tl.trans(w * behind), input_precision="ieee")
    weights *= tl.load(gain + h * gain_far + s)[None, :]
    place = out + h * out_far + (t - first + top)[:, None].to(tl.int64) * steps + s[None, :]
    tl.store(place, weights, mask=((t >= first) & (t < last))[:, None])
