"""How many parameters the published models have."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, shown
from dsf.layers import InLineAttention, LocalResidual

DEPTH, PATCH, CLASSES, COLOURS, WIDER = 12, 16, 1000, 3, 4
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Size:
    """One model of the family, and its parameters as the README rounds them, in millions."""

    model_size: int
    heads: int
    image: int
    stated: float


SIZES = {
    "InLine-DeiT-T": Size(model_size=192, heads=6, image=224, stated=6.5),
    "InLine-DeiT-S": Size(model_size=320, heads=10, image=288, stated=16.7),
    "InLine-DeiT-B": Size(model_size=384, heads=12, image=448, stated=23.8),
}
README = {"CSwin-T": 25, "CSwin-S": 43, "CSwin-B": 96}
FIGURE = {"CSwin-T": 21, "CSwin-S": 33, "CSwin-B": 73}
"""InLine-CSwin, in millions, as the README and as the classification figure have them."""


class Transformer(nn.Module):
    """The parameters of a vision transformer with InLine attention; it is counted, never run."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, side = size.model_size, size.image // PATCH
        self.patches = nn.Conv2d(COLOURS, width, PATCH, stride=PATCH)
        self.class_token = nn.Parameter(torch.empty(width))
        self.positions = nn.Parameter(torch.empty(side * side + 1, width))
        self.blocks = nn.ModuleList(self._block(size, (side, side)) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    @staticmethod
    def _block(size: Size, grid: tuple[int, int]) -> nn.Module:
        width, heads = size.model_size, size.heads
        residual = LocalResidual(width, heads=heads, grid=grid, class_token=True)
        return nn.ModuleList(
            [
                nn.LayerNorm(width),
                InLineAttention(width, heads=heads, causal=False, residual=residual),
                nn.LayerNorm(width),
                nn.Linear(width, WIDER * width),
                nn.Linear(WIDER * width, width),
            ]
        )


def counted(sizes: Mapping[str, Size] = SIZES) -> Certificate:
    """Build the three models without memory, count, and round as the README does."""
    whole, local = {}, {}
    for name, size in sizes.items():
        with torch.device("meta"):
            model = Transformer(size)
        whole[name] = _parameters(model)
        residuals = [part for part in model.modules() if isinstance(part, LocalResidual)]
        local[name] = sum(map(_parameters, residuals))
    return argued(
        "InLine-DeiT-T, -S and -B have 6.5, 16.7 and 23.8 million parameters",
        "parameters are counted one by one",
        {
            f"{name} rounds to {size.stated} million": (
                round(whole[name] / MILLION, 1) == size.stated
            )
            for name, size in sizes.items()
        },
        method="the networks built of this library's layers on the meta device",
        figures={"parameters": whole, "of these in local residuals": local},
    )


def _parameters(module: nn.Module) -> int:
    return sum(part.numel() for part in module.parameters())


def readme_and_figure_differ(
    readme: Mapping[str, int] = README, figure: Mapping[str, int] = FIGURE
) -> Certificate:
    """Compare the two lists."""
    return shown(
        "the table of the README and its classification figure give different parameters for "
        "InLine-CSwin",
        float(max(abs(readme[name] - figure[name]) for name in readme)),
        beyond=1.0,
        case={"README, millions": dict(readme), "figure, millions": dict(figure)},
        method="both lists as published; a million is left to rounding",
    )


CLAIMS = (
    Claim(
        id="INL-19",
        table=Table.PAPER,
        statement="InLine-DeiT-T, -S and -B have 6.5, 16.7 and 23.8 million parameters.",
        standing=Standing.AUTHORS,
        expected=Verdict.ARGUED,
        check=counted,
        quote="6.5M, 16.7M, 23.8M",
        place="README of LeapLabTHU/InLine@e463a6f, table of models",
        hypotheses=("S at 288, B at 448 pixels",),
        note=(
            "6,477,736, 16,734,760 and 23,797,096 in full. With fewer parameters the models see "
            "larger images than those they are compared with: 325 and 785 tokens."
        ),
    ),
    Claim(
        id="INL-23",
        table=Table.SLIP,
        statement=(
            "The README's table gives InLine-CSwin 25, 43 and 96 million parameters, its Figure "
            "2 gives 21, 33 and 73."
        ),
        standing=Standing.AUTHORS,
        expected=Verdict.ARGUED,
        check=readme_and_figure_differ,
        quote="25M, 43M, 96M",
        place="README of LeapLabTHU/InLine@e463a6f, table; its Figure 2 has 21, 33, 73",
    ),
)
