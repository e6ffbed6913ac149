"""Which rows of a trained softmax attention are confused: those that read one token alone?

Softmax is one-to-one in theory, but a row with nearly all weight on one token hardly moves any more
with its query.
"""

from jaxtyping import Float
from torch import Tensor

from dsf import attention_map
from dsf.measures import confusions
from papers.in_line.experiments.digits.vision import VisionTransformer

PEAK = 0.9
"""A row with a weight of at least this much is peaked."""


def confusions_of_peaked_rows(
    model: VisionTransformer, images: Float[Tensor, "batch time 1"]
) -> dict[str, float]:
    """Share of peaked rows, and confused pairs of an image: all of them, and between peaked rows.

    Means over the images, all blocks and heads together; the absolute threshold of ``reading``.
    """
    rows = peaked_rows = pairs = between_peaked = 0
    for block, x in model.entered(images):
        weights = attention_map(block.mixer(x).system()).flatten(0, 1)
        for map, query in zip(weights, block.query(x).flatten(0, 1), strict=True):
            peaked = map.amax(dim=-1) >= PEAK
            rows += len(peaked)
            peaked_rows += int(peaked.sum())
            pairs += confusions(map, query)
            if peaked.any():
                between_peaked += confusions(map[peaked], query[peaked])
    return {
        "peaked_rows": peaked_rows / rows,
        "confusions": pairs / len(images),
        "between_peaked_rows": between_peaked / len(images),
    }
