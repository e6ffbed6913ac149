"""Queries that normalised linear attention cannot tell apart, as exact fractions."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from dsf.certificates.certificate import Certificate, Verdict
from dsf.certificates.exact import fractions_of
from dsf.certificates.issuing import Proposal, hexed, issued

FeatureMap = Literal["identity", "relu", "elu_plus_one"]


def linear_injective(
    key: Float[Tensor, "tokens key"],
    *,
    feature_map: FeatureMap,
    row: int | None = None,
    folder: Path | None = None,
) -> Certificate:
    """Decide whether normalised linear attention tells all queries apart: it does not.

    A row depends on the features of its query up to a positive factor only, so two queries whose
    features are proportional share it: ``2 q`` for the identity and ReLU, ``2 q + 1`` for elu + 1
    with ``q >= 0``. The witness is such a pair as fractions, checked exactly. UNKNOWN only if no
    tried query has a denominator other than zero.

    Args:
        key: the keys of one head.
        feature_map: ``identity``, ``relu`` or ``elu_plus_one``.
        row: the row the witness is about; the last by default.

    Source: InLine attention, arXiv:2412.06590; the pairs are derived.

    Raises:
        ValueError: for a feature map without a known collision.
    """
    known = ("identity", "relu", "elu_plus_one")
    if feature_map not in known:
        raise ValueError(
            f"linear_injective: collisions are known for {', '.join(known)}, not for "
            f"'{feature_map}'. With more features than dimensions there need not be one."
        )
    chosen = key.shape[0] - 1 if row is None else row
    proposal = Proposal(
        name="linear_injective",
        verdict=Verdict.UNKNOWN,
        tensors={"key": key},
        method="two queries with proportional features",
        parameters={"feature_map": feature_map},
        limits={"tried": "unit vectors and the sum of the keys"},
    )
    if not bool(key.isfinite().all()):
        return issued(proposal, folder)
    query = _query(key[: chosen + 1], feature_map)
    if query is None:
        return issued(proposal, folder)
    other = [2 * part + 1 if feature_map == "elu_plus_one" else 2 * part for part in query]
    witness = {
        "row": chosen,
        "query": [hexed(part) for part in query],
        "other": [hexed(part) for part in other],
    }
    refuted = replace(proposal, verdict=Verdict.REFUTED, witness=witness, limits={})
    return issued(refuted, folder)


def _query(key: Tensor, feature_map: FeatureMap) -> list[Fraction] | None:
    """A query whose weights have a denominator."""
    width = key.shape[-1]
    if feature_map == "elu_plus_one":
        return [Fraction(1, 2)] * width
    rows = [fractions_of(part) for part in key]
    if feature_map == "relu":
        rows = [[max(part, Fraction(0)) for part in row] for row in rows]
    sums = [sum(column, Fraction(0)) for column in zip(*rows, strict=True)]
    lead = next((k for k, value in enumerate(sums) if value), None)
    if lead is None:
        return None
    return [Fraction(int(k == lead)) for k in range(width)]
