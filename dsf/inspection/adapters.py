"""The adapters that read a module at its boundary: the only list, and which one reads what."""

from collections.abc import Sequence

from torch import nn

from dsf.inspection import (
    fla_delta,
    fla_linear,
    gated_delta,
    kimi_delta,
    lfm,
    lfm_vision,
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
from dsf.inspection.adapter import Adapter, class_path
from dsf.inspection.installed import installed

Known = dict[str, tuple[Adapter, str]]

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
    fla_linear.ADAPTER,
    fla_delta.ADAPTER,
    lfm_vision.ADAPTER,
    torch_rnn.ADAPTER,
    torch_cells.ADAPTER,
    torch_attention.ADAPTER,
)


def known_modules(model: nn.Module, given: Sequence[Adapter] = ()) -> Known:
    """Where the modules sit that an adapter reads at their boundary, with it and the family.

    The class nearest to a module's own decides; for one class ``given`` come first, then the
    adapters of installed packages, then ours.

    Raises:
        TypeError: if ``given`` holds something else.
        InspectionError: if an installed package brings an adapter that is broken.
    """
    if not isinstance(given, Sequence) or not all(isinstance(one, Adapter) for one in given):
        raise TypeError(
            f"adapters: must be a tuple of dsf.inspection.Adapter, but it is {given!r}. A single "
            "one is passed as adapters=(MINE,)."
        )
    of_class: Known = {}
    for adapter in (*given, *installed(), *ADAPTERS):
        for path, family in adapter.families.items():
            of_class.setdefault(path, (adapter, family))
    found = {}
    for name, module in model.named_modules():
        paths = [class_path(cls) for cls in type(module).__mro__]
        nearest = next((path for path in paths if path in of_class), None)
        if nearest is not None:
            found[name] = of_class[nearest]
    return found
