"""The adapters that read a module at its boundary: the only list."""

from dsf.inspection import (
    gated_delta,
    mamba,
    mamba2,
    torch_attention,
    torch_cells,
    torch_rnn,
    zamba,
)
from dsf.inspection.adapter import Adapter

ADAPTERS: tuple[Adapter, ...] = (
    mamba.ADAPTER,
    zamba.ADAPTER,
    mamba2.ADAPTER,
    gated_delta.ADAPTER,
    torch_rnn.ADAPTER,
    torch_cells.ADAPTER,
    torch_attention.ADAPTER,
)
