"""What the local residual does to the rows of a layer's map."""

from collections.abc import Callable

import torch
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.evaluate import attention_map
from dsf.layers import InLineAttention, LocalResidual

SIDE, CHANNELS, HEADS = 5, 6, 2
NEAR, AWAY = 1e-12, 1e-3

Counts = Callable[[int, int], bool]


def on_the_grid(row: int, column: int) -> bool:
    """Whether a tap reads a token at all."""
    return 0 <= row < SIDE and 0 <= column < SIDE


def row_sums_with_residual(counts: Counts = on_the_grid) -> Certificate:
    """Rows of mixer map plus local map, against one plus the taps that find a token."""
    torch.manual_seed(0)
    residual = LocalResidual(CHANNELS, heads=HEADS, grid=(SIDE, SIDE))
    layer = InLineAttention(CHANNELS, heads=HEADS, causal=False, residual=residual).double()
    x = torch.randn(1, SIDE * SIDE, CHANNELS, dtype=torch.float64)
    with torch.no_grad():
        mixer = layer.mixer(x)
        heads = attention_map(mixer.system()).repeat_interleave(CHANNELS // HEADS, dim=1)
        map, value = heads + residual.local_map(x), layer.project.value(x)
        mixed = torch.einsum("bcij,bjc->bic", map, value)
        outputs = (layer.out(mixed) - layer(x)).abs().max().item()
        filters = residual.filters(x)
        expected = torch.stack(
            [1 + _taps(filters, i, j, counts) for i in range(SIDE) for j in range(SIDE)], dim=-1
        )
    off = (map.sum(dim=-1) - expected).abs().max().item()
    sums = filters.sum(dim=(-2, -1))[0]
    return argued(
        "with the local residual r the rows of InLine attention sum to 1 + sum r inside the grid, "
        "and to 1 plus a part of that sum at its border",
        "the residual is linear in the values, so its map is added; a tap beyond the border reads "
        "zero",
        {
            "mixer map plus local map, times the values, is the layer": outputs <= NEAR,
            "every row sums to 1 plus its taps on the grid": off <= NEAR,
            "the filters do not sum to zero": sums.abs().min().item() > AWAY,
        },
        method="the layer on a 5 x 5 grid, 6 channels, 2 heads, default weights",
        observed=off,
        figures={"row sums inside the grid, by channel": (1 + sums).tolist()},
    )


def _taps(filters: Tensor, row: int, column: int, counts: Counts) -> Tensor:
    """The sum of the taps at one place, for every sequence and channel."""
    found = [
        filters[..., a, b]
        for a in range(3)
        for b in range(3)
        if counts(row + a - 1, column + b - 1)
    ]
    return torch.stack(found).sum(dim=0)


CLAIMS = (
    Claim(
        id="INL-18",
        table=Table.OWN,
        statement=(
            "With the local residual, rows of InLine attention sum to 1 plus the sum of the "
            "filter inside the grid and 1 plus a part of it at the border."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=row_sums_with_residual,
        quote=(
            "The implementation of local attention residual is consistent with eq. 6 in our paper."
        ),
        place="the first author in issue 3 of LeapLabTHU/InLine",
    ),
)
