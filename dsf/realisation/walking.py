"""Walking through the tokens once, keeping the directions of the state that matter.

The state after token t holds what the past left in coordinates that are orthonormal in the signals
(input-normal form); a singular value decomposition of what the future sees of it says which
directions matter. Directions dropped at different tokens are orthogonal as rows, so the squared
errors of all drops add up exactly.

Source: Dewilde & van der Veen 1998, "Time-Varying Systems and Computations", chapters 5 and 10.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from dsf.evaluate.windows.folding import fold
from dsf.system import System
from dsf.transition import Dense


class Token(NamedTuple):
    """The reduced coefficients of one token, in the coordinates before and after it."""

    A: Shaped[Tensor, "*batch kept before"]
    B: Shaped[Tensor, "*batch kept input"]
    C: Shaped[Tensor, "*batch output before"]
    D: Shaped[Tensor, "*batch output input"]
    dropped: Shaped[Tensor, "*batch"]


class Cut(NamedTuple):
    """Which directions stay: those above a threshold, at most ``order``."""

    threshold: Shaped[Tensor, "*batch"]
    order: int | None

    def mask(self, values: Shaped[Tensor, "*batch direction"]) -> Bool[Tensor, "*batch direction"]:
        kept = values > self.threshold.unsqueeze(-1)
        if self.order is not None:
            kept[..., self.order :] = False
        return kept


def through_map(map: Tensor, cut: Cut) -> Iterator[Token]:
    """Token by token, with the rows that the future still reads of the state."""
    steps = map.shape[-1]
    future = map[..., :, :0]
    for t in range(steps):
        read, ahead = future[..., :1, :], future[..., 1:, :]
        seen = torch.cat([ahead, map[..., t + 1 :, t : t + 1]], dim=-1)
        left, values, right, dropped = _split(seen, cut)
        width = read.shape[-1]
        feedthrough = map[..., t : t + 1, t : t + 1]
        yield Token(right[..., :width], right[..., width:], read, feedthrough, dropped)
        future = left * values.unsqueeze(-2)


def through_system(system: System, cut: Cut) -> Iterator[Token]:
    """Token by token, with the original state as a combination of the kept coordinates."""
    futures = list(_futures(system))[::-1]
    size = (*system.batch, system.state_size, 0)
    basis = torch.zeros(size, dtype=system.dtype, device=system.device)
    for t, future in enumerate(futures):
        token = system.window(t, t + 1)
        B, C, D = (
            torch.as_tensor(part).squeeze(-3).to(system.dtype)
            for part in (token.B, token.C, token.feedthrough)
        )
        carried = (token.A @ basis.unsqueeze(-3)).squeeze(-3)
        images = torch.cat([carried, B], dim=-1)
        right, dropped = _split(future @ images, cut)[2:]
        width = basis.shape[-1]
        before = system.reads_before_update
        read = C @ (basis if before else carried)
        through = D if before else D + C @ B
        yield Token(right[..., :width], right[..., width:], read, through, dropped)
        basis = images @ right.mH


def _futures(system: System) -> Iterator[Tensor]:
    """Factors of what the future sees of the state, after the last token first."""
    size = (*system.batch, system.state_size, system.state_size)
    factor = torch.zeros(size, dtype=system.dtype, device=system.device)
    for t in range(system.steps - 1, -1, -1):
        yield factor
        panel = fold(system, t, t + 1)
        stacked = torch.cat([panel.reach, panel.seen_before(factor)], dim=-2)
        factor = torch.linalg.qr(stacked, mode="r").R


def _split(seen: Tensor, cut: Cut) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Singular directions that stay, the others zero or gone, and the energy that is dropped."""
    left, values, right = torch.linalg.svd(seen, full_matrices=False)
    kept = cut.mask(values)
    dropped = values.square().where(~kept, 0).sum(dim=-1)
    width = int(kept.sum(dim=-1).max()) if kept.numel() else 0
    right = right * kept.unsqueeze(-1)
    values = values * kept
    return left[..., :width], values[..., :width], right[..., :width, :], dropped


def assembled(tokens: list[Token], owner: str) -> System:
    states = max(1, *(token.A.shape[-2] for token in tokens))

    def padded(part: Tensor, rows: int | None, columns: int | None) -> Tensor:
        right = 0 if columns is None else columns - part.shape[-1]
        down = 0 if rows is None else rows - part.shape[-2]
        return torch.nn.functional.pad(part, (0, right, 0, down))

    if not tokens:
        raise ValueError(f"{owner}: the map has no tokens.")
    A = torch.stack([padded(token.A, states, states) for token in tokens], dim=-3)
    B = torch.stack([padded(token.B, states, None) for token in tokens], dim=-3)
    C = torch.stack([padded(token.C, None, states) for token in tokens], dim=-3)
    D = torch.stack([token.D for token in tokens], dim=-3)
    return System(Dense(A), B, C, D, reads_before_update=True)
