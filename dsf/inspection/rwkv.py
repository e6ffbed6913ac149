"""RWKV-4's time mixing: projections of each token blended with the one before, then the scan.

output = output(σ(receptance) ⊙ scan)

Padding is ignored. The library rescales ``output`` at its first forward in evaluation mode, so the
weights belong to the run they are read in.
"""

from torch import Tensor
from torch.nn.functional import pad

from dsf.inspection.adapter import Adapter
from dsf.inspection.captured import Captured
from dsf.mixers import RWKV4


def read(layer: Captured) -> RWKV4:
    """The scan this layer ran."""
    return RWKV4(
        key=_projected(layer, "key"),
        value=_projected(layer, "value"),
        log_decay=-layer.weights["time_decay"].exp(),
        bonus=layer.weights["time_first"],
    )


def finish(layer: Captured, mixed: Tensor) -> Tensor:
    """Gate, then project."""
    gate = _projected(layer, "receptance").sigmoid()
    return layer.project("output", gate * mixed.squeeze((-2, -1)).mT)


def _projected(layer: Captured, name: str) -> Tensor:
    hidden, blend = layer.arguments["hidden"], layer.weights[f"time_mix_{name}"]
    earlier = pad(hidden, (0, 0, 1, -1))
    return layer.project(name, blend * hidden + (1 - blend) * earlier)


ADAPTER = Adapter(
    families={"transformers.models.rwkv.modeling_rwkv.RwkvSelfAttention": "rwkv"},
    read=read,
    finish=finish,
    axes=("sample", "channel"),
)
