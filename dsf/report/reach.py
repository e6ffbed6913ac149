"""Which cells of a map are zero by structure, whatever the coefficients say."""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from dsf.composite import ExplicitMap, Operator, SystemSum
from dsf.evaluate import Rows
from dsf.ingredients.softmax_rows import SoftmaxRows


def masked(operator: Operator, rows: Rows) -> Bool[np.ndarray, "maps rows columns"]:
    """Cells that no coefficient could fill: ahead in a causal map, or hidden by a mask."""
    lag = rows.lag
    hidden = torch.zeros_like(lag, dtype=torch.bool)
    if isinstance(operator, SystemSum):
        ways = {part.runs_backward for part in operator}
        if len(ways) == 1:
            hidden = _beyond(lag, backward=ways.pop())
    elif not isinstance(operator, ExplicitMap):
        hidden = _beyond(lag, backward=operator.runs_backward)
    source = operator.rows if isinstance(operator, ExplicitMap) else getattr(operator, "C", None)
    if isinstance(source, SoftmaxRows):
        if source.causal:
            hidden = hidden | _beyond(lag, backward=False)
        if source.bias is not None:
            bias = source.bias[..., rows.written[0] : rows.written[-1] + 1, :]
            hidden = hidden | (bias == -torch.inf)
    maps = rows.weights.shape[:-2].numel()
    return hidden.expand(rows.weights.shape).reshape(maps, *lag.shape).numpy(force=True)


def _beyond(lag: Tensor, *, backward: bool) -> Tensor:
    return lag > 0 if backward else lag < 0
