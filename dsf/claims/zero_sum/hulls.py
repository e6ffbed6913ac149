"""Convex hulls of a few points: what lies inside, and a direction that shows what does not."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog


@dataclass(frozen=True)
class Separation:
    """A direction along which a target may lie beyond every point of a hull.

    Attributes:
        direction: entries between -1 and 1.
        target: the target along it.
        largest: the largest of the points along it.
    """

    direction: list[float]
    target: float
    largest: float

    @property
    def margin(self) -> float:
        """Above 0 exactly when the target is outside, up to rounding."""
        return self.target - self.largest


def separation(
    points: Float[np.ndarray, "points width"], target: Float[np.ndarray, " width"]
) -> Separation:
    """The direction in which the target is furthest ahead of the hull of ``points``."""
    width = points.shape[1]
    ahead = np.hstack([points, -np.ones((len(points), 1))])
    found = linprog(
        np.append(-target, 1.0),
        A_ub=ahead,
        b_ub=np.zeros(len(points)),
        bounds=[(-1, 1)] * width + [(None, None)],
    )
    direction = found.x[:-1]
    return Separation(
        [float(part) for part in direction],
        float(target @ direction),
        float((points @ direction).max()),
    )


def farthest(
    points: Float[np.ndarray, "points width"], direction: Float[np.ndarray, " width"]
) -> float:
    """The largest multiple of ``direction`` in the hull; ``nan`` if none is."""
    equations = np.vstack([np.hstack([points.T, -direction[:, None]]), np.ones(len(points) + 1)])
    equations[-1, -1] = 0.0
    found = linprog(
        np.append(np.zeros(len(points)), -1.0),
        A_eq=equations,
        b_eq=np.append(np.zeros(len(direction)), 1.0),
        bounds=[(0, None)] * len(points) + [(None, None)],
    )
    return float(-found.fun) if found.success else float("nan")
