"""Two tokens whose contrast is asked for: what no convex combination can say.

One head reads v_1 and v_2 and must answer v_1 - v_2, or 2 v_1 - v_2, at the second token. Its
weights are trained functions of tokens and places; the values are the tokens themselves. The floors
are distances to what the weights of a head can reach, whatever their training.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf import respond
from dsf.mixers import LinearAttention, Mixer, SoftmaxAttention, ZeroSumAttention
from experiments.training.sweep import Result

WIDTH, KEY = 8, 8
BATCH, RATE, STEPS = 256, 1e-2, 1500
TESTED, TEST_SEED = 4096, 1000
TARGETS = {"v1 - v2": (1.0, -1.0), "2 v1 - v2": (2.0, -1.0)}


def draw(generator: torch.Generator, samples: int) -> Float[Tensor, "samples 2 width"]:
    """Two independent standard normal tokens a sample."""
    return torch.randn(samples, 2, WIDTH, generator=generator)


class Head(nn.Module):
    """The last token's response of mixers on the tokens, added; nothing is trained but weights.

    Args:
        parts: each reads tokens with their places and returns a module for ``mixer(seen, values)``.
        free: trained matrices before and after the mixing, as layers have them.
    """

    def __init__(self, *parts: nn.Module, free: bool = False) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.before, self.after = (
            nn.Linear(WIDTH, WIDTH) if free else nn.Identity() for _ in range(2)
        )

    def forward(self, tokens: Float[Tensor, "batch 2 width"]) -> Float[Tensor, "batch width"]:
        """What is answered at the second token."""
        places = torch.eye(2).expand(len(tokens), 2, 2)
        seen = torch.cat([tokens, places], dim=-1)
        mixed = [self._mix(part(seen, self.before(tokens))) for part in self.parts]
        return self.after(torch.stack(mixed).sum(dim=0))

    def _mix(self, mixer: Mixer) -> Tensor:
        return respond(mixer.system(), mixer.signal())[:, -1, 0]


class Keyed(nn.Module):
    """Weights from queries and keys."""

    def __init__(self, mixer: Callable[..., Mixer]) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH + 2, KEY), nn.Linear(WIDTH + 2, KEY)
        self.mixer = mixer

    def forward(
        self, seen: Float[Tensor, "batch 2 seen"], value: Float[Tensor, "batch 2 width"]
    ) -> Mixer:
        """The mixer that these tokens drive."""
        return self.mixer(query=self.query(seen), key=self.key(seen), value=value)


class ZeroSum(nn.Module):
    """Radial zero-sum weights: a logit a token, gates of the reading token."""

    def __init__(self, *, zero_order: bool = False) -> None:
        super().__init__()
        self.logit, self.orders = nn.Linear(WIDTH + 2, 1), nn.Linear(WIDTH + 2, 3)
        self.zero_order = zero_order

    def forward(
        self, seen: Float[Tensor, "batch 2 seen"], value: Float[Tensor, "batch 2 width"]
    ) -> ZeroSumAttention:
        """The mixer that these tokens drive."""
        first, higher, zero = self.orders(seen).unbind(dim=-1)
        return ZeroSumAttention(
            value=value,
            logit=self.logit(seen).squeeze(-1),
            first_order=first.sigmoid(),
            higher_order=higher.sigmoid(),
            zero_order=zero.tanh() if self.zero_order else None,
        )


HEADS: dict[str, Callable[[], Head]] = {
    "softmax": lambda: Head(Keyed(SoftmaxAttention)),
    "linear": lambda: Head(Keyed(LinearAttention)),
    "zero-sum": lambda: Head(ZeroSum()),
    "zero-sum with zero order": lambda: Head(ZeroSum(zero_order=True)),
    "softmax + zero-sum": lambda: Head(Keyed(SoftmaxAttention), ZeroSum()),
    "softmax with trained matrices": lambda: Head(Keyed(SoftmaxAttention), free=True),
}


def floors(
    tokens: Float[Tensor, "batch 2 width"], target: Float[Tensor, "batch width"]
) -> dict[str, float]:
    """What weights with some property leave of the target at best: exact projections.

    Convex weights; weights that sum to one, as those of a softmax and a zero-sum head together do;
    weights that sum to zero.
    """
    first, second = tokens.unbind(dim=1)
    step = first - second
    convex = _nearest(second, step, target, low=0.0, high=1.0)
    affine = _nearest(second, step, target)
    zero_sum = _nearest(torch.zeros_like(second), step, target)
    return {
        "convex": relative_error(convex, target),
        "sum one": relative_error(affine, target),
        "sum zero": relative_error(zero_sum, target),
    }


def _nearest(
    start: Tensor, step: Tensor, target: Tensor, *, low: float = -math.inf, high: float = math.inf
) -> Tensor:
    """The point of ``start + share step``, share between ``low`` and ``high``, next to target."""
    share = ((target - start) * step).sum(dim=-1) / step.square().sum(dim=-1)
    return start + share.clamp(low, high).unsqueeze(-1) * step


def relative_error(
    answer: Float[Tensor, "batch width"], target: Float[Tensor, "batch width"]
) -> float:
    """Squared error over the energy of the target: 0 is solved, 1 is what silence gets."""
    return float((answer - target).square().sum() / target.square().sum())


@dataclass(frozen=True)
class Setting:
    """One run."""

    head: str
    target: str
    seed: int


def settings(seeds: tuple[int, ...]) -> dict[str, Setting]:
    """Every head on both targets."""
    return {
        f"{head}, {target}, seed {seed}": Setting(head, target, seed)
        for seed in seeds
        for target in TARGETS
        for head in HEADS
    }


def run(setting: Setting, *, steps: int = STEPS) -> Result:
    """Train one head, and its error on tokens that it has not seen, with the floors."""
    torch.manual_seed(setting.seed)
    head = HEADS[setting.head]()
    weights = torch.tensor(TARGETS[setting.target])
    optimiser = torch.optim.Adam(head.parameters(), lr=RATE)
    slope = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(setting.seed)
    started = time.process_time()
    for _ in range(steps):
        tokens = draw(generator, BATCH)
        missed = (head(tokens) - contrasted(tokens, weights)).square().mean()
        optimiser.zero_grad()
        missed.backward()
        optimiser.step()
        slope.step()
    tokens = draw(torch.Generator().manual_seed(TEST_SEED), TESTED)
    target = contrasted(tokens, weights)
    with torch.inference_mode():
        error = relative_error(head(tokens), target)
    return {
        **asdict(setting),
        "error": error,
        "floors": floors(tokens, target),
        "steps": steps,
        "processor_seconds": round(time.process_time() - started, 1),
    }


def contrasted(
    tokens: Float[Tensor, "batch 2 width"], weights: Float[Tensor, "2"]
) -> Float[Tensor, "batch width"]:
    """The tokens, each times its weight, added."""
    return (weights.unsqueeze(-1) * tokens).sum(dim=-2)
