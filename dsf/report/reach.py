"""Which cells of a map are zero by structure, whatever the coefficients say."""

import numpy as np
import torch
from jaxtyping import Bool

from dsf.composite import ExplicitMap, Operator, SystemSum
from dsf.evaluate import Rows
from dsf.ingredients.softmax_rows import SoftmaxRows


def masked(operator: Operator, rows: Rows) -> Bool[np.ndarray, "maps rows columns"]:
    """Cells that no coefficient could fill: ahead in a causal map, or hidden by a mask."""
    hidden = torch.zeros(rows.lag.shape, dtype=torch.bool, device=rows.lag.device)
    if isinstance(operator, SystemSum):
        ways = {part.runs_backward for part in operator}
        if len(ways) == 1:
            hidden = _beyond(rows, backward=ways.pop())
    elif not isinstance(operator, ExplicitMap):
        hidden = _beyond(rows, backward=operator.runs_backward)
    source = operator.rows if isinstance(operator, ExplicitMap) else getattr(operator, "C", None)
    if isinstance(source, SoftmaxRows):
        if source.causal:
            hidden = hidden | _beyond(rows, backward=False)
        if source.bias is not None:
            bias = source.bias[..., rows.written[0] : rows.written[-1] + 1, :]
            hidden = hidden | (bias == -torch.inf)
    maps = rows.weights.shape[:-2].numel()
    return hidden.expand(rows.weights.shape).reshape(maps, *rows.lag.shape).numpy(force=True)


def _beyond(rows: Rows, *, backward: bool) -> torch.Tensor:
    return rows.lag > 0 if backward else rows.lag < 0
