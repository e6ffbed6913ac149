"""The stored weights behind softmax attention with rotary positions and plain projections."""

from collections.abc import Mapping
from typing import Any

import torch

from dsf.certificates import StoredLayer
from dsf.inspection.errors import InspectionError


def stored_rotary_attention(module: Any, arguments: Mapping[str, Any], head: int) -> StoredLayer:
    """One head of a module whose queries and keys are rotated projections of its input.

    Raises:
        InspectionError: if the module has other parts.
    """
    query: Any = getattr(module, "q_proj", None)
    key: Any = getattr(module, "k_proj", None)
    angles = arguments.get("position_embeddings")
    plain = all(getattr(each, "bias", ...) is None for each in (query, key))
    if angles is None or not plain or any(hasattr(module, n) for n in ("q_norm", "k_norm")):
        raise InspectionError(
            f"{type(module).__name__}: a stored layer of softmax attention needs projections "
            "'q_proj' and 'k_proj' without bias and norm, and rotary positions. "
            "certify.nonnegative(layer.map()) speaks of the formed map."
        )
    shared = module.num_key_value_groups
    queries, keys = (
        each.weight.detach().unflatten(0, (-1, module.head_dim)) for each in (query, key)
    )
    cos, sin = (part[0].detach() for part in angles)
    return StoredLayer(
        "softmax_attention",
        {
            "cos": cos,
            "input": arguments["hidden_states"][0].detach(),
            "key_weight": keys[head // shared],
            "query_weight": queries[head],
            "scale": torch.tensor([module.scaling], dtype=torch.float64),
            "sin": sin,
        },
    )
