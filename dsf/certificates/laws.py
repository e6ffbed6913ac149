"""Laws that are measured on stated cases: which one holds, and the case that breaks it."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.certificates.certificate import Certificate, Level, Verdict

Case = tuple[Mapping[str, Any], Callable[[], float]]
"""What is measured, in words, and the measurement."""


@dataclass(frozen=True)
class Law:
    """What must hold of ``owner`` in every case.

    Attributes:
        owner: whose law it is.
        name: a word for it.
        sentence: what it says.
        figure: the limit of what is measured.
        from_below: whether the figure is the least that is wanted, instead of the most.
    """

    owner: str
    name: str
    sentence: str
    figure: float
    from_below: bool = False

    def judged(self, cases: Iterable[Case], *, method: str) -> Certificate:
        """HOLDS_NUMERICALLY if every case keeps within the figure; else the worst is the witness.

        A case that raises breaks the law, as does one that measures no number. Without a case
        nothing is known.
        """
        worst: float | None = None
        where: Mapping[str, Any] = {}
        for label, measure in cases:
            try:
                measured = self._without_nan(measure())
            except Exception as error:  # the subject's own code
                raised = f"{type(error).__name__}: {error}"
                return self._certified(Verdict.REFUTED, method, None, {**label, "error": raised})
            if worst is None or self._is_worse(measured, worst):
                worst, where = measured, label
        if worst is None:
            return self._certified(Verdict.UNKNOWN, method, None)
        if self._is_worse(worst, self.figure):
            return self._certified(Verdict.REFUTED, method, worst, where)
        return self._certified(Verdict.HOLDS_NUMERICALLY, method, worst)

    def _is_worse(self, one: float, other: float) -> bool:
        return one < other if self.from_below else one > other

    def _without_nan(self, figure: float) -> float:
        if not math.isnan(figure):
            return figure
        return -math.inf if self.from_below else math.inf

    def _certified(
        self,
        verdict: Verdict,
        method: str,
        observed: float | None,
        where: Mapping[str, Any] | None = None,
    ) -> Certificate:
        refuted = verdict is Verdict.REFUTED
        return Certificate(
            claim=f"{self.owner}, {self.name}: {self.sentence}",
            verdict=verdict,
            level=Level.FLOAT,
            method=method,
            bound=self.figure,
            observed=observed,
            witness={"law": self.name, **(where or {}), "figure": observed} if refuted else None,
            limits={"reason": "no case"} if verdict is Verdict.UNKNOWN else {},
        )


def as_expected(
    owner: str, found: Mapping[str, Certificate], expected: Mapping[str, str]
) -> tuple[Certificate, ...]:
    """The certificates by law, those of laws that were to fail with the reason.

    Raises:
        ValueError: if such a law holds, or there is none of its name.
    """
    for law, reason in expected.items():
        if law not in found:
            raise ValueError(
                f"expected_failures: there is no law '{law}'; there are {', '.join(found)}."
            )
        if found[law].verdict is not Verdict.REFUTED:
            raise ValueError(
                f"expected_failures: {owner} was to break '{law}' ({reason}), but the verdict is "
                f"{found[law].verdict.value}. Take it out of expected_failures."
            )
    return tuple(
        replace(one, limits={"expected": expected[law]}) if law in expected else one
        for law, one in found.items()
    )


def difference(one: Shaped[Tensor, "*ours"], other: Shaped[Tensor, "*theirs"]) -> float:
    """Largest difference over the largest number of ``other``; infinite if the shapes differ."""
    if one.shape != other.shape:
        return math.inf
    if other.numel() == 0:
        return 0.0
    largest = other.abs().max().item()
    apart = (one - other).abs().max().item()
    return float(apart / largest if largest > 0 else apart)


def bent(part: Shaped[Tensor, "*axes"], rng: torch.Generator) -> Shaped[Tensor, "*axes"]:
    """``part`` with every entry a little smaller and none zero; signs stay, and decays decay."""
    spread = torch.rand(part.shape, generator=rng, dtype=torch.float64).to(part.device)
    smaller = part * (0.99 - 0.1 * spread).to(part.real.dtype)
    return torch.where(part == 0, (0.01 + 0.1 * spread).to(part.dtype), smaller)
