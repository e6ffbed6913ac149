"""How much of the weight falls on the 3 x 3 window around a patch."""

from fractions import Fraction

import torch

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, out_of_reach
from dsf.evaluate import attention_map
from dsf.measures import uniform_neighbourhood
from dsf.mixers import SoftmaxAttention

SIDE, CLASS_TOKENS = 14, 1
NEAR = 1e-12


def uniform_mass(printed: Fraction = Fraction(9, 197)) -> Certificate:
    """Count the patches of each window on the grid, and weigh them by softmax at zero scores."""
    tokens = SIDE * SIDE + CLASS_TOKENS
    windows = {(i, j): _window(i, j) for i in range(SIDE) for j in range(SIDE)}
    interior = {Fraction(len(windows[i, j]), tokens) for i, j in windows if _inside(i, j)}
    mean = Fraction(sum(map(len, windows.values())), SIDE * SIDE * tokens)
    zero = torch.zeros(tokens, 1, dtype=torch.float64)
    uniform = attention_map(
        SoftmaxAttention(query=zero, key=zero, value=zero, causal=False).system()
    )
    masses = [uniform[i * SIDE + j, places].sum() for (i, j), places in windows.items()]
    library = {
        edge_aware: uniform_neighbourhood(
            grid=(SIDE, SIDE), edge_aware=edge_aware, extra_tokens=CLASS_TOKENS
        )
        for edge_aware in (False, True)
    }
    return argued(
        "uniform attention over 196 patches and a class token puts 9/197 on a 3 x 3 window",
        "each of N weights is 1/N; the patches of a window are counted",
        {
            "every window inside the grid has the printed mass, exactly": interior == {printed},
            "so says the measure": abs(library[False] - float(printed)) <= NEAR,
            "and the edge-aware one is the mean over all windows": abs(library[True] - float(mean))
            <= NEAR,
            "softmax at zero scores has that mean": (
                abs(torch.stack(masses).mean().item() - float(mean)) <= NEAR
            ),
        },
        method="counting on the 14 x 14 grid in fractions, and the library's map and measure",
        figures={
            "interior": float(max(interior)),
            "edge-aware mean": float(mean),
            "mean neighbours": float(mean * tokens),
        },
    )


def _window(i: int, j: int) -> list[int]:
    rows, columns = (range(max(0, place - 1), min(SIDE, place + 2)) for place in (i, j))
    return [row * SIDE + column for row in rows for column in columns]


def _inside(i: int, j: int) -> bool:
    return 0 < i < SIDE - 1 and 0 < j < SIDE - 1


def local_and_masked() -> Certificate:
    """Not decided here."""
    return out_of_reach(
        "effective local modelling is essential for softmax attention, and linear attention falls "
        "short of it",
        "vision transformers trained on ImageNet (300 epochs); the measure is "
        "dsf.measures.neighbourhood_mass",
    )


CLAIMS = (
    Claim(
        id="INL-17",
        table=Table.PAPER,
        statement=(
            "Uniform attention over a 14 x 14 grid and a class token puts 9/197 on a 3 x 3 window."
        ),
        standing=Standing.SECOND_HAND,
        expected=Verdict.ARGUED,
        check=uniform_mass,
        quote=(
            "The horizontal dotted line represents the expected average attention weight for a "
            "3x3 window if attention were randomly assigned (9/197)."
        ),
        place="caption of Figure 4, machine-written",
        hypotheses=("a window inside the grid",),
        note=(
            "That is the value inside the grid, 0.0457. Windows at the border hold fewer "
            "patches: the mean over all of them is 0.0414."
        ),
    ),
    Claim(
        id="INL-21",
        table=Table.PAPER,
        statement=(
            "Effective local modelling is essential for softmax attention, and linear attention "
            "falls short of it."
        ),
        standing=Standing.STATED,
        expected=Verdict.UNKNOWN,
        check=local_and_masked,
        quote=(
            "Secondly, we confirm that effective local modeling is essential for the success of "
            "Softmax attention, in which linear attention falls short."
        ),
        place="Abstract",
        hypotheses=(
            ("the comparison with InLine attention and random masking was seen in captions only"),
        ),
        note="The measure is dsf.measures.neighbourhood_mass.",
    ),
)
