"""How many numbers a layer trains."""

from collections.abc import Callable

from torch import nn

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued
from dsf.layers import GatedLinearAttention, MetaLinearAttention, SoftmaxAttention

WIDTHS = (64, 512)
Build = Callable[[int], nn.Module]


def matrices(layer: nn.Module) -> int:
    """Entries of all projections."""
    return sum(part.weight.numel() for part in layer.modules() if isinstance(part, nn.Linear))


def everything(layer: nn.Module) -> int:
    """All trained numbers: biases, the augmentation and the filter too."""
    return sum(weight.numel() for weight in layer.parameters())


def counted(build: Build = MetaLinearAttention) -> Certificate:
    """Build the layers at two widths and count; RetNet's from the shapes of its projections."""
    counts = {width: everything(build(width)) for width in WIDTHS}
    return argued(
        "a mixer trains 4 d² numbers (softmax 4 d², GLA 4 d² + 24 d, RetNet 8 d²), and with the "
        "bias, the augmentation and the filter of its code 5.5 d more",
        "every count is a polynomial of degree two without a constant, so two widths settle it",
        {
            "MetaLA, matrices: 4 d²": _all(lambda d: matrices(build(d)) == 4 * d**2),
            "MetaLA, everything: 4 d² + 5.5 d": _all(
                lambda d: 2 * everything(build(d)) == 8 * d**2 + 11 * d
            ),
            "softmax attention: 4 d²": _all(lambda d: matrices(SoftmaxAttention(d)) == 4 * d**2),
            "GLA: 4 d² + 24 d": _all(
                lambda d: matrices(GatedLinearAttention(d)) == 4 * d**2 + 24 * d
            ),
            "RetNet: 8 d²": _all(lambda d: _retention(d) == 8 * d**2),
        },
        method="parameters of built layers",
        observed=float(counts[WIDTHS[0]]),
        figures={f"MetaLA, d = {width}": count for width, count in counts.items()},
    )


def _retention(width: int) -> int:
    """Query and key of the model's width; value, output gate and way back of twice that."""
    return 2 * width * width + 3 * width * 2 * width


def _all(holds: Callable[[int], bool]) -> bool:
    return all(holds(width) for width in WIDTHS)


CLAIMS = (
    Claim(
        id="MLA-19",
        table=Table.PAPER,
        statement=(
            "A layer of model width d trains 4 d² numbers, as softmax attention does, where GLA "
            "needs 4 d² + 24 d and RetNet 8 d²."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=counted,
        quote=(
            "… the whole number of parameters used by a MetaLA layer is 4d², the same as the "
            "softmax attention layer and smaller than … RetNet [14] (8d²) and GLA [15] (4d² + "
            "24d), etc."
        ),
        place="A3.1",
        hypotheses=(
            "d_v = d, d_k = d/2",
            "bias, convolution and w_aug not counted",
        ),
        note=(
            "With filter, bias and augmentation of the released code 5.5 d more: 16,736 at d = "
            "64 and 1,051,392 at d = 512."
        ),
    ),
)
