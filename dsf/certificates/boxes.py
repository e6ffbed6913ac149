"""A certificate on the softmax weight that falls on a window of keys, for all queries of a box."""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import exp, isfinite, log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import certificate

MAX_BOXES = 2000
MAX_CLIMBS = 60
MAX_EXPONENT = 700.0  # the largest exponent that a float takes, rounded down
DYADIC = 1 << 40


@certificate.claim
def locality(
    key: Float[Tensor, "tokens key"],
    box: tuple[Float[Tensor, " key"], Float[Tensor, " key"]],
    *,
    window: tuple[int, int],
    share: float,
    scale: float | None = None,
    boxes: int = MAX_BOXES,
    folder: certificate.Where = None,
) -> certificate.Certificate:
    """Certify that at least ``share`` of the softmax row lies on the keys ``window[0]`` to
    ``window[1] - 1`` for every query of a box.

    Branch and bound: first projected gradient steps search the box for a counterexample; then boxes
    are bounded by the tangent of log-sum-exp and split along the coordinate with most influence.
    The checker evaluates every leaf again in interval arithmetic. ``bound`` is the share,
    ``observed`` the smallest share found. UNKNOWN if ``boxes`` boxes are not enough.

    Args:
        key: the keys that the row reads.
        box: lower and upper bounds of the query.
        window: first key and the one after the last.
        share: between 0 and 1.
        scale: factor on the scores, as a stored number; ``key width ** -0.5`` by default.
        boxes: largest number of boxes that are examined.

    Raises:
        ValueError: for an empty window or box, or a share outside 0 ... 1.
    """
    lower, upper = (part.double() for part in box)
    if scale is not None and not isfinite(scale):
        raise ValueError(f"locality: 'scale' must be finite, but it is {scale}.")
    start, stop = window
    if not 0 <= start < stop <= len(key):
        raise ValueError(
            f"locality: 'window' must contain at least one of the {len(key)} keys, but it is "
            f"{window}."
        )
    if bool((lower > upper).any()):
        raise ValueError("locality: 'box' has a lower bound above its upper bound.")
    if not 0 < share < 1:
        raise ValueError(f"locality: 'share' must lie between 0 and 1, but it is {share}.")
    if stop - start == len(key):
        raise ValueError("locality: the window contains every key, so its share is 1.")
    factor = key.shape[-1] ** -0.5 if scale is None else float(scale)
    token = torch.arange(len(key))
    inside = (token >= start) & (token < stop)
    search = _Search(factor * key.double(), inside, log((1 - share) / share))
    proposal = certificate.Proposal(
        name="locality",
        tensors={"key": key, "lower": lower, "upper": upper},
        method="tangent of log-sum-exp on a split tree",
        parameters={
            "box": [float(lower.min()), float(upper.max())],
            "window": list(window),
            "share": certificate.written(share),
            "scale": certificate.written(factor),
        },
        bound=share,
        limits={"boxes": boxes},
    )
    if not bool(key.isfinite().all()):
        return certificate.issued(proposal, folder)
    worst, query = search.attack(lower, upper)
    tree = None
    if worst <= search.goal:
        tree, centre = search.tree(lower, upper, boxes)
        if centre is not None:
            worst, query = float(search.odds(centre)), centre
    proposal = replace(proposal, observed=1 / (1 + exp(min(worst, MAX_EXPONENT))))
    decided = proposal
    if worst > search.goal:
        decided = certificate.settled(proposal, {"query": query.tolist()})
    elif tree is not None:
        decided = certificate.settled(proposal, None, evidence={"tree": tree})
    return certificate.where_conclusive([decided], proposal, folder)


@dataclass
class _Search:
    """The search in float64; its results count only once the checker has accepted them."""

    keys: Tensor
    inside: Tensor
    goal: float

    def odds(self, query: Tensor) -> Tensor:
        """Logarithm of the weight outside the window divided by the weight inside."""
        scores = query @ self.keys.mT
        return scores[..., ~self.inside].logsumexp(-1) - scores[..., self.inside].logsumexp(-1)

    def attack(self, lower: Tensor, upper: Tensor) -> tuple[float, Tensor]:
        """The query with the largest odds that projected gradient steps from a few points find.

        Steps shrink where they fail.
        """
        shares = torch.tensor([0.5, 0.25, 0.75, 0.05, 0.95], dtype=lower.dtype)
        query = lower + shares.unsqueeze(-1) * (upper - lower)
        odds, step = self.odds(query), torch.ones(len(query), 1, dtype=query.dtype)
        width = (upper - lower).max()
        for _ in range(MAX_CLIMBS):
            moving = query.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.odds(moving).sum(), moving)
            size = gradient.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(query.dtype).tiny)
            moved = torch.clamp(query + step * width * gradient / size, lower, upper)
            there = self.odds(moved)
            better = (there > odds).unsqueeze(-1)
            query, step = torch.where(better, moved, query), torch.where(better, step, step / 2)
            odds = torch.maximum(there, odds)
        best = int(odds.argmax())
        return float(self.odds(query[best])), query[best]

    def tree(
        self, lower: Tensor, upper: Tensor, boxes: int
    ) -> tuple[dict[str, Any] | None, Tensor | None]:
        """A tree of splits in whose leaves the claim holds, or None; and a query that breaks it."""
        root: dict[str, Any] = {}
        waiting = [(root, lower, upper)]
        for _ in range(boxes):
            if not waiting:
                return root, None
            node, low, high = waiting.pop()
            share, logs, bound = self.leaf(low, high)
            centre = (low + high) / 2
            if float(self.odds(centre)) > self.goal:
                return None, centre
            # within rounding of the goal the checker decides, by intervals
            if bound <= self.goal and (bound < self.goal - 1e-9 or bool((low == high).all())):
                node.update(
                    p=[certificate.written(p) for p in share],
                    log_p=[certificate.written(x) for x in logs],
                )
                continue
            axis = self._axis(low, high)
            middle = (low[axis] + high[axis]) / 2
            node.update(axis=axis, low={}, high={})
            at = torch.arange(len(low)) == axis
            waiting.append((node["low"], low, torch.where(at, middle, high)))
            waiting.append((node["high"], torch.where(at, middle, low), high))
        return (root if not waiting else None), None

    def leaf(self, lower: Tensor, upper: Tensor) -> tuple[list[Fraction], list[float], float]:
        """Dyadic probabilities on the window, upper bounds of their logarithms, and the bound."""
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        scores = self.keys @ centre
        counts = (scores[self.inside].softmax(0) * DYADIC).long()
        counts[counts.argmax()] += DYADIC - counts.sum()
        share = [Fraction(int(count), DYADIC) for count in counts]
        logs = [log(p) + 1e-12 if 0 < p < 1 else 0.0 for p in share]
        weights = torch.tensor([float(p) for p in share], dtype=torch.float64)
        mean = weights @ self.keys[self.inside]
        base = mean @ centre - sum(float(p) * x for p, x in zip(share, logs, strict=True))
        outside = self.keys[~self.inside]
        reach = (outside - mean).abs() @ radius
        bound = float((scores[~self.inside] + reach - base).logsumexp(0))
        return share, logs, bound

    def _axis(self, lower: Tensor, upper: Tensor) -> int:
        centre = (lower + upper) / 2
        scores = self.keys @ centre
        near = scores[self.inside].softmax(0) @ self.keys[self.inside]
        far = scores[~self.inside].softmax(0) @ self.keys[~self.inside]
        spread = scores[~self.inside].softmax(0) @ (self.keys[~self.inside] - near).abs()
        return int(((upper - lower) * torch.maximum((far - near).abs(), spread)).argmax())
