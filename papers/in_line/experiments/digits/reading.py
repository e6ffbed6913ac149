"""What the attention maps of a model show on some images: locality and confusions."""

from jaxtyping import Float, Shaped
from torch import Tensor

from dsf import attention_map
from dsf.measures import confusions, neighbourhood_mass
from papers.in_line.experiments.digits.digits import GRID
from papers.in_line.experiments.digits.neighbours import within
from papers.in_line.experiments.digits.vision import VisionTransformer

RELATIVE = 0.02
"""Rows count as equal within this share of their root-mean-square distance to the mean row."""


def locality(
    model: VisionTransformer, images: Float[Tensor, "batch time 1"]
) -> dict[str, list[float]]:
    """Weight on the 3 x 3 neighbourhood of each query, one number a block.

    ``interior``: share of the absolute weight, mean over the queries whose nine neighbours exist.
    ``edge_aware``: the same over all queries. ``signed``: the sum of the weights themselves, over
    the queries of ``interior``; another number only where weights are negative.
    """
    near = within(1)
    inside = near.sum(dim=-1) == near.sum(dim=-1).max()
    curves: dict[str, list[float]] = {"interior": [], "edge_aware": [], "signed": []}
    for block, x in model.entered(images):
        map = attention_map(block.mixer(x).system())
        share = neighbourhood_mass(map, grid=GRID)
        signed = (map * near).sum(dim=-1)
        curves["interior"].append(share[..., inside].mean().item())
        curves["edge_aware"].append(share.mean().item())
        curves["signed"].append(signed[..., inside].mean().item())
    return curves


def confusions_per_image(
    model: VisionTransformer, images: Float[Tensor, "batch time 1"]
) -> dict[str, list[int]]:
    """Pairs of different queries with equal rows, over all blocks and heads, one number an image.

    Rows are equal within 0.001 (``absolute``) or within ``RELATIVE`` of how far rows lie from
    their mean (``relative``); queries differ from 0.01.
    """
    totals = {"absolute": [0] * len(images), "relative": [0] * len(images)}
    for block, x in model.entered(images):
        weights = attention_map(block.mixer(x).system())
        for image, heads in enumerate(zip(weights, block.query(x), strict=True)):
            totals["absolute"][image] += _over_heads(*heads, weights_within=1e-3, relative=False)
            totals["relative"][image] += _over_heads(*heads, weights_within=RELATIVE, relative=True)
    return totals


def _over_heads(
    weights: Shaped[Tensor, "head queries tokens"],
    query: Shaped[Tensor, "head queries key"],
    **thresholds: float,
) -> int:
    pairs = zip(weights, query, strict=True)
    return sum(confusions(rows, each, **thresholds) for rows, each in pairs)


def weight_spread(model: VisionTransformer, images: Float[Tensor, "batch time 1"]) -> list[float]:
    """Root-mean-square distance of a row to the mean row of its map, one number a block.

    How flat the maps are: where it is far below 0.001, the absolute threshold counts every pair.
    """
    spreads = []
    for block, x in model.entered(images):
        rows = attention_map(block.mixer(x).system())
        away = rows - rows.mean(dim=-2, keepdim=True)
        spreads.append(away.square().sum(dim=-1).mean().sqrt().item())
    return spreads
