"""The adapters that read a module at its boundary: the only list."""

from dsf.inspection import (
    gated_delta,
    kimi_delta,
    lfm,
    mamba,
    mamba2,
    minimax,
    recurrent_gemma,
    rwkv,
    torch_attention,
    torch_cells,
    torch_rnn,
    xlstm,
    zamba,
)
from dsf.inspection.adapter import Adapter

ADAPTERS: tuple[Adapter, ...] = (
    mamba.ADAPTER,
    zamba.ADAPTER,
    mamba2.ADAPTER,
    gated_delta.ADAPTER,
    kimi_delta.ADAPTER,
    recurrent_gemma.ADAPTER,
    rwkv.ADAPTER,
    xlstm.ADAPTER,
    minimax.ADAPTER,
    lfm.ADAPTER,
    torch_rnn.ADAPTER,
    torch_cells.ADAPTER,
    torch_attention.ADAPTER,
)
